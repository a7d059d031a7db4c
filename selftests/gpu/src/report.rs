//! The report of the comparison and the measurements on a GPU, as text and JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::compare::Compared;
use crate::measure::{COUNTS, Cell, LENGTHS, Passing};

/// Everything that a run on a GPU found, for the text and JSON report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) gpu: String,
    /// Whether the fake CUDA driver ran instead of a GPU.
    pub(crate) fake: bool,
    pub(crate) compute: (u32, u32),
    pub(crate) driver: String,
    pub(crate) command: String,
    pub(crate) seed: u64,
    /// Number of batches to be compared, for each operation and kind of memory.
    pub(crate) batches: u64,
    /// Results of the comparisons, by the way the memory was allocated.
    pub(crate) compared: Vec<(&'static str, Compared)>,
    /// Ways to allocate memory that failed, with the error.
    pub(crate) left_out: Vec<(&'static str, String)>,
    /// Ways to allocate memory that worked but gave no dmabuf, with the error.
    pub(crate) not_exported: Vec<(&'static str, String)>,
    pub(crate) cells: Vec<Cell>,
    /// Number of measurements that were left out because time ran out.
    pub(crate) cells_left_out: usize,
    pub(crate) passing: Vec<Passing>,
    /// Duration of the whole run in seconds.
    pub(crate) seconds: f64,
}

/// Target of a gather: from this piece length in bytes on, this percentage of a plain copy's rate.
const TARGET: (u64, f64) = (4096, 80.0);

impl Report {
    /// Bandwidth of the GPU's memory in bytes per nanosecond, reads plus writes: that of the
    /// fastest copy too large for any cache.
    fn memory_bandwidth(&self) -> f64 {
        const UNCACHED: u64 = 256 << 20;
        let large = self
            .cells
            .iter()
            .map(Cell::bytes)
            .max()
            .unwrap_or(0)
            .min(UNCACHED);
        let large = self.cells.iter().filter(|cell| cell.bytes() >= large);
        large
            .map(|cell| 2.0 * rate(cell, cell.copy))
            .fold(0.0, f64::max)
    }

    /// Formats the report as tables.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let (major, minor) = self.compute;
        let _ = writeln!(
            text,
            "{}, compute capability {major}.{minor}, driver for CUDA {}",
            self.gpu, self.driver
        );
        if self.fake {
            text += "This is the fake of the driver: no GPU ran any of this, and no time below is one's.\n";
        }
        let _ = writeln!(text, "{}  (seed {})\n", self.command, self.seed);
        for (allocation, compared) in &self.compared {
            let _ = writeln!(
                text,
                "{} random batches each of gather, crc32 and validate as by the processor, in memory of {allocation}: \
                 {} pieces, {} bytes; {} wrong bytes found, {} senseless batches refused.",
                compared.batches,
                compared.pieces,
                compared.bytes,
                compared.mismatches,
                compared.refused
            );
        }
        for (allocation, compared) in &self.compared {
            if compared.batches < self.batches {
                let _ = writeln!(
                    text,
                    "LEFT OUT: {} of {} batches in memory of {allocation}: the time was up (--minutes)",
                    self.batches - compared.batches,
                    self.batches
                );
            }
        }
        for (allocation, why) in &self.left_out {
            let _ = writeln!(text, "LEFT OUT: memory of {allocation}: {why}");
        }
        for (allocation, why) in &self.not_exported {
            let _ = writeln!(text, "NO DMABUF: memory of {allocation}: {why}");
        }
        if self.cells_left_out > 0 {
            let _ = writeln!(
                text,
                "LEFT OUT: {} measurements: the time was up (--minutes)",
                self.cells_left_out
            );
        }
        if !self.cells.is_empty() {
            self.write_rates(&mut text);
        }
        self.write_passing(&mut text);
        let _ = writeln!(text, "\n{:.0} s in all.", self.seconds);
        text
    }

    fn write_rates(&self, text: &mut String) {
        let traffic = self.memory_bandwidth();
        let floor = |cell: &Cell, bytes: u64, time: u64| {
            time as f64 * traffic / (bytes * cell.bytes()) as f64
        };
        let _ = writeln!(
            text,
            "\nA copy within the GPU's memory reads and writes {traffic:.0} GB/s. Payload in GB/s by the GPU's clock.\n\
             Each run reads pieces, and each copy bytes, at other places of the region: no cache has them, \
             if the region is much larger than it."
        );
        self.write_table(text, "plain copy", |cell| rate(cell, cell.copy));
        self.write_table(text, "gather", |cell| rate(cell, cell.gather));
        self.write_table(
            text,
            "gather, % of a copy of as many bytes",
            percent_of_copy,
        );
        self.write_table(text, "gather, times the floor", |cell| {
            floor(cell, 2, cell.gather)
        });
        self.write_table(text, "gather, the whole call", |cell| {
            rate(cell, cell.gather_call)
        });
        self.write_table(text, "crc32", |cell| rate(cell, cell.crc32));
        self.write_table(text, "crc32, times the floor", |cell| {
            floor(cell, 1, cell.crc32)
        });
        self.write_table(text, "crc32, the whole call", |cell| {
            rate(cell, cell.crc32_call)
        });
        self.write_table(text, "validate", |cell| rate(cell, cell.validate));
        self.write_table(text, "validate, times the floor", |cell| {
            floor(cell, 1, cell.validate)
        });
        self.write_table(text, "validate, the whole call", |cell| {
            rate(cell, cell.validate_call)
        });
        let (length, target) = TARGET;
        let counted = self.cells.iter().filter(|cell| cell.length >= length);
        let (met, missed): (Vec<&Cell>, Vec<&Cell>) =
            counted.partition(|cell| percent_of_copy(cell) >= target);
        let _ = writeln!(
            text,
            "\nA gather of pieces from {length} bytes on reaches {target} % of a copy in {} of {} cells{}",
            met.len(),
            met.len() + missed.len(),
            match missed
                .iter()
                .min_by(|a, b| percent_of_copy(a).total_cmp(&percent_of_copy(b)))
            {
                None => ".".to_owned(),
                Some(cell) => format!(
                    "; least, {:.0} %, with {} pieces of {} bytes.",
                    percent_of_copy(cell),
                    cell.count,
                    cell.length
                ),
            }
        );
    }

    fn write_table(&self, text: &mut String, title: &str, value: impl Fn(&Cell) -> f64) {
        let _ = write!(text, "\n{title}\n{:>8}", "bytes");
        for count in COUNTS {
            let _ = write!(text, "{count:>9}");
        }
        text.push('\n');
        for length in LENGTHS {
            let _ = write!(text, "{length:>8}");
            for count in COUNTS {
                let mut cells = self.cells.iter();
                let cell = cells.find(|cell| (cell.length, cell.count) == (length, count));
                let _ = match cell.map(&value) {
                    Some(value) if value < 10.0 => write!(text, "{value:>9.2}"),
                    Some(value) => write!(text, "{value:>9.0}"),
                    None => write!(text, "{:>9}", "-"),
                };
            }
            text.push('\n');
        }
    }

    fn write_passing(&self, text: &mut String) {
        if self.passing.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\nmicroseconds to have memory, and to pass it on (what a NIC's driver makes of it is not among them)\n\
             {:>12} {:>12} {:>14} {:>12} {:>12} {:>12}",
            "bytes", "by", "allocated, fd", "another fd", "taken over", "freed"
        );
        for row in &self.passing {
            let us = |time: u64| time as f64 / 1e3;
            let _ = writeln!(
                text,
                "{:>12} {:>12} {:>14.1} {:>12.1} {:>12.1} {:>12.1}",
                row.bytes,
                row.allocation,
                us(row.allocate),
                us(row.export),
                us(row.take_over),
                us(row.free)
            );
        }
    }
}

/// Returns the rate of an operation in gigabytes per second.
fn rate(cell: &Cell, time: u64) -> f64 {
    cell.bytes() as f64 / time as f64
}

fn percent_of_copy(cell: &Cell) -> f64 {
    100.0 * cell.copy as f64 / cell.gather as f64
}
