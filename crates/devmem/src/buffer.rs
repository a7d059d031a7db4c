//! Buffers that one `recvmsg` writes to, and the segments in them, checked and in stream order.

use crate::cmsg::{self, CmsgError, DmabufCmsg, Message, Messages, Unknown};
use crate::sys::{self, Filled};

/// Default length of the iov in bytes. It caps what one `recvmsg` returns, although frags take no
/// room in it; pages of the iov that no byte in host memory reaches are never touched.
const DEFAULT_IOV: usize = 1 << 20;
/// Default number of frags that one `recvmsg` may describe.
const DEFAULT_FRAGS: usize = 1024;
/// Number of unknown control messages of one `recvmsg` that are kept for a closer look; all are
/// counted.
const MAX_UNKNOWN: usize = 8;

/// The kernel's answer to a `recvmsg` is inconsistent. The connection can't go on: which bytes of
/// the stream are where is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The control messages of a `recvmsg` are malformed.
    #[error(transparent)]
    Cmsg(#[from] CmsgError),
    /// `recvmsg` returned more bytes or control bytes than there was room for.
    #[error(
        "recvmsg returned {bytes} bytes and {control} control bytes, more than it had room for"
    )]
    Overrun {
        /// Return value of `recvmsg`: number of bytes of the stream.
        bytes: usize,
        /// Number of control bytes that `recvmsg` returned (`msg_controllen`).
        control: usize,
    },
    /// The control messages describe another number of bytes than `recvmsg` returned.
    #[error("recvmsg returned {returned} bytes, its control messages describe {described}")]
    Sum {
        /// Return value of `recvmsg`: number of bytes of the stream.
        returned: usize,
        /// Sum of the sizes of frags and linear bytes in the control messages.
        described: u64,
    },
}

/// Limit of what one `recvmsg` may return, where that is less than its buffer has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvLimit {
    /// Limit of the number of frags that one `recvmsg` may return; at least 1.
    pub frags: usize,
    /// Limit of the bytes of the stream that one `recvmsg` may return; at least 1.
    pub bytes: usize,
}

impl RecvLimit {
    /// No limit but the buffer's capacity.
    pub const NONE: Self = Self {
        frags: usize::MAX,
        bytes: usize::MAX,
    };
}

/// A segment as it is kept in the receive buffer after parsing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record {
    /// Number of bytes in host memory: the next of the iov.
    Inline(u32),
    /// A frag in a dmabuf.
    Frag(DmabufCmsg),
}

/// Sums over the segments of one `recvmsg`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) bytes: usize,
    pub(crate) frag_bytes: u64,
    pub(crate) frags: usize,
    pub(crate) linear_bytes: u64,
    pub(crate) unsteered_bytes: usize,
    pub(crate) unknown_cmsgs: usize,
    pub(crate) queued: Option<i32>,
}

/// The buffers of `recvmsg`: an iov for bytes that come in host memory, a control buffer for the
/// description of frags. The buffers are made once, and used for every call and by any number of
/// sockets in turn.
#[derive(Debug)]
pub struct RecvBuffer {
    iov: Box<[u8]>,
    control: Box<[u64]>,
    records: Vec<Record>,
    unknown: Vec<Unknown>,
}

impl RecvBuffer {
    /// Makes buffers with an iov of 1 MiB and room for 1,024 frags.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_IOV, DEFAULT_FRAGS)
    }

    /// Makes buffers with an iov of `iov` bytes, the most one call returns, and room for `frags`
    /// frags (at least 1 each).
    ///
    /// Ordinary data, that of connections not steered to a bound queue, fills the iov for real.
    pub fn with_capacity(iov: usize, frags: usize) -> Self {
        let frags = frags.max(1);
        let control = frags
            .saturating_mul(cmsg::SPACE)
            .saturating_add(cmsg::QUEUED_SPACE);
        let words = control.div_ceil(size_of::<u64>());
        Self {
            // Zeroed by the allocator: pages stay unmapped until something is written there.
            iov: vec![0; iov.max(1)].into_boxed_slice(),
            control: vec![0; words].into_boxed_slice(),
            records: Vec::with_capacity(frags + 1),
            unknown: Vec::with_capacity(MAX_UNKNOWN),
        }
    }

    /// The parts of the iov and of the control buffer that `recvmsg` may write to, for as much as
    /// `limit` allows.
    pub(crate) fn parts_mut(&mut self, limit: RecvLimit) -> (&mut [u8], &mut [u64]) {
        let control = limit
            .frags
            .max(1)
            .saturating_mul(cmsg::SPACE)
            .saturating_add(cmsg::QUEUED_SPACE);
        let words = control.div_ceil(size_of::<u64>()).min(self.control.len());
        let bytes = limit.bytes.clamp(1, self.iov.len());
        (&mut self.iov[..bytes], &mut self.control[..words])
    }

    /// The segments found by [`RecvBuffer::parse`], the iov's filled part they refer to, and unknown
    /// messages.
    pub(crate) fn parsed(&self) -> (&[u8], &[Record], &[Unknown]) {
        (&self.iov, &self.records, &self.unknown)
    }

    /// Parses what a `recvmsg` left in the buffers. All tokens found stand in the records
    /// afterwards, after an error too, for the caller to give back.
    pub(crate) fn parse(&mut self, filled: Filled) -> Result<Totals, ProtocolError> {
        self.records.clear();
        self.unknown.clear();
        let Filled { bytes, control } = filled;
        let overrun = ProtocolError::Overrun { bytes, control };
        let messages = sys::bytes(&self.control).get(..control).ok_or(overrun)?;
        let mut totals = Totals {
            bytes,
            ..Totals::default()
        };
        let mut messages = Messages::new(messages);
        loop {
            while let Some(frag) = messages.next_frag() {
                totals.frags += 1;
                totals.frag_bytes += u64::from(frag.frag_size);
                self.records.push(Record::Frag(frag));
            }
            let Some(message) = messages.next() else {
                break;
            };
            match message? {
                Message::Dmabuf(frag) => {
                    totals.frags += 1;
                    totals.frag_bytes += u64::from(frag.frag_size);
                    self.records.push(Record::Frag(frag));
                }
                Message::Linear(len) => {
                    totals.linear_bytes += u64::from(len);
                    self.records.push(Record::Inline(len));
                }
                Message::Queued(bytes) => totals.queued = Some(bytes),
                // Only an error queue has these.
                Message::Error(_) => totals.unknown_cmsgs += 1,
                Message::Unknown(unknown) => {
                    totals.unknown_cmsgs += 1;
                    if self.unknown.len() < MAX_UNKNOWN {
                        self.unknown.push(unknown);
                    }
                }
            }
        }
        self.check(totals, overrun)
    }

    /// Checks that the control messages describe all bytes that `recvmsg` returned, and counts
    /// bytes without a devmem message as ordinary data. One call never mixes ordinary and devmem
    /// packets (`last_copied_dmabuf` in `tcp_recvmsg_locked`).
    fn check(
        &mut self,
        mut totals: Totals,
        overrun: ProtocolError,
    ) -> Result<Totals, ProtocolError> {
        let returned = totals.bytes;
        let len = u32::try_from(returned)
            .ok()
            .filter(|_| returned <= self.iov.len());
        let len = len.ok_or(overrun)?;
        if self.records.is_empty() && returned > 0 {
            totals.unsteered_bytes = returned;
            self.records.push(Record::Inline(len));
            return Ok(totals);
        }
        let described = totals.frag_bytes + totals.linear_bytes;
        if described != returned as u64 {
            return Err(ProtocolError::Sum {
                returned,
                described,
            });
        }
        Ok(totals)
    }

    /// Fills the buffers as the kernel does in a `recvmsg` that returns `bytes`, for tests.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, bytes: usize, iov: &[u8], messages: &[Message]) -> Filled {
        let mut control = Vec::new();
        messages
            .iter()
            .for_each(|message| cmsg::encode(message, &mut control));
        self.iov[..iov.len()].copy_from_slice(iov);
        sys::bytes_mut(&mut self.control)[..control.len()].copy_from_slice(&control);
        Filled {
            bytes,
            control: control.len(),
        }
    }
}

impl Default for RecvBuffer {
    fn default() -> Self {
        Self::new()
    }
}
