//! What an engine is told, and what it reports.

use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::recycler::{RecycleError, Thresholds};
use crate::sink::SinkError;
use crate::stats::StreamStats;
use crate::stream::RecvError;

/// When an engine has done its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When so many connections have been accepted and have ended. No more are accepted.
    Peers(u32),
    /// When somebody calls [`StopHandle::stop`](super::StopHandle::stop).
    Stopped,
}

/// How an [`Engine`](super::Engine) receives.
#[derive(Debug, Clone)]
pub struct Config {
    /// When to end: with the first peer, unless said otherwise.
    pub until: Until,
    /// Bytes of the iov: the most that one `recvmsg` returns. 1 MiB.
    pub iov: usize,
    /// Frags that one `recvmsg` may return. 1,024.
    pub frags: usize,
    /// When tokens go back while data flows.
    pub thresholds: Thresholds,
    /// How long a token given back may wait for others. 2 ms, in steps of a millisecond.
    pub hold: Duration,
    /// Bytes that a busy connection lets gather before it wakes the loop (`SO_RCVLOWAT`); 0 has each
    /// packet wake it. 1 MiB, of which the kernel takes at most half of the receive buffer.
    pub gather: usize,
    /// How long fewer bytes than that may wait. 2 ms, in steps of a millisecond.
    pub patience: Duration,
    /// Calls of `recvmsg` that a connection gets before the others have their turn. 16.
    pub budget: u32,
    /// Ends a connection on which ordinary packets arrive: not steered to a bound queue, or not
    /// split at all.
    pub refuse_unsteered: bool,
    /// Ends a connection on which linear bytes arrive: devmem packets not wholly split.
    pub refuse_linear: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            until: Until::Peers(1),
            iov: 1 << 20,
            frags: 1024,
            thresholds: Thresholds::default(),
            hold: Duration::from_millis(2),
            gather: 1 << 20,
            patience: Duration::from_millis(2),
            budget: 16,
            refuse_unsteered: false,
            refuse_linear: false,
        }
    }
}

impl Config {
    /// For a dmabuf of `len` bytes that so many connections share: no more is left to gather than a
    /// small part of what their receive buffers hold
    /// ([`recv_buffer_for`](crate::listen::recv_buffer_for)), of which the packets' niovs take more
    /// than the bytes in them.
    pub fn for_pool(len: u64, connections: u32) -> Self {
        let share = len / 32 / u64::from(connections.max(1));
        let default = Self::default();
        Self {
            gather: default
                .gather
                .min(usize::try_from(share).unwrap_or(usize::MAX)),
            ..default
        }
    }
}

/// A connection that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its number in order of arrival, from 0.
    pub index: usize,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Nothing could be received any more: a reset by the peer, for one.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// The sink took no more, or could not be made.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Tokens could not be given back.
    #[error(transparent)]
    Recycle(#[from] RecycleError),
    /// Tokens were dropped by the sink, or not freed by the kernel: frags that the NIC lacked till
    /// the socket was closed.
    #[error("{0} tokens were not given back")]
    Outstanding(u64),
    /// Ordinary packets, with [`Config::refuse_unsteered`].
    #[error(
        "{bytes} bytes at {offset} of the stream came in ordinary packets: not steered to a bound \
         queue, or not split"
    )]
    Unsteered {
        /// Where in the stream.
        offset: u64,
        /// Bytes of this `recvmsg`.
        bytes: usize,
    },
    /// Linear bytes, with [`Config::refuse_linear`].
    #[error(
        "{bytes} bytes, at {offset} of the stream or after, came in host memory: not wholly split"
    )]
    Linear {
        /// Where in the stream the `recvmsg` began that held them.
        offset: u64,
        /// Linear bytes of this `recvmsg`.
        bytes: u64,
    },
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The peer closed its side, all bytes went to the sink and all tokens back to the kernel.
    Closed,
    /// The engine was stopped meanwhile.
    Stopped,
    /// It failed; the tokens went back as far as the kernel took them.
    Failed(ConnectionError),
}

/// The outcome of one connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S> {
    /// Who it was.
    pub peer: Peer,
    /// What was received, and the account of its tokens.
    pub stats: StreamStats,
    /// How it ended.
    pub end: End,
    /// The sink that took its segments; none if it could not be made.
    pub sink: Option<S>,
}

/// What an engine counted.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The sum over all streams.
    pub stream: StreamStats,
    /// Calls of `epoll_wait`.
    pub epoll_waits: u64,
    /// Connections accepted.
    pub connections: u64,
    /// When the first bytes were received, to the wake-up.
    pub first_byte: Option<Instant>,
    /// When the last bytes had been received and consumed, to the wake-up.
    pub last_byte: Option<Instant>,
}

impl Stats {
    /// From the first byte to the last.
    pub fn elapsed(&self) -> Duration {
        match (self.first_byte, self.last_byte) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }

    /// Bytes a second over [`Stats::elapsed`]; 0 where that is no time.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed().as_secs_f64();
        if seconds > 0.0 {
            self.stream.bytes as f64 / seconds
        } else {
            0.0
        }
    }
}

impl AddAssign<StreamStats> for Stats {
    fn add_assign(&mut self, stream: StreamStats) {
        self.stream += stream;
    }
}

/// What an engine did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<S> {
    /// The sums.
    pub stats: Stats,
    /// Each connection, in order of arrival.
    pub connections: Vec<Connection<S>>,
}

/// Why an engine could not go on. Its connections were closed and their tokens given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// epoll, eventfd, or the registration of a socket.
    #[error("{0}")]
    Poll(&'static str, #[source] io::Error),
    /// The listening socket.
    #[error("accept a connection")]
    Accept(#[source] io::Error),
}
