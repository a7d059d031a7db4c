//! Results and errors of an engine.

use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use socket2::SockRef;

use crate::recycler::{Kept, RecycleError};
use crate::sink::SinkError;
use crate::stats::StreamStats;
use crate::stream::RecvError;
use crate::telemetry::Telemetry;

/// Peer of a connection that was accepted, and how the connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Number of the connection in order of arrival, from 0.
    pub index: usize,
    /// Remote address of the connection.
    pub address: SocketAddr,
    /// Local address of the connection.
    pub local: SocketAddr,
    /// NAPI instance, and so rx queue, of the connection's first packets (`SO_INCOMING_NAPI_ID`);
    /// `None` if that is not known, as behind a virtual device.
    pub napi_id: Option<u32>,
    /// Number of the thread that serves the connection, from 0.
    pub worker: usize,
}

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Receiving from the socket failed, for example by a reset.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// The peer sent nothing for [`Config::idle_timeout`](super::Config::idle_timeout).
    #[error("nothing came for {} s", waited.as_secs_f32())]
    Silent {
        /// How long the peer sent nothing.
        waited: Duration,
    },
    /// epoll took no more sockets (`epoll_ctl`: `ENOMEM`, or `ENOSPC` at `fs.epoll.max_user_watches`).
    #[error("wait for events of the connection")]
    Register(#[source] io::Error),
    /// The connection's sink failed, or could not be made.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Tokens could not be given back to the kernel.
    #[error(transparent)]
    Recycle(#[from] RecycleError),
    /// Number of tokens that were dropped by the sink, or not freed by the kernel: frags that the
    /// NIC lacked till the socket was closed.
    #[error("its sink did not give {0} frags back")]
    Outstanding(u64),
    /// The sink keeps more frags than [`Config::keep`](super::Config::keep), and gave nothing back
    /// for [`Config::stalled`](super::Config::stalled).
    #[error(
        "its sink keeps {} frags ({} bytes) and gives none back: nothing was received for {} s",
        kept.frags, kept.bytes, waited.as_secs_f32()
    )]
    Stalled {
        /// Frags that the sink keeps.
        kept: Kept,
        /// How long nothing was received.
        waited: Duration,
    },
    /// Ordinary packets arrived, which
    /// [`Config::refuse_unsteered`](super::Config::refuse_unsteered) forbids.
    #[error(
        "{bytes} bytes at {offset} of the stream came in ordinary packets: not steered to a bound \
         queue, or not split"
    )]
    Unsteered {
        /// Offset in the stream of the first byte in ordinary packets.
        offset: u64,
        /// Number of bytes that this `recvmsg` returned.
        bytes: usize,
    },
    /// Linear bytes arrived, which [`Config::refuse_linear`](super::Config::refuse_linear) forbids.
    #[error(
        "{bytes} bytes, at {offset} of the stream or after, came in host memory: not wholly split"
    )]
    Linear {
        /// Offset in the stream at which the `recvmsg` with linear bytes began.
        offset: u64,
        /// Number of linear bytes that this `recvmsg` returned.
        bytes: u64,
    },
}

impl ConnectionError {
    /// Whether the peer fell silent: nothing came for too long, or keepalive had no answer
    /// (`tcp_write_err`: `ETIMEDOUT`, or what ICMP said meanwhile).
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Recv(RecvError::Io(error)) => matches!(
                error.raw_os_error(),
                Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH)
            ),
            _ => false,
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The peer closed its side, all bytes went to the sink and all tokens back to the kernel.
    Closed,
    /// The engine was stopped before the connection ended.
    Stopped,
    /// The connection failed; its tokens were given back as far as the kernel took them.
    Failed(ConnectionError),
}

/// The outcome of one connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S> {
    /// Peer of the connection.
    pub peer: Peer,
    /// Counters of the payload and of its tokens.
    pub stats: StreamStats,
    /// Histograms of how the connection's payload was received.
    pub telemetry: Box<Telemetry>,
    /// How the connection ended.
    pub end: End,
    /// The sink that took the connection's segments; `None` if it could not be made.
    pub sink: Option<S>,
}

/// Counters of an engine, over all connections.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Sum of the counters of all streams.
    pub stream: StreamStats,
    /// Number of calls of `epoll_wait`.
    pub epoll_waits: u64,
    /// Number of connections accepted.
    pub connections: u64,
    /// Time of the wake-up in which the first bytes were received.
    pub first_byte: Option<Instant>,
    /// Time of the wake-up in which the last bytes were received and consumed.
    pub last_byte: Option<Instant>,
}

impl Stats {
    /// Time from the first byte received to the last.
    pub fn elapsed(&self) -> Duration {
        match (self.first_byte, self.last_byte) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }

    /// Rate of the payload in bytes a second, over [`Stats::elapsed`]; 0 where that is no time.
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

impl AddAssign for Stats {
    /// Adds the counters of another engine that ran at the same time.
    fn add_assign(&mut self, other: Self) {
        self.stream += other.stream;
        self.epoll_waits += other.epoll_waits;
        self.connections += other.connections;
        let first = [self.first_byte, other.first_byte];
        self.first_byte = first.into_iter().flatten().min();
        self.last_byte = self.last_byte.max(other.last_byte);
    }
}

/// Report of an engine that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<S> {
    /// Counters of the engine.
    pub stats: Stats,
    /// Histograms of how the payload was received, over all streams.
    pub telemetry: Telemetry,
    /// Outcome of each connection, in order of arrival.
    pub connections: Vec<Connection<S>>,
    /// Connections that were refused ([`Config::from`](super::Config::from)).
    pub strangers: Strangers,
}

/// Connections that were refused because of their address ([`Config::from`](super::Config::from)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Strangers {
    /// Number of refused connections.
    pub count: u64,
    /// Addresses of the first refused connections, at most 16.
    pub first: Vec<SocketAddr>,
}

impl Strangers {
    /// Resets a connection from a refused address, and counts it. A warning names only the first
    /// ones, so that a scan does not fill a log.
    pub(super) fn refuse(&mut self, socket: &TcpStream, address: SocketAddr) {
        self.count += 1;
        if self.first.len() < 16 {
            tracing::warn!(peer = %address, "refused: another address than the one expected");
            self.first.push(address);
        }
        reset_on_close(socket);
    }
}

/// Makes `close` reset a connection (`SO_LINGER` of 0 s).
pub(super) fn reset_on_close(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "SO_LINGER");
    }
}

impl<S> Report<S> {
    /// Sums up the reports of engines that ran at the same time.
    pub(super) fn sum(reports: Vec<Self>) -> Self {
        let mut sum = Self {
            stats: Stats::default(),
            telemetry: Telemetry::default(),
            connections: Vec::new(),
            strangers: Strangers::default(),
        };
        for report in reports {
            sum.stats += report.stats;
            sum.telemetry += &report.telemetry;
            sum.connections.extend(report.connections);
        }
        sum.connections
            .sort_unstable_by_key(|connection| connection.peer.index);
        sum
    }
}

/// Why an engine could not go on. Its connections were closed and their tokens given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// epoll, an eventfd, or the registration of a socket with epoll failed.
    #[error("{0}")]
    Poll(&'static str, #[source] io::Error),
    /// The kernel's epoll can't be told to poll NICs (`EPIOCSPARAMS`).
    #[error("have epoll poll the NIC")]
    BusyPoll(#[source] io::Error),
    /// The listening socket failed to accept.
    #[error("accept a connection")]
    Accept(#[source] io::Error),
    /// A worker thread could not be started.
    #[error("start a worker")]
    Spawn(#[source] io::Error),
    /// A worker thread could not be pinned to its processor.
    #[error("keep a worker to processor {0}")]
    Pin(usize, #[source] io::Error),
}

pub(super) fn at(operation: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |error| EngineError::Poll(operation, error)
}
