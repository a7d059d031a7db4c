//! Pieces, cut into parts that keep a whole GPU busy.

use payload::{Batch, Descriptor};

/// Warps that a multiprocessor runs at once, as many registers as the kernels take.
const WARPS: u64 = 32;
/// Parts for each of them: fewer leave some idle at the end, more cost their descriptors' way to
/// the GPU.
const PARTS: u64 = 4;
/// Bytes that a warp has under way at once: less would leave threads of it idle.
const SHORTEST: u64 = 2 << 10;
/// Longer ones save nothing any more.
const LONGEST: u64 = 32 << 10;
/// A line of a GPU's cache.
const LINE: u64 = 128;

/// How long parts may be for all warps to have some.
pub(crate) fn part_len(bytes: u64, multiprocessors: u32) -> u64 {
    let warps = WARPS * u64::from(multiprocessors.max(1));
    (bytes / (warps * PARTS))
        .checked_next_power_of_two()
        .unwrap_or(LONGEST)
        .clamp(SHORTEST, LONGEST)
}

/// Which side of a piece is best cut at a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where it lies.
    Source,
    /// Where it belongs.
    Destination,
}

/// The pieces of a batch in their order, those longer than a part in several.
pub(crate) struct Parts<'a> {
    pieces: std::slice::Iter<'a, Descriptor>,
    rest: Descriptor,
    longest: u64,
    side: Side,
    /// Each piece is a part.
    uncut: bool,
}

impl<'a> Parts<'a> {
    /// Parts of at most `longest` bytes, more than a cache line's.
    pub(crate) fn new(batch: &'a Batch, longest: u64, side: Side) -> Self {
        Self {
            pieces: batch.descriptors().iter(),
            rest: Descriptor::default(),
            longest,
            side,
            uncut: u64::from(batch.longest()) <= longest,
        }
    }

    /// The next `most` parts as they lie in the batch, where none is cut: they need but be copied.
    /// A call takes them all one way or the other.
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
            Side::Source => part.source,
            Side::Destination => part.destination,
        };
        let len = self.longest - at % LINE;
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
        for side in [Side::Source, Side::Destination] {
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
                    Side::Source => now.source,
                    Side::Destination => now.destination,
                };
                assert!(now.len == 0 || end % LINE == 0, "{part:?}");
            }
            assert_eq!(now.len, 0);
            assert_eq!(expected.next(), None);
        }
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let mut batch = Batch::with_capacity(3);
        for i in 0..3 {
            batch.push(i, 4096, 5000 * i);
        }
        let mut parts = Parts::new(&batch, 4096, Side::Source);
        assert_eq!(parts.uncut(2).unwrap(), &batch.descriptors()[..2]);
        assert_eq!(parts.uncut(2).unwrap(), &batch.descriptors()[2..]);
        assert_eq!(parts.uncut(2).unwrap(), &[]);
        assert_eq!(Parts::new(&batch, 4095, Side::Source).uncut(2), None);
    }

    #[test]
    fn small_batches_are_cut_finely() {
        assert_eq!(part_len(0, 132), SHORTEST);
        assert_eq!(part_len(16 * (64 << 10), 132), SHORTEST);
        assert_eq!(part_len(256 << 20, 132), 16 << 10);
        assert_eq!(part_len(4 << 30, 132), LONGEST);
        assert_eq!(part_len(u64::MAX, 0), LONGEST);
    }
}
