//! Errors of sending.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::flight::{InFlightRanges, UnknownCompletion};
use crate::DmabufId;
use crate::cmsg::CmsgError;

/// Why bytes were not sent, or a send was not completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The socket's send buffer is full: [`DevmemSender::wait`](super::DevmemSender::wait) for [`Until::Room`](super::Until::Room).
    #[error("no room to send now")]
    WouldBlock,
    /// `ENOBUFS` (`msg_zerocopy_alloc`, `sock_omalloc`): the socket's share of
    /// `net.core.optmem_max` is taken by sends in flight. Wait for [`Until::Completion`](super::Until::Completion).
    #[error("sendmsg: no memory to keep account of one more send ({0})")]
    TooManyInFlight(InFlightRanges),
    /// A range to send is outside of the dmabuf; nothing was sent.
    #[error("bytes {} to {} lie outside a dmabuf of {len} bytes", range.start, range.end)]
    OutOfBounds {
        /// Byte range in the dmabuf that was to be sent.
        range: Range<u64>,
        /// Length of the dmabuf in bytes.
        len: u64,
    },
    /// `ENODEV` (`net_devmem_get_binding`): the connection leaves by another device than the one
    /// that the dmabuf is bound to.
    #[error("sendmsg from {dmabuf}: the connection leaves by another device than its own")]
    OtherDevice {
        /// Id of the dmabuf that was to be sent from.
        dmabuf: DmabufId,
        /// Error of `sendmsg`.
        #[source]
        source: io::Error,
    },
    /// `EINVAL` (`tcp_sendmsg_locked`, `net_devmem_get_binding`): no binding has the dmabuf's id,
    /// or it is a binding for receiving.
    #[error("sendmsg from {dmabuf}: it is not bound for sending")]
    NotBound {
        /// Id of the dmabuf that was to be sent from.
        dmabuf: DmabufId,
        /// Error of `sendmsg`.
        #[source]
        source: io::Error,
    },
    /// The time limit passed without progress. The kernel still reads the ranges in flight.
    #[error("no progress within {} s; {in_flight}", within.as_secs_f32())]
    Deadline {
        /// Time limit of the wait.
        within: Duration,
        /// Ranges that must not be overwritten yet.
        in_flight: InFlightRanges,
    },
    /// The socket's error queue has an entry that can't be parsed or assigned.
    #[error("completion")]
    Completion(#[from] CompletionError),
    /// Another error of the socket: a reset connection, a route that is gone.
    #[error("send ({in_flight})")]
    Io {
        /// Byte ranges that were not acknowledged by the peer.
        in_flight: InFlightRanges,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
}

/// Defect of an entry of the socket's error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompletionError {
    /// The entry's control bytes are malformed.
    #[error(transparent)]
    Cmsg(#[from] CmsgError),
    /// The error queue's entry was cut short: it is larger than any known.
    #[error("control messages cut short (MSG_CTRUNC)")]
    Truncated,
    /// The completion has an error number.
    #[error("sends {first} to {last} failed: errno {errno}")]
    Errno {
        /// Number of the first completed send.
        first: u32,
        /// Number of the last completed send.
        last: u32,
        /// Error number of the completion (`ee_errno`).
        errno: u32,
    },
    /// The completion is of sends that this sender never made: another program sends on the socket,
    /// too.
    #[error(transparent)]
    Unknown(#[from] UnknownCompletion),
}
