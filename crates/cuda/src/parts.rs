//! Division of a batch's pieces of payload into parts that keep a whole GPU busy.

use payload::{Batch, Descriptor};

/// Number of warps that a multiprocessor runs at once with the registers that the CUDA kernels
/// take.
const WARPS_PER_MULTIPROCESSOR: u64 = 32;
/// Number of parts of the payload for each warp: with fewer some warps are idle at the end, more
/// take longer to copy their descriptors to the GPU.
const PARTS_PER_WARP: u64 = 4;
/// Length in bytes that a warp works on at once: with less some of its threads are idle.
const SHORTEST_PART: u64 = 2 << 10;
/// Length in bytes above which longer parts of the payload save nothing.
const LONGEST_PART: u64 = 32 << 10;
/// Size of a GPU's cache line in bytes.
const CACHE_LINE: u64 = 128;

/// Length of parts in bytes with which all warps of a GPU have parts to work on.
pub(crate) fn part_len(bytes: u64, multiprocessors: u32) -> u64 {
    let warps = WARPS_PER_MULTIPROCESSOR * u64::from(multiprocessors.max(1));
    (bytes / (warps * PARTS_PER_WARP))
        .checked_next_power_of_two()
        .unwrap_or(LONGEST_PART)
        .clamp(SHORTEST_PART, LONGEST_PART)
}

/// Side of a piece, source or destination, on which parts begin at cache lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlignedSide {
    /// The piece's place in the source region.
    Source,
    /// The piece's place in the destination region.
    Destination,
}

/// An iterator over the pieces of a batch in their order, with pieces longer than a part divided.
pub(crate) struct Parts<'a> {
    pieces: std::slice::Iter<'a, Descriptor>,
    rest: Descriptor,
    longest: u64,
    side: AlignedSide,
    /// Whether no piece is longer than a part, so that none is divided.
    uncut: bool,
}

impl<'a> Parts<'a> {
    /// Divides a batch's pieces into parts of at most `longest` bytes, more than a cache line's.
    pub(crate) fn new(batch: &'a Batch, longest: u64, side: AlignedSide) -> Self {
        Self {
            pieces: batch.descriptors().iter(),
            rest: Descriptor::default(),
            longest,
            side,
            uncut: u64::from(batch.longest()) <= longest,
        }
    }

    /// Returns the descriptors of the next `most` parts, if no piece of the batch is divided: they
    /// can be copied as they are. The parts of a batch are taken either all by this function, or
    /// all by the iterator.
    pub(crate) fn uncut(&mut self, most: usize) -> Option<&'a [Descriptor]> {
        if !self.uncut {
            return None;
        }
        let all = self.pieces.as_slice();
        let (now, later) = all.split_at(most.min(all.len()));
        self.pieces = later.iter();
        Some(now)
    }
}

impl Iterator for Parts<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        if self.rest.len == 0 {
            self.rest = *self.pieces.next()?;
        }
        let mut part = self.rest;
        if u64::from(part.len) <= self.longest {
            self.rest.len = 0;
            return Some(part);
        }
        let at = match self.side {
            AlignedSide::Source => part.source,
            AlignedSide::Destination => part.destination,
        };
        let len = self.longest - at % CACHE_LINE;
        part.len = len as u32;
        self.rest.len -= part.len;
        self.rest.source += len;
        self.rest.destination += len;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_pieces_and_end_at_cache_lines() {
        let mut batch = Batch::with_capacity(3);
        batch.push(5, 100_000, 1_000_001);
        batch.push(7, 4096, 3);
        batch.push(1 << 40, u32::MAX, 9);
        for side in [AlignedSide::Source, AlignedSide::Destination] {
            let parts: Vec<_> = Parts::new(&batch, 4096, side).collect();
            let mut expected = batch.descriptors().iter().copied();
            let mut now = expected.next().unwrap();
            for part in &parts {
                if now.len == 0 {
                    now = expected.next().unwrap();
                }
                assert!(part.len > 0 && part.len <= 4096, "{part:?}");
                assert_eq!(
                    (part.source, part.destination),
                    (now.source, now.destination)
                );
                now.source += u64::from(part.len);
                now.destination += u64::from(part.len);
                now.len -= part.len;
                let end = match side {
                    AlignedSide::Source => now.source,
                    AlignedSide::Destination => now.destination,
                };
                assert!(now.len == 0 || end % CACHE_LINE == 0, "{part:?}");
            }
            assert_eq!(now.len, 0);
            assert_eq!(expected.next(), None);
        }
    }

    #[test]
    fn short_pieces_are_not_divided() {
        let mut batch = Batch::with_capacity(3);
        for i in 0..3 {
            batch.push(i, 4096, 5000 * i);
        }
        let mut parts = Parts::new(&batch, 4096, AlignedSide::Source);
        assert_eq!(parts.uncut(2).unwrap(), &batch.descriptors()[..2]);
        assert_eq!(parts.uncut(2).unwrap(), &batch.descriptors()[2..]);
        assert_eq!(parts.uncut(2).unwrap(), &[]);
        assert_eq!(Parts::new(&batch, 4095, AlignedSide::Source).uncut(2), None);
    }

    #[test]
    fn small_batches_are_cut_finely() {
        assert_eq!(part_len(0, 132), SHORTEST_PART);
        assert_eq!(part_len(16 * (64 << 10), 132), SHORTEST_PART);
        assert_eq!(part_len(256 << 20, 132), 16 << 10);
        assert_eq!(part_len(4 << 30, 132), LONGEST_PART);
        assert_eq!(part_len(u64::MAX, 0), LONGEST_PART);
    }
}
