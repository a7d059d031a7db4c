//! Errors of sending.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::flight::{InFlightRanges, UnknownCompletion};
use crate::DmabufId;
use crate::cmsg::CmsgError;

/// Why something was not sent, or not completed.
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
    /// A range is outside of the dmabuf; nothing was sent.
    #[error("bytes {} to {} lie outside a dmabuf of {len} bytes", range.start, range.end)]
    OutOfBounds {
        /// The range.
        range: Range<u64>,
        /// Bytes of the dmabuf.
        len: u64,
    },
    /// `ENODEV` (`net_devmem_get_binding`): the connection leaves by another device than the one
    /// that the dmabuf is bound to.
    #[error("sendmsg from {dmabuf}: the connection leaves by another device than its own")]
    OtherDevice {
        /// The dmabuf.
        dmabuf: DmabufId,
        /// Error of `sendmsg`.
        #[source]
        source: io::Error,
    },
    /// `EINVAL` (`tcp_sendmsg_locked`, `net_devmem_get_binding`): no such binding, or one for
    /// receiving.
    #[error("sendmsg from {dmabuf}: it is not bound for sending")]
    NotBound {
        /// The dmabuf.
        dmabuf: DmabufId,
        /// Error of `sendmsg`.
        #[source]
        source: io::Error,
    },
    /// The time limit passed without progress. The kernel still reads the ranges in flight.
    #[error("no progress within {} s; {in_flight}", within.as_secs_f32())]
    Deadline {
        /// How long it was waited for.
        within: Duration,
        /// Ranges that must not be overwritten yet.
        in_flight: InFlightRanges,
    },
    /// The error queue holds what can't be understood.
    #[error("completion")]
    Completion(#[from] CompletionError),
    /// Any other error: a connection reset, a route that is gone.
    #[error("send ({in_flight})")]
    Io {
        /// Ranges that were not acknowledged.
        in_flight: InFlightRanges,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
}

/// Defect of an entry of the error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompletionError {
    /// Bytes that are no control messages.
    #[error(transparent)]
    Cmsg(#[from] CmsgError),
    /// The entry was cut short: it is larger than any known.
    #[error("control messages cut short (MSG_CTRUNC)")]
    Truncated,
    /// A completion that says errno.
    #[error("sends {first} to {last} failed: errno {errno}")]
    Errno {
        /// The first send's number.
        first: u32,
        /// The last send's number.
        last: u32,
        /// `ee_errno`.
        errno: u32,
    },
    /// Sends that this sender never made: another program sends on the socket, too.
    #[error(transparent)]
    Unknown(#[from] UnknownCompletion),
}
