//! Tokens on their way back to the kernel: collected, coalesced into ranges, handed to
//! `SO_DEVMEM_DONTNEED` within the kernel's limits, and accounted for to the end.

use std::io;

use crate::returns::Returns;
use crate::stats::TokenStats;
use crate::token::{Token, TokenRange};

/// Greatest number of token ranges that one call of `SO_DEVMEM_DONTNEED` takes:
/// `MAX_DONTNEED_TOKENS` (`net/core/sock.c`); more are `EINVAL`.
pub const MAX_RANGES: usize = 128;
/// Greatest number of frags that one call of `SO_DEVMEM_DONTNEED` frees: `MAX_DONTNEED_FRAGS`. The
/// kernel stops there without saying where.
pub const MAX_FRAGS: u32 = 1024;

/// Limits of the tokens that a stream holds before it gives them back to the kernel. A frag held is
/// a niov that the NIC lacks, and late large batches overflow the page pool's ring: return early
/// and steadily.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Number of frags held at which all go back; 1 gives each back at once. Should be well below
    /// the number of niovs in the dmabuf.
    pub frags: u32,
    /// Number of bytes in held frags at which all go back.
    pub bytes: u64,
}

impl Default for Thresholds {
    /// The default thresholds: 256 frags or 1 MiB.
    fn default() -> Self {
        Self {
            frags: 256,
            bytes: 1 << 20,
        }
    }
}

impl Thresholds {
    /// Thresholds for a dmabuf of `len` bytes in niovs of `niov` bytes: the default, but never more
    /// than an eighth of the niovs.
    pub fn for_pool(len: u64, niov: u64) -> Self {
        let eighth = (len / niov.max(1) / 8).max(1);
        let default = Self::default();
        Self {
            frags: default.frags.min(u32::try_from(eighth).unwrap_or(u32::MAX)),
            ..default
        }
    }
}

/// Why tokens were not given back to the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecycleError {
    /// The kernel refused `SO_DEVMEM_DONTNEED`: it freed nothing, and the tokens are still held
    /// here.
    #[error("SO_DEVMEM_DONTNEED of {asked} frags in {ranges} ranges")]
    Refused {
        /// Number of frags to be freed.
        asked: u32,
        /// Number of token ranges in the call.
        ranges: usize,
        /// Error of `setsockopt`.
        #[source]
        source: io::Error,
    },
    /// The kernel freed another number of frags than it was asked to. The missing frags stay
    /// counted as outstanding; they are not asked for again, since which ones they are isn't known
    /// and a freed token's number may have been issued again.
    #[error("SO_DEVMEM_DONTNEED freed {freed} of {asked} frags")]
    Unequal {
        /// Number of frags to be freed.
        asked: u32,
        /// Number of frags that the kernel freed.
        freed: u32,
    },
}

/// Interface that frees ranges of tokens: a socket, or a test's model of one.
pub(crate) trait DontNeed {
    /// Frees the frags of `ranges` and returns their number.
    fn dontneed(&mut self, ranges: &[TokenRange]) -> io::Result<u32>;
}

impl DontNeed for std::os::fd::BorrowedFd<'_> {
    fn dontneed(&mut self, ranges: &[TokenRange]) -> io::Result<u32> {
        crate::sys::dontneed(*self, ranges)
    }
}

/// The tokens of one socket that have been given back by the program and not yet to the kernel.
///
/// The kernel issues the lowest free ids first, so that most tokens extend the range before them:
/// one comparison. The rest is sorted and merged when the batch goes.
#[derive(Debug)]
pub(crate) struct Recycler {
    ranges: Vec<TokenRange>,
    frags: u32,
    bytes: u64,
    /// Number of bytes in frags that were received and not given back: those that a sink keeps.
    kept_bytes: u64,
    thresholds: Thresholds,
    stats: TokenStats,
    pub(crate) returns: Returns,
}

/// Number of frags that were received and have not been given back, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Number of frags.
    pub frags: u64,
    /// Number of bytes in the frags.
    pub bytes: u64,
}

impl Recycler {
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        // In the worst case each token is a range; a batch may pass the threshold by the frags of
        // one recvmsg whose Received was dropped.
        let ranges = Vec::with_capacity(thresholds.frags.min(MAX_FRAGS) as usize);
        Self {
            ranges,
            frags: 0,
            bytes: 0,
            kept_bytes: 0,
            thresholds,
            stats: TokenStats::default(),
            returns: Returns::default(),
        }
    }

    /// Collects the tokens that were given back through a [`ReturnHandle`](super::ReturnHandle).
    #[inline]
    pub(crate) fn collect(&mut self) {
        if !self.returns.any() {
            return;
        }
        let mut returns = std::mem::take(&mut self.returns);
        returns.collect(|token| self.push(token));
        self.returns = returns;
    }

    pub(crate) fn stats(&self) -> &TokenStats {
        &self.stats
    }

    /// Number of frags held: given back by the program and not yet to the kernel.
    pub(crate) fn held(&self) -> u32 {
        self.frags
    }

    /// Number of frags that were received and not given back by the program.
    pub(crate) fn kept(&self) -> Kept {
        let TokenStats { issued, asked, .. } = self.stats;
        Kept {
            frags: issued.saturating_sub(asked + u64::from(self.frags)),
            bytes: self.kept_bytes,
        }
    }

    /// Counts `count` tokens that the kernel issued, for frags of `bytes` bytes together.
    pub(crate) fn issued(&mut self, count: usize, bytes: u64) {
        self.stats.issued += count as u64;
        self.kept_bytes += bytes;
    }

    #[inline]
    pub(crate) fn push(&mut self, token: Token) {
        let (id, len) = token.into_parts();
        self.frags += 1;
        self.bytes += u64::from(len);
        self.kept_bytes = self.kept_bytes.saturating_sub(u64::from(len));
        match self.ranges.last_mut() {
            Some(last) if last.start.checked_add(last.count) == Some(id) => last.count += 1,
            _ => self.ranges.push(TokenRange {
                start: id,
                count: 1,
            }),
        }
    }

    /// Whether enough tokens are held for a flush.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.frags >= self.thresholds.frags || self.bytes >= self.thresholds.bytes
    }

    /// Gives all held tokens back to the kernel, in as many calls as the kernel's limits require.
    /// After a refusal the rest stays held; after a call that freed another number of frags the
    /// flush goes on, and the first such answer is the error.
    pub(crate) fn flush(&mut self, kernel: &mut impl DontNeed) -> Result<(), RecycleError> {
        if self.ranges.len() > 1 {
            self.ranges.sort_unstable_by_key(|range| range.start);
            merge_touching_ranges(&mut self.ranges);
        }
        let mut unequal = None;
        let mut done = 0;
        while done < self.ranges.len() {
            let (batch, asked) = next_batch(&mut self.ranges, done);
            let freed = match kernel.dontneed(&self.ranges[done..batch]) {
                Ok(freed) => freed,
                Err(source) => {
                    let ranges = batch - done;
                    self.ranges.drain(..done);
                    return Err(RecycleError::Refused {
                        asked,
                        ranges,
                        source,
                    });
                }
            };
            self.stats.calls += 1;
            self.stats.ranges += (batch - done) as u64;
            self.stats.asked += u64::from(asked);
            self.stats.freed += u64::from(freed);
            self.frags -= asked;
            if freed != asked {
                unequal.get_or_insert(RecycleError::Unequal { asked, freed });
            }
            done = batch;
        }
        self.ranges.clear();
        self.bytes = 0;
        unequal.map_or(Ok(()), Err)
    }
}

/// Joins token ranges that touch. Ranges that overlap, which no kernel issues, stay apart: the
/// kernel then frees fewer than asked, and that is an error.
fn merge_touching_ranges(ranges: &mut Vec<TokenRange>) {
    ranges.dedup_by(|next, kept| {
        let touches = kept.start.checked_add(kept.count) == Some(next.start);
        if touches {
            kept.count += next.count;
        }
        touches
    });
}

/// Finds the token ranges for one call, which begin at index `from`: returns the index of their end
/// and the number of frags. A range that doesn't fit is split.
fn next_batch(ranges: &mut Vec<TokenRange>, from: usize) -> (usize, u32) {
    let mut frags = 0;
    let mut end = from;
    while end < ranges.len() && end - from < MAX_RANGES && frags < MAX_FRAGS {
        let room = MAX_FRAGS - frags;
        let TokenRange { start, count } = ranges[end];
        if count > room {
            ranges[end].count = room;
            ranges.insert(
                end + 1,
                TokenRange {
                    start: start + room,
                    count: count - room,
                },
            );
        }
        frags += ranges[end].count;
        end += 1;
    }
    (end, frags)
}

#[cfg(test)]
mod tests;
