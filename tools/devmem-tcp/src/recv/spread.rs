//! Quantiles of histograms.
//!
//! A histogram has buckets between powers of two, so a quantile is known as an upper bound: the
//! greatest value of its bucket, or of all.

use devmem::{Histogram, Telemetry};
use serde::Serialize;

/// Count, minimum, mean, quantiles and maximum of a histogram; `None` for an empty histogram.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) count: u64,
    pub(super) min: Option<u64>,
    pub(super) mean: Option<f64>,
    /// Upper bound of the median, less than twice as large; `p90` and `p99` likewise.
    pub(super) p50: Option<u64>,
    pub(super) p90: Option<u64>,
    pub(super) p99: Option<u64>,
    pub(super) max: Option<u64>,
}

impl From<&Histogram> for Spread {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: histogram.quantile(0.5),
            p90: histogram.quantile(0.9),
            p99: histogram.quantile(0.99),
            max: histogram.max(),
        }
    }
}

/// Quantiles of a receiver's histograms: frag size, frags a call, tokens a flush, hold time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Spreads {
    pub(super) frag_size: Spread,
    pub(super) frags_per_call: Spread,
    pub(super) held_at_flush: Spread,
    pub(super) hold_time_us: Spread,
}

impl From<&Telemetry> for Spreads {
    fn from(telemetry: &Telemetry) -> Self {
        Self {
            frag_size: (&telemetry.frag_size).into(),
            frags_per_call: (&telemetry.frags_per_call).into(),
            held_at_flush: (&telemetry.held_at_flush).into(),
            hold_time_us: (&telemetry.hold_time).into(),
        }
    }
}

impl Spread {
    /// Formats the quantiles, as `p50 <= 2047, p99 <= 4096, max 4096`; `None` without values.
    pub(super) fn to_text(&self) -> Option<String> {
        let (p50, p99, max) = (self.p50?, self.p99?, self.max?);
        Some(match self.min {
            Some(min) if min == max => format!("{max} each"),
            _ => format!("p50 <= {p50}, p99 <= {p99}, max {max}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words() {
        let mut histogram = Histogram::default();
        assert_eq!(Spread::from(&histogram).to_text(), None);
        histogram.record(1428);
        assert_eq!(
            Spread::from(&histogram).to_text().as_deref(),
            Some("1428 each")
        );
        histogram.record(4096);
        assert_eq!(
            Spread::from(&histogram).to_text().as_deref(),
            Some("p50 <= 2047, p99 <= 4096, max 4096")
        );
    }
}
