//! Counters of tokens and of streams.

use std::ops::AddAssign;

/// Counters of a socket's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenStats {
    /// Number of tokens that the kernel issued, one for each frag.
    pub issued: u64,
    /// Number of frags that the kernel was asked to free.
    pub asked: u64,
    /// Number of frags that the kernel said it freed.
    pub freed: u64,
    /// Number of calls of `SO_DEVMEM_DONTNEED` that succeeded.
    pub calls: u64,
    /// Number of token ranges in the calls of `SO_DEVMEM_DONTNEED`.
    pub ranges: u64,
}

impl TokenStats {
    /// Number of tokens issued and not freed: frags that the NIC lacks.
    pub fn outstanding(&self) -> u64 {
        self.issued.saturating_sub(self.freed)
    }
}

/// Counters of a received stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Number of bytes of the stream: frag, linear and unsteered bytes together.
    pub bytes: u64,
    /// Number of bytes that came in frags, in the dmabuf.
    pub frag_bytes: u64,
    /// Number of frags received.
    pub frags: u64,
    /// Number of bytes of devmem packets that came in host memory (`SCM_DEVMEM_LINEAR`).
    pub linear_bytes: u64,
    /// Number of bytes in ordinary packets: not steered to a bound queue, or not split at all.
    pub unsteered_bytes: u64,
    /// Number of control messages of kinds that are not devmem's.
    pub unknown_cmsgs: u64,
    /// Number of calls of `recvmsg`, including those that found nothing to read.
    pub recvmsg_calls: u64,
    /// Counters of the stream's tokens.
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
