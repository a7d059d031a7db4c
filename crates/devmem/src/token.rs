//! Tokens: the kernel's numbers for frags that user space has.

use crate::cmsg::DmabufCmsg;

/// The kernel's token of a frag, which must be given back: to
/// [`Received::give_back`](crate::Received::give_back) or
/// [`DevmemStream::give_back`](crate::DevmemStream::give_back) of the stream that issued it. A
/// token that is dropped instead keeps its niov from the NIC until the socket is closed, and stays
/// in [`TokenStats::outstanding`](crate::TokenStats::outstanding).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a token that does not go back is memory that the NIC lacks"]
pub struct Token {
    id: u32,
    len: u32,
    pub(crate) stream: StreamTag,
}

/// Mark that tells the tokens of one stream from those of all other streams in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamTag(pub(crate) u32);

impl Token {
    pub(crate) fn new(frag: &DmabufCmsg, stream: StreamTag) -> Self {
        Self {
            id: frag.frag_token,
            len: frag.frag_size,
            stream,
        }
    }

    /// The kernel's number of the token, and the number of bytes in its frag.
    pub(crate) fn into_parts(self) -> (u32, u32) {
        (self.id, self.len)
    }

    /// Panics if the token is of another stream: the kernel keeps tokens by socket, and on another
    /// socket the same number frees another frag.
    #[inline]
    pub(crate) fn check(&self, stream: StreamTag) {
        assert!(
            self.stream == stream,
            "a token was given back to another stream than its own"
        );
    }
}

/// A range of consecutive tokens: `struct dmabuf_token`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenRange {
    /// Number of the first token.
    pub(crate) start: u32,
    /// Number of tokens, at least 1.
    pub(crate) count: u32,
}
