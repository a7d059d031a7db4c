//! Formatting of a receiver's figures for the live view: amounts, bars, rows of tables.

use devmem::Histogram;

use super::second::{Connection, Queue};
use crate::recv::spread::Spread;
use crate::table::Column;

/// Block characters of a small bar chart, from the lowest to the highest.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) const QUEUES: [Column; 6] = [
    Column::number("queue"),
    Column::number("MiB/s"),
    Column::number("bytes"),
    Column::number("connections").spare(1),
    Column::number("alloc-fail"),
    Column::number("drops"),
];

pub(super) const PEERS: [Column; 8] = [
    Column::text("peer"),
    Column::number("queue").spare(2),
    Column::number("MiB/s"),
    Column::number("bytes").spare(1),
    Column::number("frags").spare(6),
    Column::number("held").spare(5),
    Column::number("kept").spare(4),
    Column::number("queued").spare(3),
];

pub(super) const DISTRIBUTIONS: [Column; 5] = [
    Column::text("distribution"),
    Column::text("in powers of 2").spare(1),
    Column::number("p50"),
    Column::number("p99"),
    Column::number("max"),
];

pub(super) fn queue(queue: &Queue) -> Vec<String> {
    let name = match (queue.queue, queue.napi_id) {
        (Some(id), _) => id.to_string(),
        (None, Some(napi)) => format!("napi {napi}"),
        (None, None) => "not known".to_owned(),
    };
    vec![
        name,
        format!("{:.1}", queue.mib_per_second),
        amount(queue.bytes),
        queue.connections.to_string(),
        or_dash(queue.alloc_fail),
        or_dash(queue.hw_drops),
    ]
}

pub(super) fn connection(connection: &Connection) -> Vec<String> {
    vec![
        connection.peer.clone(),
        or_dash(connection.queue),
        match connection.paused_seconds {
            Some(seconds) => format!("paused {seconds:.0}s"),
            None => format!("{:.1}", connection.mib_per_second),
        },
        amount(connection.bytes),
        connection.frags.to_string(),
        connection.tokens.held.to_string(),
        connection.tokens.kept.to_string(),
        amount(connection.queued_bytes),
    ]
}

/// Formats the row of a histogram in the table [`DISTRIBUTIONS`]. Quantiles are upper bounds and
/// are marked as such, unless all values are the same.
pub(super) fn distribution(name: &str, histogram: &Histogram, spread: &Spread) -> Vec<String> {
    let same = spread.min == spread.max;
    let bound = |quantile: Option<u64>| match quantile {
        Some(value) if !same => format!("<= {value}"),
        value => or_dash(value),
    };
    vec![
        name.to_owned(),
        bars(histogram),
        bound(spread.p50),
        bound(spread.p99),
        or_dash(spread.max),
    ]
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Formats a number of bytes with a binary unit, as `1.5 GiB`.
pub(super) fn amount(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// Draws a bar of `wide` characters for a part of a whole, as `######------`.
pub(super) fn bar(part: u64, whole: u64, wide: usize) -> String {
    let full = (u128::from(part.min(whole)) * wide as u128).div_ceil(u128::from(whole.max(1)));
    let full = full as usize;
    "#".repeat(full) + &"-".repeat(wide - full)
}

/// Draws a histogram as block characters, one for each power of two from least to greatest value.
fn bars(histogram: &Histogram) -> String {
    let most = histogram.buckets().map(|bucket| bucket.count).max();
    let (Some(most), Some(first)) = (most, histogram.buckets().next()) else {
        return String::new();
    };
    let mut text = String::new();
    let mut next = first.from;
    for bucket in histogram.buckets() {
        while next < bucket.from {
            text.push(' ');
            next = (next * 2).max(1);
        }
        let height = (bucket.count * 7).div_ceil(most) as usize;
        text.push(BLOCKS[height.min(7)]);
        next = bucket.to.saturating_add(1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_all_is_taken() {
        assert_eq!(bar(0, 8, 24), "-".repeat(24));
        assert_eq!(bar(8, 8, 24), "#".repeat(24));
        assert_eq!(bar(9, 8, 24), "#".repeat(24));
        assert!(bar(1, 1000, 24).starts_with("#-"));
        assert_eq!(bar(4, 8, 24).matches('#').count(), 12);
        assert_eq!(bar(u64::MAX, u64::MAX, 8), "#".repeat(8));
        assert_eq!(bar(1, 0, 0), "");
    }

    #[test]
    fn bars_leave_room_for_what_never_came() {
        let mut histogram = Histogram::default();
        assert_eq!(bars(&histogram), "");
        for value in [0, 1, 8, 8, 8, 8, 8, 8, 8] {
            histogram.record(value);
        }
        assert_eq!(bars(&histogram), "▂▂  █");
    }

    #[test]
    fn amounts() {
        let said = [0, 1023, 1024, 3 << 19, 5 << 40].map(amount);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 TiB"]);
    }

    #[test]
    fn a_quantile_is_an_estimate_unless_all_values_are_the_same() {
        let mut histogram = Histogram::default();
        let row = |histogram: &Histogram| distribution("x", histogram, &histogram.into());
        assert_eq!(row(&histogram), ["x", "", "-", "-", "-"]);
        histogram.record(1428);
        assert_eq!(row(&histogram)[2..], ["1428", "1428", "1428"]);
        histogram.record(4096);
        assert_eq!(row(&histogram)[2..], ["<= 2047", "<= 4096", "4096"]);
    }
}
