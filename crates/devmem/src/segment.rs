//! Segments of received payload, in stream order: bytes in host memory, frags in a dmabuf, and the
//! tokens that come with the frags.

use std::fmt;

use crate::buffer::{Record, RecvBuffer, Totals};
use crate::cmsg::Unknown;
use crate::recycler::Recycler;
use crate::returns::ReturnHandle;
use crate::token::{StreamTag, Token};

/// Id of a binding's dmabuf: the number that netlink's `bind-rx` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmabufId(u32);

impl DmabufId {
    /// Creates an id from the number that netlink returned.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The number that netlink returned.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl From<u32> for DmabufId {
    fn from(id: u32) -> Self {
        Self(id)
    }
}

impl fmt::Display for DmabufId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dmabuf {}", self.0)
    }
}

/// A frag: a part of the stream that lies in a dmabuf.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the token of a frag must go back"]
#[non_exhaustive]
pub struct Frag {
    /// Offset in bytes of the frag's first byte in the dmabuf.
    pub offset: u64,
    /// Length of the frag in bytes.
    pub len: u32,
    /// Id of the dmabuf that the frag lies in.
    pub dmabuf: DmabufId,
    /// Token by which the frag is given back.
    pub token: Token,
}

/// A part of the received stream: bytes in host memory, or a frag in a dmabuf.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a segment may be a frag, whose token must go back"]
pub enum Segment<'a> {
    /// Bytes that came in host memory: linear bytes of devmem packets (`SCM_DEVMEM_LINEAR`), or
    /// ordinary data if [`Received::unsteered`] is not 0.
    Inline(&'a [u8]),
    /// A frag in a dmabuf (`SCM_DEVMEM_DMABUF`).
    Frag(Frag),
}

/// Result of one `recvmsg`: an iterator over its segments in stream order. Frags that were not
/// taken out of the iterator are given back when it is dropped.
#[derive(Debug)]
#[must_use = "what is not iterated over is lost to the reader"]
pub struct Received<'a> {
    iov: &'a [u8],
    records: std::slice::Iter<'a, Record>,
    unknown: &'a [Unknown],
    totals: Totals,
    start: u64,
    stream: StreamTag,
    recycler: &'a mut Recycler,
}

impl<'a> Received<'a> {
    pub(crate) fn new(
        buffer: &'a RecvBuffer,
        totals: Totals,
        start: u64,
        stream: StreamTag,
        recycler: &'a mut Recycler,
    ) -> Self {
        let (iov, records, unknown) = buffer.parsed();
        Self {
            iov,
            records: records.iter(),
            unknown,
            totals,
            start,
            stream,
            recycler,
        }
    }

    /// Whether the peer has closed its side: then there are no segments, and none will follow.
    pub fn is_end(&self) -> bool {
        self.totals.bytes == 0
    }

    /// Number of bytes of the stream that `recvmsg` returned.
    pub fn bytes(&self) -> usize {
        self.totals.bytes
    }

    /// Offset in the stream of the first byte that `recvmsg` returned.
    pub fn stream_offset(&self) -> u64 {
        self.start
    }

    /// Number of frags that `recvmsg` returned.
    pub fn frags(&self) -> usize {
        self.totals.frags
    }

    /// Number of bytes in the frags that `recvmsg` returned.
    pub fn frag_bytes(&self) -> u64 {
        self.totals.frag_bytes
    }

    /// Number of bytes of devmem packets that came in host memory.
    pub fn linear_bytes(&self) -> u64 {
        self.totals.linear_bytes
    }

    /// Number of bytes in ordinary packets: packets that came by a queue that isn't bound, or by a
    /// bound queue but wholly in host memory, unsplit. The kernel tells no difference. Either 0 or
    /// [`Received::bytes`], since one call never mixes the two.
    pub fn unsteered(&self) -> usize {
        self.totals.unsteered_bytes
    }

    /// Whether `recvmsg` returned all the bytes that the socket had. Known only after a call of
    /// [`report_queued`](crate::DevmemStream::report_queued). The peer's close counts as something
    /// left, a reset or another error does not (`tcp_inq_hint`): a loop that waits for edges may
    /// stop here only if no event told of an error or a hang-up.
    pub fn is_drained(&self) -> bool {
        self.totals.queued == Some(0)
    }

    /// Control messages of unknown kinds, the first eight of them.
    pub fn unknown(&self) -> &'a [Unknown] {
        self.unknown
    }

    /// Gives a frag back. Its token reaches the kernel with the stream's next flush, not before
    /// this `Received` is gone.
    ///
    /// # Panics
    /// If the token was issued by another stream.
    #[inline]
    pub fn give_back(&mut self, token: Token) {
        token.check(self.stream);
        self.recycler.push(token);
    }

    /// Dmabuf and offset of the next segment, if the segment is a frag.
    #[inline]
    pub(crate) fn next_frag(&self) -> Option<(DmabufId, u64)> {
        match self.records.as_slice().first()? {
            Record::Frag(frag) => Some((DmabufId::new(frag.dmabuf_id), frag.frag_offset)),
            Record::Inline(_) => None,
        }
    }

    /// Handle that gives frags of this stream back later, or from another thread: for a sink that takes a frag out
    /// and keeps it.
    pub fn return_handle(&mut self) -> ReturnHandle {
        self.recycler.returns.handle(self.stream)
    }
}

impl<'a> Iterator for Received<'a> {
    type Item = Segment<'a>;

    #[inline]
    fn next(&mut self) -> Option<Segment<'a>> {
        Some(match self.records.next()? {
            Record::Inline(len) => {
                // `RecvBuffer::parse` has checked that all of them together fit the iov.
                let (bytes, rest) = self.iov.split_at(*len as usize);
                self.iov = rest;
                Segment::Inline(bytes)
            }
            Record::Frag(frag) => Segment::Frag(Frag {
                offset: frag.frag_offset,
                len: frag.frag_size,
                dmabuf: DmabufId::new(frag.dmabuf_id),
                token: Token::new(frag, self.stream),
            }),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl ExactSizeIterator for Received<'_> {}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        give_back_all(self.records.as_slice(), self.stream, self.recycler);
    }
}

/// Number of frags in `records`, and number of bytes in them.
pub(crate) fn frags_of(records: &[Record]) -> (usize, u64) {
    let sizes = records.iter().filter_map(|record| match record {
        Record::Frag(frag) => Some(u64::from(frag.frag_size)),
        Record::Inline(_) => None,
    });
    sizes.fold((0, 0), |(frags, bytes), size| (frags + 1, bytes + size))
}

/// Gives back every frag of `records` that was not taken out of the iterator.
pub(crate) fn give_back_all(records: &[Record], stream: StreamTag, recycler: &mut Recycler) {
    for record in records {
        if let Record::Frag(frag) = record {
            recycler.push(Token::new(frag, stream));
        }
    }
}

#[cfg(test)]
mod tests;
