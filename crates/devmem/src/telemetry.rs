//! Histograms of frags and calls, at the cost of one addition for each frag.
//!
//! Values are counted where they occur and read on demand: nothing is allocated,
//! formatted or timed for a frag.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::buffer::{Record, Totals};

/// Number of buckets of a [`Histogram`].
const BUCKETS: usize = 32;

/// Histogram with a bucket for each power of two: bucket 0 counts zeros, bucket `n` the values from
/// 2^(n-1) to 2^n - 1, the last one all from 2^30 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum: u64,
    min: u64,
    max: u64,
}

/// Bucket of a histogram: a range of values and how many fell into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// Least value of the range.
    pub from: u64,
    /// Greatest value of the range.
    pub to: u64,
    /// Number of values that fell into the range.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

#[inline]
fn bucket_of(value: u64) -> usize {
    ((u64::BITS - value.leading_zeros()) as usize).min(BUCKETS - 1)
}

impl Histogram {
    /// Adds a value to the histogram.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.tally(value);
        self.widen(value, value, value);
    }

    /// Counts a value in its bucket. [`widen`](Self::widen) does the rest of
    /// [`record`](Self::record), for all such values together.
    #[inline]
    pub(crate) fn tally(&mut self, value: u64) {
        self.buckets[bucket_of(value)] += 1;
    }

    /// Adds the least, the greatest and the sum of values that [`tally`](Self::tally) counted.
    #[inline]
    pub(crate) fn widen(&mut self, least: u64, greatest: u64, sum: u64) {
        self.min = self.min.min(least);
        self.max = self.max.max(greatest);
        self.sum = self.sum.saturating_add(sum);
    }

    /// Number of values in the histogram.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the values in the histogram.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Least value in the histogram; `None` if it has none.
    pub fn min(&self) -> Option<u64> {
        (self.count() > 0).then_some(self.min)
    }

    /// Greatest value in the histogram; `None` if it has none.
    pub fn max(&self) -> Option<u64> {
        (self.count() > 0).then_some(self.max)
    }

    /// Mean of the values in the histogram; `None` if it has none.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// Quantile of the values: an upper bound of the fraction `part` (0 to 1) of them. It is the
    /// greatest value of the bucket where that fraction is reached, so at most twice as large as
    /// the exact quantile, and never beyond the least and the greatest value. `None` if there are
    /// no values.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((part.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let reached = self.buckets().find(|bucket| {
            below += bucket.count;
            below >= rank
        })?;
        Some(reached.to.min(self.max).max(self.min))
    }

    /// The buckets that have values, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        let counts = self.buckets.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| Bucket {
                from: if index == 0 { 0 } else { 1 << (index - 1) },
                to: match index {
                    last if last == BUCKETS - 1 => u64::MAX,
                    index => (1 << index) - 1,
                },
                count,
            })
    }
}

impl AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += count;
        }
        self.widen(other.min, other.max, other.sum);
    }
}

/// Histograms of how a stream was received, or several streams together: about a KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Telemetry {
    /// Number of bytes in each frag.
    pub frag_size: Histogram,
    /// Number of frags that each `recvmsg` returned, of calls that returned any.
    pub frags_per_call: Histogram,
    /// Number of frags held at each flush.
    pub held_at_flush: Histogram,
    /// Microseconds between the first of a batch of frags given back and its flush, by the times
    /// set with [`DevmemStream::clock`](crate::DevmemStream::clock): 0 for both at the same time.
    /// Empty if no time was set.
    pub hold_time: Histogram,
}

impl AddAssign<&Telemetry> for Telemetry {
    fn add_assign(&mut self, other: &Self) {
        self.frag_size += &other.frag_size;
        self.frags_per_call += &other.frags_per_call;
        self.held_at_flush += &other.held_at_flush;
        self.hold_time += &other.hold_time;
    }
}

impl Telemetry {
    /// Counts the frags that one `recvmsg` returned.
    pub(crate) fn received(&mut self, records: &[Record], totals: &Totals) {
        if totals.frags == 0 {
            return;
        }
        let (mut least, mut greatest) = (u32::MAX, 0);
        for record in records {
            if let Record::Frag(frag) = record {
                self.frag_size.tally(frag.frag_size.into());
                least = least.min(frag.frag_size);
                greatest = greatest.max(frag.frag_size);
            }
        }
        self.frag_size
            .widen(least.into(), greatest.into(), totals.frag_bytes);
        self.frags_per_call.record(totals.frags as u64);
    }

    /// Counts a flush of `frags` frags.
    pub(crate) fn flushed(&mut self, frags: u32, after: Option<Duration>) {
        if frags == 0 {
            return;
        }
        self.held_at_flush.record(frags.into());
        if let Some(after) = after {
            let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            self.hold_time.record(micros);
        }
    }
}

/// Clock of a stream, set to times that its engine has read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    now: Option<Instant>,
    since: Option<Instant>,
}

impl Clock {
    /// Sets the present time, and tells whether the stream holds tokens.
    #[inline]
    pub(crate) fn set(&mut self, now: Instant, holds: bool) {
        self.now = Some(now);
        if !holds {
            self.since = self.now;
        }
    }

    /// Time for which the batch of tokens that goes now was held; another batch begins.
    pub(crate) fn lap(&mut self) -> Option<Duration> {
        let (now, since) = (self.now?, self.since?);
        self.since = self.now;
        Some(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.record(value));
        histogram
    }

    /// Strategy of values, small and large ones alike.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = (0_u32..40).prop_flat_map(|bits| 0..1_u64 << bits);
        prop::collection::vec(value, 0..200)
    }

    #[test]
    fn an_empty_histogram_has_no_values() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.sum()), (0, 0));
        assert_eq!(
            (empty.min(), empty.max(), empty.quantile(0.5)),
            (None, None, None)
        );
        assert_eq!((empty.mean(), empty.buckets().next()), (None, None));
    }

    #[test]
    fn buckets_are_powers_of_two() {
        let found: Vec<_> = histogram(&[0, 1, 2, 3, 4, 4096, 1 << 30, u64::MAX])
            .buckets()
            .map(|bucket| (bucket.from, bucket.to, bucket.count))
            .collect();
        let expected = [
            (0, 0, 1),
            (1, 1, 1),
            (2, 3, 2),
            (4, 7, 1),
            (4096, 8191, 1),
            (1 << 30, u64::MAX, 2),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn telemetry_takes_about_a_kib() {
        assert!(size_of::<Telemetry>() <= 1536, "{}", size_of::<Telemetry>());
    }

    #[test]
    fn a_clock_measures_from_the_first_of_a_batch() {
        let (start, ms) = (Instant::now(), Duration::from_millis(1));
        let mut clock = Clock::default();
        assert_eq!(clock.lap(), None);
        clock.set(start, false);
        clock.set(start + ms, false);
        // Given back at some time after this reading, flushed at that one.
        clock.set(start + 3 * ms, true);
        assert_eq!(clock.lap(), Some(2 * ms));
        assert_eq!(clock.lap(), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn each_value_is_counted_once(values in values()) {
            let histogram = histogram(&values);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(histogram.min(), values.iter().copied().min());
            prop_assert_eq!(histogram.max(), values.iter().copied().max());
            let mut above = None;
            for bucket in histogram.buckets() {
                prop_assert!(above.is_none_or(|above| bucket.from > above));
                let within = values.iter().filter(|value| (bucket.from..=bucket.to).contains(value));
                prop_assert_eq!(within.count() as u64, bucket.count);
                above = Some(bucket.to);
            }
        }

        #[test]
        fn a_quantile_is_at_most_twice_the_exact_one(mut values in values(), part in 0.0..=1.0) {
            let found = histogram(&values).quantile(part);
            values.sort_unstable();
            let rank = ((part * values.len() as f64).ceil() as usize).max(1);
            let exact = values.get(rank - 1).copied();
            match (found, exact) {
                (None, None) => {}
                (Some(found), Some(exact)) => {
                    prop_assert!(exact <= found, "{exact} > {found}");
                    let open = exact >= 1 << 30;
                    prop_assert!(open || found <= exact * 2, "{found} of {exact}");
                    prop_assert!(Some(&found) <= values.last());
                }
                _ => prop_assert!(false, "{found:?} {exact:?}"),
            }
        }

        #[test]
        fn merged_histograms_equal_one_of_all_values(left in values(), right in values()) {
            let mut merged = histogram(&left);
            merged += &histogram(&right);
            let both: Vec<_> = left.into_iter().chain(right).collect();
            prop_assert_eq!(merged, histogram(&both));
        }

        #[test]
        fn tally_and_widen_equal_record(values in values()) {
            let mut tallied = Histogram::default();
            values.iter().for_each(|&value| tallied.tally(value));
            if let (Some(&least), Some(&greatest)) = (values.iter().min(), values.iter().max()) {
                tallied.widen(least, greatest, values.iter().sum());
            }
            prop_assert_eq!(tallied, histogram(&values));
        }
    }
}
