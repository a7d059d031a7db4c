//! Engine configuration.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::recycler::Thresholds;

/// Condition on which an engine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// End after this number of connections were accepted and have ended. No more are accepted.
    Peers(u32),
    /// End when a program calls [`StopHandle::stop`](super::StopHandle::stop).
    Stopped,
}

/// Whether another connection may be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Free,
    /// Not until one of the open connections has ended.
    Full,
    /// No more are wanted.
    Enough,
}

impl Config {
    /// Room for a connection where `accepted` have been accepted so far and `open` of them are open.
    pub(super) fn room(&self, accepted: usize, open: usize) -> Room {
        match (self.until, self.open) {
            (Until::Peers(peers), _) if accepted >= peers as usize => Room::Enough,
            (_, Some(limit)) if open >= limit.max(1) as usize => Room::Full,
            _ => Room::Free,
        }
    }
}

/// TCP keepalive: when a silent peer is asked whether it is still there (`tcp_keepalive_timer`).
/// Times are whole seconds from 1 to 32,767 (`MAX_TCP_KEEPIDLE`); others are clamped. Probes that
/// this system can't send, as without a link, don't count: only [`Config::idle_timeout`] notices
/// that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "SO_KEEPALIVE")]
pub struct Keepalive {
    /// Time of silence before the first keepalive probe. Default: 30 s.
    #[doc(alias = "TCP_KEEPIDLE")]
    pub idle: Duration,
    /// Time between keepalive probes. Default: 10 s.
    #[doc(alias = "TCP_KEEPINTVL")]
    pub interval: Duration,
    /// Number of keepalive probes without an answer that end the connection with `ETIMEDOUT`: 1 to
    /// 127. Default: 3.
    #[doc(alias = "TCP_KEEPCNT")]
    pub probes: u32,
}

impl Default for Keepalive {
    /// Keepalive that notices after a minute that a peer is gone.
    fn default() -> Self {
        Self::after(Duration::from_secs(30))
    }
}

impl Keepalive {
    /// Keepalive that probes the peer after `idle` of silence, and gives up after as long again, to
    /// the second, but 3 s at least.
    pub fn after(idle: Duration) -> Self {
        Self {
            idle,
            interval: Duration::from_secs(idle.as_secs().div_ceil(3)),
            probes: 3,
        }
    }

    /// Sets TCP keepalive on a socket.
    pub(super) fn set_on(&self, socket: impl AsFd) -> io::Result<()> {
        const SECOND: Duration = Duration::from_secs(1);
        let seconds = |time: Duration| time.clamp(SECOND, 32_767 * SECOND);
        let parameters = TcpKeepalive::new()
            .with_time(seconds(self.idle))
            .with_interval(seconds(self.interval))
            .with_retries(self.probes.clamp(1, 127));
        SockRef::from(&socket).set_tcp_keepalive(&parameters)
    }
}

/// Configuration of an [`Engine`](super::Engine): limits and timeouts of receiving.
#[derive(Debug, Clone)]
pub struct Config {
    /// Condition on which the engine ends. Default: when the first peer has closed.
    pub until: Until,
    /// Connections that are open at a time. Those beyond wait for others to end, unaccepted, as far as the
    /// listeners' backlog holds them. No limit, unless said otherwise.
    pub open: Option<u32>,
    /// Keepalive of every connection. Without keepalive a peer that vanished is waited for without
    /// end.
    pub keepalive: Option<Keepalive>,
    /// How long a connection may bring nothing, while the engine would read it, before it ends with
    /// [`ConnectionError::Silent`](super::ConnectionError::Silent). No limit, unless said
    /// otherwise.
    pub idle_timeout: Option<Duration>,
    /// The only address that connections are accepted from; an IPv4 address and the IPv6 address
    /// that maps it are one. Connections from elsewhere are reset, counted and named in the
    /// [`Report`](super::Report).
    pub from: Option<IpAddr>,
    /// Size of the iov in bytes: the most that one `recvmsg` returns. Default: 2 MiB.
    pub iov: usize,
    /// Number of frags that one `recvmsg` may return. Default: 1,024.
    pub frags: usize,
    /// Number of tokens of one connection, or of bytes in their frags, at which tokens go back to
    /// the kernel while data flows.
    pub thresholds: Thresholds,
    /// How long a token that a sink gave back may wait for others before it goes to the kernel.
    /// Default: 2 ms, in steps of a millisecond.
    pub hold: Duration,
    /// Number of frags that all connections together may hold back for later calls of
    /// `SO_DEVMEM_DONTNEED`; beyond it, those go back that wait longest. Default: 2,048.
    pub held: u32,
    /// Limit of the frags that a sink may keep of one connection. A connection beyond the limit is
    /// not read until some came back, so that the NIC has niovs for other connections; nor does a
    /// call bring more than is left of the limit, where the sink is known to keep frags. Default:
    /// 1,024 frags or 4 MiB.
    pub keep: Thresholds,
    /// How long a connection may wait for a sink that keeps too many frags ([`Config::keep`]),
    /// before it ends: a second at least. Default: without limit; a warning names it after a
    /// second.
    pub stalled: Option<Duration>,
    /// How long a connection that has ended waits for frags that its sink keeps. Default: 5 s.
    pub returns: Duration,
    /// Time for which the engine polls the NIC before each sleep (`EPIOCSPARAMS`, from Linux 6.9
    /// on), at the price of a processor. Default: no polling.
    pub busy_poll: Option<Duration>,
    /// Bytes that a busy connection lets gather before it wakes the loop (`SO_RCVLOWAT`); 0 has
    /// each packet wake it. Default: 2 MiB, of which the kernel takes at most half of the receive
    /// buffer. Less than 8 KiB, by the limit in frags too, is not worth a wait and taken for 0.
    pub gather: usize,
    /// Limit of gathering in frags, by the mean size of the frags so far: a frag takes a whole
    /// niov, however few its bytes are. Default: 4,096.
    pub gather_frags: u32,
    /// How long fewer bytes than [`Config::gather`] may wait. Default: 2 ms, in steps of a
    /// millisecond; four times as long for a connection that was found to bring bytes steadily, but
    /// slowly. A peer that waits for answers is delayed by rare tries only; requests that by
    /// themselves take as long as twice that time, or longer, may take up to twice as long. 0 turns
    /// gathering off.
    pub patience: Duration,
    /// Number of calls of `recvmsg` that a connection gets before other connections have their
    /// turn. Default: 16.
    pub budget: u32,
    /// Whether to end a connection on which ordinary packets arrive: not steered to a bound queue,
    /// or not split at all.
    pub refuse_unsteered: bool,
    /// Whether to end a connection on which linear bytes arrive: devmem packets not wholly split.
    pub refuse_linear: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            until: Until::Peers(1),
            open: None,
            iov: 2 << 20,
            frags: 1024,
            thresholds: Thresholds::default(),
            hold: Duration::from_millis(2),
            held: 2048,
            keep: Thresholds {
                frags: 1024,
                bytes: 4 << 20,
            },
            keepalive: Some(Keepalive::default()),
            idle_timeout: None,
            from: None,
            stalled: None,
            returns: Duration::from_secs(5),
            busy_poll: None,
            gather: 2 << 20,
            gather_frags: 4096,
            patience: Duration::from_millis(2),
            budget: 16,
            refuse_unsteered: false,
            refuse_linear: false,
        }
    }
}

impl Config {
    /// Configuration for a dmabuf of `len` bytes, in niovs of this system's page size, shared by
    /// `connections` connections; see [`Config::for_pool_in`].
    pub fn for_pool(len: u64, connections: u32) -> Self {
        Self::for_pool_in(len, page_size(), connections)
    }

    /// Configuration for a dmabuf of `len` bytes, in niovs of `niov` bytes, shared by `connections`
    /// connections. What is left by the receive buffers
    /// ([`recv_buffer_for`](crate::listen::recv_buffer_for)) is shared out: a sixteenth to tokens
    /// held back, another to frags kept by sinks, the rest to the NIC's ring. No more is left to
    /// gather than a fifth of the niovs, which is less than two thirds of the windows. A sink may
    /// keep 8 frags of a connection even where that is more than its share, or one that waits for a
    /// whole header would wait for ever.
    ///
    /// Where connections have several dmabufs, each by the queue that it comes through, the smallest
    /// and all connections count: all may come through one queue.
    pub fn for_pool_in(len: u64, niov: u64, connections: u32) -> Self {
        let connections = u64::from(connections.max(1));
        let niovs = len / niov.max(1);
        let of_niovs = |part: u64| u32::try_from((niovs / part).max(1)).unwrap_or(u32::MAX);
        let default = Self::default();
        Self {
            gather_frags: default.gather_frags.min(of_niovs(5 * connections)),
            thresholds: Thresholds::for_pool(len, niov),
            held: default.held.min(of_niovs(16)),
            keep: Thresholds {
                frags: of_niovs(16 * connections).max(KEPT_AT_LEAST),
                bytes: (len / 16 / connections).max(u64::from(KEPT_AT_LEAST) * niov),
            },
            ..default
        }
    }

    /// Whether connections from this address are accepted ([`Config::from`]).
    pub(super) fn accepts(&self, peer: SocketAddr) -> bool {
        let from = self.from.as_ref().map(IpAddr::to_canonical);
        from.is_none_or(|from| from == peer.ip().to_canonical())
    }

    /// How long bytes may gather on a connection that is known to bring them steadily: a multiple
    /// of [`Config::patience`].
    pub(super) fn steady_patience(&self) -> Duration {
        self.patience
            .saturating_mul(super::gathering::STEADY_FACTOR)
    }
}

/// Number of frags that a sink may always keep of a connection.
const KEPT_AT_LEAST: u32 = 8;

/// Default size of a niov in bytes, where a binding asked for no larger one: `PAGE_SIZE` of this
/// system.
pub fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok());
    size.filter(|size| *size > 0).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A sink may keep enough frags for a header even if 1,024 connections share a dmabuf.
    #[test]
    fn a_sink_may_keep_enough_frags_for_a_header() {
        for connections in [1, 256, 683, 1024, 65_536] {
            let keep = Config::for_pool(64 * MIB, connections).keep;
            assert!(keep.frags >= 8 && keep.bytes >= 8 * 4096, "{keep:?}");
        }
        let keep = Config::for_pool_in(64 * MIB, 16 << 10, 1).keep;
        assert_eq!((keep.frags, keep.bytes), (256, 4 * MIB));
    }

    #[test]
    fn limits_follow_the_size_of_a_niov() {
        let [small, large] = [4096, 65_536].map(|niov| Config::for_pool_in(16 * MIB, niov, 4));
        assert_eq!((small.held, large.held), (256, 16));
        assert_eq!((small.gather_frags, large.gather_frags), (204, 12));
        assert!(page_size().is_power_of_two());
    }
}
