//! Measures gathers, checksums and validation on a GPU, against plain copies within its memory.
//!
//! Each run reads pieces, and each copy bytes, at other places of the region, so that no cache has
//! them if the region is much larger than it. A copy follows each gather, and both write to the same
//! place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cuda::{Allocation, DeviceMemory, Gpu, Mapping, Worker};
use payload::pattern::Pattern;
use payload::{Batch, Device, Host};
use serde::Serialize;

use crate::random::Random;

/// Lengths of a piece that are measured, in bytes.
pub(crate) const LENGTHS: [u64; 7] = [
    1 << 10,
    2 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
];
/// Numbers of pieces in a batch that are measured.
pub(crate) const COUNTS: [u64; 7] = [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
/// Size of a niov in bytes: a shorter piece has a niov to itself, as a segment has.
const PAGE: u64 = 4096;
/// Number of warm-up runs, whose times are dropped.
const WARM_UP_RUNS: usize = 2;

/// Measured times for one piece length and one number of pieces. Times are medians in nanoseconds,
/// taken by the GPU's own clock unless said otherwise.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) length: u64,
    pub(crate) count: u64,
    /// Time of a plain copy of the same number of bytes within the GPU's memory, from another
    /// offset each time.
    pub(crate) copy: u64,
    pub(crate) gather: u64,
    /// Time of the gather from the call to its return, by the CPU's clock.
    pub(crate) gather_call: u64,
    pub(crate) crc32: u64,
    pub(crate) crc32_call: u64,
    pub(crate) validate: u64,
    pub(crate) validate_call: u64,
}

impl Cell {
    pub(crate) fn bytes(&self) -> u64 {
        self.length * self.count
    }
}

/// Measures all combinations of length and count that fit the region, and checks each against the
/// CPU. Also returns how many were left out when time ran out: those of the longest pieces.
pub(crate) fn measure(
    memory: &DeviceMemory,
    region: u64,
    repeats: usize,
    end: Instant,
    random: &mut Random,
) -> Result<(Vec<Cell>, usize)> {
    let mut bench = Bench {
        memory,
        gpu: memory.worker(region).context("worker")?,
        source: vec![0; region as usize].into(),
        repeats,
    };
    bench.gpu.set_timing(true);
    let (mut cells, mut left_out) = (Vec::new(), 0);
    // Validation, which comes last, takes about as long as one of the three operations before.
    let end_of_others = Instant::now() + end.saturating_duration_since(Instant::now()) * 3 / 4;
    for length in LENGTHS {
        if Instant::now() < end_of_others {
            bench.fill(|bytes| random.fill(bytes))?;
        }
        let counts = COUNTS.into_iter();
        for count in counts.filter(|count| count * length.max(PAGE) <= region) {
            if Instant::now() > end_of_others {
                left_out += 1;
                continue;
            }
            let cell = bench.measure_cell(length, count, random);
            cells.push(cell.with_context(|| format!("{count} pieces of {length} bytes"))?);
        }
    }
    // A piece's place in the stream is that in the source: then all batches of it are right.
    let pattern = Pattern::default();
    bench.fill(|bytes| pattern.fill(0, bytes))?;
    let mut validated = Vec::new();
    for mut cell in cells {
        if Instant::now() > end {
            left_out += 1;
            continue;
        }
        (cell.validate, cell.validate_call) = bench.validate(&cell, &pattern, random)?;
        validated.push(cell);
    }
    Ok((validated, left_out))
}

struct Bench<'a> {
    memory: &'a DeviceMemory,
    gpu: Worker,
    source: Arc<[u8]>,
    repeats: usize,
}

impl Bench<'_> {
    fn fill(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        fill(Arc::get_mut(&mut self.source).context("somebody has the source")?);
        self.memory
            .write(0, &self.source)
            .context("fill the source")
    }

    /// Measures one combination of length and count: gathers, with a plain copy after each, then
    /// checksums.
    fn measure_cell(&mut self, length: u64, count: u64, random: &mut Random) -> Result<Cell> {
        let (mut copy, mut gather, mut crc32) = <(Times, Times, Times)>::default();
        let bytes = length * count;
        let places = (self.source.len() as u64 - bytes) / PAGE + 1;
        for _ in 0..WARM_UP_RUNS + self.repeats {
            let batch = self.random_batch(length, count, random, false);
            gather.time(&mut self.gpu, |gpu| gpu.gather(&batch))?;
            copy.add(self.gpu.copy(random.below(places) * PAGE, bytes)?);
        }
        let (mut batch, mut sum) = (Batch::default(), 0);
        for _ in 0..WARM_UP_RUNS + self.repeats {
            batch = self.random_batch(length, count, random, false);
            sum = crc32.time(&mut self.gpu, |gpu| gpu.crc32(&batch))?;
        }
        // What was copied last lies over it.
        self.gpu.gather(&batch)?;
        self.check(&batch, sum)?;
        Ok(Cell {
            length,
            count,
            copy: copy.median(WARM_UP_RUNS),
            gather: gather.median(WARM_UP_RUNS),
            gather_call: gather.calls().median(WARM_UP_RUNS),
            crc32: crc32.median(WARM_UP_RUNS),
            crc32_call: crc32.calls().median(WARM_UP_RUNS),
            validate: 0,
            validate_call: 0,
        })
    }

    fn validate(
        &mut self,
        cell: &Cell,
        pattern: &Pattern,
        random: &mut Random,
    ) -> Result<(u64, u64)> {
        let mut times = Times::default();
        for _ in 0..WARM_UP_RUNS + self.repeats {
            let batch = self.random_batch(cell.length, cell.count, random, true);
            let found = times.time(&mut self.gpu, |gpu| gpu.validate(&batch, pattern))?;
            ensure!(found.is_none(), "{found:?} where all is right");
        }
        Ok((
            times.median(WARM_UP_RUNS),
            times.calls().median(WARM_UP_RUNS),
        ))
    }

    /// Returns a batch of pieces at random offsets, so that no cache holds them. Destinations are
    /// consecutive, or with `in_place` the same as the source offsets.
    fn random_batch(&self, length: u64, count: u64, random: &mut Random, in_place: bool) -> Batch {
        let slot = length.max(PAGE);
        let slots = self.source.len() as u64 / slot;
        // The begin of a shuffle.
        let mut order: Vec<u32> = (0..slots as u32).collect();
        let mut batch = Batch::with_capacity(count as usize);
        for piece in 0..count {
            let other = piece + random.below(slots - piece);
            order.swap(piece as usize, other as usize);
            let source = u64::from(order[piece as usize]) * slot;
            let destination = if in_place { source } else { piece * length };
            batch.push(source, length as u32, destination);
        }
        batch
    }

    /// Checks the GPU's last batch of a combination against the CPU: the gathered bytes and the
    /// checksum.
    fn check(&mut self, batch: &Batch, sum: u32) -> Result<()> {
        let mut host = Host::of_bytes(Arc::clone(&self.source), batch.bytes())?;
        host.gather(batch)?;
        let twin = host.crc32(batch)?;
        ensure!(sum == twin, "the sum is {sum:08x}, not {twin:08x}");
        let mut read = vec![0; 16 << 20];
        for (number, expected) in host.destination().chunks(read.len()).enumerate() {
            let at = number * read.len();
            let ours = &mut read[..expected.len()];
            self.gpu.read(at as u64, ours)?;
            ensure!(ours == expected, "gathered otherwise, after byte {at}");
        }
        Ok(())
    }
}

/// Times of several runs, in nanoseconds.
#[derive(Debug, Default)]
struct Times {
    gpu: Vec<u64>,
    call: Vec<u64>,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.gpu.push(nanoseconds(time));
    }

    fn time<T, E>(
        &mut self,
        gpu: &mut Worker,
        work: impl FnOnce(&mut Worker) -> Result<T, E>,
    ) -> Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let begin = Instant::now();
        let done = work(gpu)?;
        self.call.push(nanoseconds(begin.elapsed()));
        self.add(gpu.elapsed().context("no time was taken")?);
        Ok(done)
    }

    fn calls(self) -> Self {
        Self {
            gpu: self.call,
            call: Vec::new(),
        }
    }

    /// Median of the times by the GPU's clock, without the first `without` runs.
    fn median(&self, without: usize) -> u64 {
        median(self.gpu.get(without..).unwrap_or_default())
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Median of the times, at least 1 so that it can be a divisor.
fn median(times: &[u64]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted
        .get(sorted.len() / 2)
        .map_or(1, |time| (*time).max(1))
}

/// Times to allocate GPU memory, export it as a dmabuf and free it.
#[derive(Debug, Serialize)]
pub(crate) struct Passing {
    pub(crate) bytes: u64,
    /// Name of the way in which the memory was allocated.
    pub(crate) allocation: &'static str,
    /// Median time to allocate the memory and export its first fd, in nanoseconds.
    pub(crate) allocate: u64,
    /// Median time to export another fd, in nanoseconds.
    pub(crate) export: u64,
    /// Median time to take over an fd that another program made, in nanoseconds: is it a dmabuf,
    /// and how long?
    pub(crate) take_over: u64,
    /// Median time to free the memory, in nanoseconds.
    pub(crate) free: u64,
}

/// Measures allocation, export and free of GPU memory of several sizes.
pub(crate) fn measure_passing(
    gpu: &Gpu,
    kinds: &[(&'static str, Allocation)],
    most: u64,
    repeats: usize,
) -> Result<Vec<Passing>> {
    let mut passing = Vec::new();
    for bytes in [2 << 20, 64 << 20, 1 << 30]
        .into_iter()
        .filter(|bytes| *bytes <= most)
    {
        for &(allocation, kind) in kinds {
            let mut times = [const { Vec::new() }; 4];
            for _ in 0..repeats {
                let timed = measure_passing_once(gpu, bytes, kind)
                    .with_context(|| format!("{bytes} bytes by {allocation}"))?;
                times
                    .iter_mut()
                    .zip(timed)
                    .for_each(|(times, time)| times.push(nanoseconds(time)));
            }
            let [allocate, export, take_over, free] = times.map(|times| median(&times));
            passing.push(Passing {
                bytes,
                allocation,
                allocate,
                export,
                take_over,
                free,
            });
        }
    }
    Ok(passing)
}

fn measure_passing_once(gpu: &Gpu, bytes: u64, kind: Allocation) -> Result<[Duration; 4]> {
    let mut clock = Instant::now();
    let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
    let memory = gpu.allocate_as(bytes, kind, Mapping::Default)?;
    let allocate = lap();
    let fd = memory.export()?;
    let export = lap();
    let taken = dmabuf::DmabufFd::new(fd);
    let take_over = lap();
    // The fake's are none where there is no udmabuf.
    drop(taken);
    lap();
    drop(memory);
    Ok([allocate, export, take_over, lap()])
}
