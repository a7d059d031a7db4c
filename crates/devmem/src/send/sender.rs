//! Sender of ranges of a dmabuf, with many sends in flight.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Protocol, SockRef, Type};

use crate::DmabufId;
use crate::cmsg::{ExtendedError, Message, Messages};
use crate::sys::{self, OffsetVec};

use super::error::{CompletionError, SendError};
use super::flight::{InFlight, InFlightRanges};

/// Greatest number of ranges that one `sendmsg` takes: `UIO_MAXIOV`.
pub const MAX_RANGES: usize = libc::UIO_MAXIOV as usize;

/// `SO_EE_ORIGIN_ZEROCOPY` of `include/uapi/linux/errqueue.h`.
const ZEROCOPY: u8 = 5;
/// `SO_EE_CODE_ZEROCOPY_COPIED` of `include/uapi/linux/errqueue.h`.
const COPIED: u8 = 1;

/// Condition that [`DevmemSender::wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The socket takes more bytes, or a send is completed.
    Room,
    /// A send is completed.
    Completion,
}

/// Counters of a sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendStats {
    /// Number of bytes that the socket took.
    pub bytes: u64,
    /// Number of calls of `sendmsg` that took any bytes.
    pub sends: u64,
    /// Number of sends that were completed.
    pub completed: u64,
    /// Number of completed sends whose bytes the kernel copied (`SO_EE_CODE_ZEROCOPY_COPIED`).
    pub copied: u64,
    /// Number of completions in the error queue: each covers a range of sends.
    pub notifications: u64,
    /// Greatest number of sends that were in flight at once.
    pub max_in_flight: u64,
    /// Greatest number of bytes that were in flight at once.
    pub max_bytes_in_flight: u64,
}

/// A connected TCP socket of any type that sends from one dmabuf, with the list of sends in flight.
/// Nobody else may send on the socket with `MSG_ZEROCOPY`: the kernel numbers all such sends of a
/// socket alike. No call sleeps but [`wait`](Self::wait) and [`drain`](Self::drain), whether the
/// socket blocks or not.
///
/// The dmabuf's binding must stay until the last byte is accepted by the kernel, and the content of
/// a range until its send is completed: bytes are sent again when a packet is lost.
#[derive(Debug)]
pub struct DevmemSender<S: AsFd> {
    socket: S,
    dmabuf: DmabufId,
    len: u64,
    pub(super) in_flight: InFlight,
    /// Vectors for the next `sendmsg`, kept for their capacity.
    vectors: Vec<OffsetVec>,
    stats: SendStats,
}

impl<S: AsFd> DevmemSender<S> {
    /// Makes a sender from a connected socket (`SO_ZEROCOPY` is set), the id that `bind-tx`
    /// returned, and the dmabuf's length in bytes.
    ///
    /// The kernel reads the offsets of a send as addresses of this process where it does not know
    /// that they are offsets: on a socket of another protocol, which ignores the control message; in
    /// the first segment of TCP fast open, before there is a connection; and for dmabuf 0, which
    /// stands for none. Small addresses are not mapped in most programs, but in one that is not
    /// position-independent they are its code and data, which the peer would be sent. So all
    /// three are refused here.
    ///
    /// # Errors
    /// Those of `setsockopt`: `EOPNOTSUPP` for a socket other than TCP, `ENOTCONN` before it is
    /// connected, or the error that its connection ended with, `EINVAL` for dmabuf 0.
    pub fn new(socket: S, dmabuf: DmabufId, len: u64) -> io::Result<Self> {
        if dmabuf.get() == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let options = SockRef::from(&socket);
        if options.protocol()? != Some(Protocol::TCP) || options.r#type()? != Type::STREAM {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        if let Err(error) = options.peer_addr() {
            return Err(options.take_error()?.unwrap_or(error));
        }
        sys::set_zerocopy(socket.as_fd())?;
        Ok(Self {
            socket,
            dmabuf,
            len,
            in_flight: InFlight::default(),
            vectors: Vec::new(),
            stats: SendStats::default(),
        })
    }

    /// Sends byte `ranges` of the dmabuf, one after the other, by one `sendmsg`. Returns the bytes
    /// that the socket took, which may be fewer: at most [`MAX_RANGES`] ranges, and no more than
    /// its send buffer has room for. Empty ranges don't count. The bytes taken must not be
    /// overwritten until [`completions`](Self::completions) returns them.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was taken.
    pub fn send(&mut self, ranges: &[Range<u64>]) -> Result<u64, SendError> {
        self.vectors.clear();
        for range in ranges {
            if self.vectors.len() == MAX_RANGES {
                break;
            }
            let part = usize::try_from(range.start).ok();
            let part = part.zip(range.end.checked_sub(range.start));
            let Some((offset, len)) = part.filter(|_| range.end <= self.len) else {
                return Err(SendError::OutOfBounds {
                    range: range.clone(),
                    len: self.len,
                });
            };
            // The kernel makes a frag of no bytes of an empty one (`zerocopy_fill_skb_from_devmem`).
            if len == 0 {
                continue;
            }
            // It fits: the offset, which is larger or as large as a dmabuf can be, did.
            let len = len as usize;
            self.vectors.push(OffsetVec { offset, len });
        }
        if self.vectors.is_empty() {
            return Ok(0);
        }
        let taken = loop {
            match sys::sendmsg(self.socket.as_fd(), self.dmabuf.get(), &self.vectors) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.refused(error)),
                Ok(taken) => break taken as u64,
            }
        };
        if taken > 0 {
            self.in_flight.sent(ranges, taken);
            let stats = &mut self.stats;
            stats.bytes += taken;
            stats.sends += 1;
            stats.max_in_flight = stats.max_in_flight.max(self.in_flight.len() as u64);
            stats.max_bytes_in_flight = stats.max_bytes_in_flight.max(self.in_flight.bytes());
        }
        Ok(taken)
    }

    fn refused(&self, source: io::Error) -> SendError {
        let dmabuf = self.dmabuf;
        match source.raw_os_error() {
            Some(libc::EAGAIN) => SendError::WouldBlock,
            Some(libc::ENOBUFS) => SendError::TooManyInFlight(self.in_flight.ranges()),
            Some(libc::ENODEV) => SendError::OtherDevice { dmabuf, source },
            Some(libc::EINVAL) => SendError::NotBound { dmabuf, source },
            _ => self.failed(source),
        }
    }

    fn failed(&self, source: io::Error) -> SendError {
        SendError::Io {
            in_flight: self.in_flight.ranges(),
            source,
        }
    }

    /// Reads the error queue to its end and returns how many bytes are no longer in flight: bytes
    /// of the oldest sends, in the order in which they were sent. A send that is completed before
    /// an older one counts when that is completed, too.
    ///
    /// # Errors
    /// [`SendError::Completion`], [`SendError::Io`].
    pub fn completions(&mut self) -> Result<u64, SendError> {
        while self.completion()? {}
        Ok(self.in_flight.take_back())
    }

    /// Reads one entry of the error queue; false if there is none.
    fn completion(&mut self) -> Result<bool, SendError> {
        // A completion takes 64 bytes, with the room for an offender's address. More is there in
        // case that other options are set on the socket.
        let mut control = [0; 64];
        let entry = sys::error_queue(self.socket.as_fd(), &mut control);
        let Some((len, cut)) = entry.map_err(|error| self.failed(error))? else {
            return Ok(false);
        };
        if cut {
            return Err(CompletionError::Truncated.into());
        }
        for message in Messages::new(sys::bytes(&control).get(..len).unwrap_or_default()) {
            match message.map_err(CompletionError::from)? {
                Message::Error(error) if error.origin == ZEROCOPY => {
                    self.completed(&error)?;
                }
                other => tracing::debug!(?other, "on the error queue"),
            }
        }
        Ok(true)
    }

    fn completed(&mut self, error: &ExtendedError) -> Result<(), CompletionError> {
        let (first, last, errno) = (error.info, error.data, error.errno);
        if errno != 0 {
            return Err(CompletionError::Errno { first, last, errno });
        }
        let sends = u64::from(self.in_flight.completed(first, last)?);
        tracing::trace!(first, last, copied = error.code & COPIED != 0, "completed");
        self.stats.notifications += 1;
        self.stats.completed += sends;
        if error.code & COPIED != 0 {
            self.stats.copied += sends;
        }
        Ok(())
    }

    /// Sleeps until the condition `what` holds, at most `within`. Then [`send`](Self::send) more,
    /// or read the [`completions`](Self::completions).
    ///
    /// # Errors
    /// [`SendError::Deadline`], and [`SendError::Io`] for an error of the connection.
    pub fn wait(&self, what: Until, within: Duration) -> Result<(), SendError> {
        let events = match what {
            Until::Room => PollFlags::POLLOUT,
            Until::Completion => PollFlags::empty(), // POLLERR always counts
        };
        let end = Instant::now().checked_add(within);
        loop {
            let left = time_left(end);
            // Rounded up: a rest of less than a millisecond is not to be spun away.
            let left = PollTimeout::try_from(left.saturating_add(Duration::from_micros(999)));
            let mut fd = [PollFd::new(self.socket.as_fd(), events)];
            match poll(&mut fd, left.unwrap_or(PollTimeout::MAX)) {
                Ok(0) if !time_left(end).is_zero() => {}
                Ok(0) => {
                    return Err(SendError::Deadline {
                        within,
                        in_flight: self.in_flight.ranges(),
                    });
                }
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno.into())),
            }
        }
    }

    /// Waits until a send was completed and returns the number of bytes that are no longer in
    /// flight; 0 if a younger send than the oldest was completed.
    pub(super) fn wait_for_completion(&mut self, within: Duration) -> Result<u64, SendError> {
        let before = self.stats.notifications;
        let end = Instant::now().checked_add(within);
        loop {
            self.wait(Until::Completion, time_left(end))
                .map_err(with_whole_limit(within))?;
            // One entry covers all sends that were completed since the last: there is seldom a second,
            // and if there is, the next poll says so.
            self.completion()?;
            if self.stats.notifications > before {
                return Ok(self.in_flight.take_back());
            }
            // POLLERR without an entry: the connection's own error.
            match SockRef::from(&self.socket).take_error() {
                Ok(Some(error)) | Err(error) => return Err(self.failed(error)),
                Ok(None) => {}
            }
            // POLLHUP: the connection is over, and poll does not sleep any more; who still has
            // packets of it completes them when he frees them.
            if time_left(end).is_zero() {
                let in_flight = self.in_flight.ranges();
                return Err(SendError::Deadline { within, in_flight });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until no send is in flight; an error if no send is completed for as long as `within`.
    ///
    /// # Errors
    /// [`SendError::Deadline`] names what is still in flight; [`SendError::Io`],
    /// [`SendError::Completion`].
    pub fn drain(&mut self, within: Duration) -> Result<(), SendError> {
        let mut end = Instant::now().checked_add(within);
        while self.in_flight.len() > 0 {
            let completed = self.stats.completed;
            self.wait_for_completion(time_left(end))
                .map_err(with_whole_limit(within))?;
            if self.stats.completed > completed {
                end = Instant::now().checked_add(within);
            }
        }
        Ok(())
    }

    /// Byte ranges of the dmabuf that must not be overwritten yet.
    pub fn in_flight(&self) -> InFlightRanges {
        self.in_flight.ranges()
    }

    /// Whether any byte of `range` is still in flight.
    pub fn is_in_flight(&self, range: &Range<u64>) -> bool {
        self.in_flight.overlaps(range)
    }

    /// Length of the dmabuf in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the kernel makes no empty dmabuf"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Counters of the sender.
    pub fn stats(&self) -> SendStats {
        self.stats
    }

    /// The socket that the sender uses.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket that the sender uses, to register it for readiness: writable means room, an error
    /// means completions.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Returns the socket. Bytes in flight are not tracked any more: the kernel still reads them.
    pub fn into_socket(self) -> S {
        self.socket
    }
}

/// Time left until `end`; `Duration::MAX` without an end.
fn time_left(end: Option<Instant>) -> Duration {
    let left = |end: Instant| end.saturating_duration_since(Instant::now());
    end.map_or(Duration::MAX, left)
}

/// Makes a deadline's error name the whole time limit, instead of what was left of it for the last
/// wait.
pub(super) fn with_whole_limit(within: Duration) -> impl Fn(SendError) -> SendError {
    move |error| match error {
        SendError::Deadline { in_flight, .. } => SendError::Deadline { within, in_flight },
        other => other,
    }
}

#[cfg(test)]
mod tests;
