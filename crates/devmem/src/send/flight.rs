//! Sends in flight: the ranges of the dmabuf that the kernel still reads.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

/// Error of a completion that names sends which are not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("completion of sends {first} to {last}, which are not all in flight")]
#[non_exhaustive]
pub struct UnknownCompletion {
    /// Number of the first send that the completion names.
    pub first: u32,
    /// Number of the last send that the completion names.
    pub last: u32,
}

/// The sends of one socket that are in flight. The kernel numbers them from 0, one for each
/// `sendmsg` that took a byte (`msg_zerocopy_realloc`, `msg_zerocopy_put_abort` in
/// `net/core/skbuff.c`), and reports ranges of numbers, in any order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    next: u32,
    sends: VecDeque<Send>,
    /// Ranges of all sends in flight, in the order of the sends; what is contiguous within a send
    /// is one range.
    ranges: VecDeque<Range<u64>>,
    bytes: u64,
}

#[derive(Debug)]
struct Send {
    ranges: usize,
    bytes: u64,
    complete: bool,
}

impl InFlight {
    /// Adds a send of which the kernel took the first `accepted` bytes of `ranges`; not 0.
    pub(crate) fn sent(&mut self, ranges: &[Range<u64>], accepted: u64) {
        let before = self.ranges.len();
        let mut left = accepted;
        for range in ranges {
            let len = left.min(range.end - range.start);
            if len == 0 {
                continue;
            }
            left -= len;
            let end = range.start + len;
            let of_this_send = self.ranges.len() > before;
            match self.ranges.back_mut() {
                Some(last) if of_this_send && last.end == range.start => last.end = end,
                _ => self.ranges.push_back(range.start..end),
            }
        }
        self.sends.push_back(Send {
            ranges: self.ranges.len() - before,
            bytes: accepted,
            complete: false,
        });
        self.bytes += accepted;
        self.next = self.next.wrapping_add(1);
    }

    /// Marks the sends `first` to `last` as complete, numbers that may wrap, and returns how many
    /// they are.
    pub(crate) fn completed(&mut self, first: u32, last: u32) -> Result<u32, UnknownCompletion> {
        let unknown = UnknownCompletion { first, last };
        let oldest = self.next.wrapping_sub(self.sends.len() as u32);
        let from = first.wrapping_sub(oldest) as usize;
        let to = last.wrapping_sub(oldest) as usize;
        if from > to || to >= self.sends.len() {
            return Err(unknown);
        }
        if self.sends.range(from..=to).any(|send| send.complete) {
            return Err(unknown);
        }
        for send in self.sends.range_mut(from..=to) {
            send.complete = true;
        }
        Ok((to - from + 1) as u32)
    }

    /// Removes the oldest sends as far as they are complete, and returns the number of their bytes.
    pub(crate) fn take_back(&mut self) -> u64 {
        let mut bytes = 0;
        while let Some(send) = self.sends.front().filter(|send| send.complete) {
            self.ranges.drain(..send.ranges);
            bytes += send.bytes;
            self.sends.pop_front();
        }
        self.bytes -= bytes;
        bytes
    }

    /// Number of sends whose ranges have not been taken back.
    pub(crate) fn len(&self) -> usize {
        self.sends.len()
    }

    /// Number of bytes in sends that have not been taken back.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether any byte in `range` of the dmabuf is in flight.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let overlaps = |part: &Range<u64>| part.start < range.end && range.start < part.end;
        self.ranges.iter().any(overlaps)
    }

    /// Byte ranges of the dmabuf that are in flight.
    pub(crate) fn ranges(&self) -> InFlightRanges {
        let mut ranges: Vec<_> = self.ranges.iter().cloned().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, kept| {
            let touches = next.start <= kept.end;
            if touches {
                kept.end = kept.end.max(next.end);
            }
            touches
        });
        InFlightRanges {
            sends: self.sends.len(),
            ranges,
        }
    }
}

/// Byte ranges of a dmabuf that the kernel may still read: sorted, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InFlightRanges {
    /// Number of sends that the ranges belong to.
    pub sends: usize,
    /// Byte ranges in the dmabuf.
    pub ranges: Vec<Range<u64>>,
}

impl fmt::Display for InFlightRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Number of ranges that are printed: more would fill the screen.
        const MAX_SHOWN_RANGES: usize = 8;
        if self.sends == 0 {
            return f.write_str("nothing in flight");
        }
        let sends = if self.sends == 1 { "send" } else { "sends" };
        write!(f, "{} {sends} in flight, bytes ", self.sends)?;
        for (at, Range { start, end }) in self.ranges.iter().take(MAX_SHOWN_RANGES).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{start} to {end}")?;
        }
        match self.ranges.len().saturating_sub(MAX_SHOWN_RANGES) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // sends of one range
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_come_back_in_the_order_of_the_sends() {
        let mut flight = InFlight::default();
        flight.sent(&[0..3, 3..6, 10..20], 12);
        flight.sent(&[100..200], 50);
        assert_eq!((flight.len(), flight.bytes()), (2, 62));
        assert!(flight.overlaps(&(15..16)) && !flight.overlaps(&(16..100)));
        assert!(flight.overlaps(&(149..150)) && !flight.overlaps(&(150..200)));
        assert_eq!(flight.completed(1, 1), Ok(1));
        assert_eq!(flight.take_back(), 0, "the first is still in flight");
        assert_eq!(
            flight.ranges().to_string(),
            "2 sends in flight, bytes 0 to 6, 10 to 16, 100 to 150"
        );
        assert_eq!(flight.completed(0, 0), Ok(1));
        assert_eq!(flight.take_back(), 62);
        assert_eq!(flight.ranges().to_string(), "nothing in flight");
    }

    #[test]
    fn a_completion_of_a_send_never_made_is_an_error() {
        let mut flight = InFlight::default();
        assert!(flight.completed(0, 0).is_err());
        flight.sent(&[0..1, 5..6], 2);
        assert!(flight.completed(0, 1).is_err());
        assert!(flight.completed(1, 0).is_err());
        assert!(flight.completed(u32::MAX, 0).is_err());
        assert_eq!(flight.completed(0, 0), Ok(1));
        assert!(flight.completed(0, 0).is_err(), "twice");
    }

    #[test]
    fn send_numbers_wrap() {
        let mut flight = InFlight {
            next: u32::MAX,
            ..InFlight::default()
        };
        flight.sent(&[0..1, 1..2], 2);
        flight.sent(&[2..3, 3..4], 2);
        assert_eq!(flight.completed(u32::MAX, 0), Ok(2));
        assert_eq!(flight.take_back(), 4);
    }

    proptest! {
        /// Sends that complete in any order give each byte back once, and none before its send is
        /// complete.
        #[test]
        fn every_byte_comes_back_once(
            sends in prop::collection::vec(1..100u64, 1..40),
            order in any::<prop::sample::Index>().prop_perturb(|_, mut rng| rng.next_u64()),
        ) {
            let mut flight = InFlight::default();
            let mut at = 0;
            for len in &sends {
                flight.sent(&[at..at + len], *len);
                at += len;
            }
            let mut open: Vec<u32> = (0..sends.len() as u32).collect();
            let (mut back, mut state) = (0, order);
            while !open.is_empty() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let id = open.swap_remove((state >> 33) as usize % open.len());
                prop_assert_eq!(flight.completed(id, id), Ok(1));
                back += flight.take_back();
                let oldest = open.iter().min().map_or(at, |id| sends[..*id as usize].iter().sum());
                prop_assert_eq!(back, oldest);
                prop_assert_eq!(flight.bytes(), at - back);
            }
            prop_assert_eq!(back, at);
        }

        #[test]
        fn arbitrary_completions_are_counted_or_refused(ids in prop::collection::vec(any::<(u32, u32)>(), 0..50)) {
            let mut flight = InFlight::default();
            for (first, last) in ids {
                flight.sent(&[0..10, 10..20], 20);
                let _answer = flight.completed(first % 60, last % 60);
                flight.take_back();
            }
        }
    }
}
