//! Counters of tokens and of streams.

use std::ops::AddAssign;

/// The account of a socket's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenStats {
    /// Tokens that the kernel issued, one a frag.
    pub issued: u64,
    /// Frags that the kernel was asked to free.
    pub asked: u64,
    /// Frags that it said it freed.
    pub freed: u64,
    /// Calls of `SO_DEVMEM_DONTNEED` that were answered.
    pub calls: u64,
    /// Ranges in those calls.
    pub ranges: u64,
}

impl TokenStats {
    /// Tokens issued and not freed: frags that the NIC lacks.
    pub fn outstanding(&self) -> u64 {
        self.issued.saturating_sub(self.freed)
    }
}

/// The account of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Bytes of the stream: frag, linear and unsteered bytes together.
    pub bytes: u64,
    /// Bytes that came in frags, through the dmabuf.
    pub frag_bytes: u64,
    /// Frags.
    pub frags: u64,
    /// Bytes of devmem packets that came in host memory (`SCM_DEVMEM_LINEAR`).
    pub linear_bytes: u64,
    /// Bytes of ordinary packets: not steered to a bound queue, or not split at all.
    pub unsteered_bytes: u64,
    /// Control messages that were none of devmem's.
    pub unknown_cmsgs: u64,
    /// Calls of `recvmsg`, those that would have blocked included.
    pub recvmsg_calls: u64,
    /// The account of the tokens.
    pub tokens: TokenStats,
}

impl AddAssign for TokenStats {
    fn add_assign(&mut self, other: Self) {
        self.issued += other.issued;
        self.asked += other.asked;
        self.freed += other.freed;
        self.calls += other.calls;
        self.ranges += other.ranges;
    }
}

impl AddAssign for StreamStats {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.frag_bytes += other.frag_bytes;
        self.frags += other.frags;
        self.linear_bytes += other.linear_bytes;
        self.unsteered_bytes += other.unsteered_bytes;
        self.unknown_cmsgs += other.unknown_cmsgs;
        self.recvmsg_calls += other.recvmsg_calls;
        self.tokens += other.tokens;
    }
}
