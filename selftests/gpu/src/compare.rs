//! Comparison of random batches on the GPU with the same batches on the CPU.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cuda::{DeviceMemory, Worker};
use payload::pattern::Pattern;
use payload::{Batch, Device, DeviceError, Host};
use serde::Serialize;

use crate::random::Random;

/// Length of the source buffer and of the destination buffer, in bytes.
pub(crate) const REGION: u64 = 1 << 20;

/// Counts of a comparison of the GPU's results with the CPU's.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Compared {
    /// Number of batches of each operation.
    pub(crate) batches: u64,
    /// Number of pieces in all compared batches.
    pub(crate) pieces: u64,
    /// Number of bytes in all compared batches.
    pub(crate) bytes: u64,
    /// Number of malformed batches that GPU and CPU both refused, for the same reason.
    pub(crate) refused: u64,
    /// Number of batches in which GPU and CPU found the same wrong byte.
    pub(crate) mismatches: u64,
}

/// Compares `batches` random batches of each operation on the GPU with the same on the CPU, each
/// over fresh bytes; fewer, but at least one, if `end` comes first.
pub(crate) fn compare(
    memory: &DeviceMemory,
    batches: u64,
    end: Instant,
    random: &mut Random,
) -> Result<Compared> {
    let mut pair = GpuAndHost {
        memory,
        gpu: memory.worker(REGION).context("worker")?,
        source: vec![0; REGION as usize],
        destination: vec![0; REGION as usize],
    };
    let mut compared = Compared::default();
    for number in 0..batches {
        if number > 0 && Instant::now() > end {
            break;
        }
        let gathered = pair.gather(random);
        let summed = gathered.and_then(|batch| pair.crc32(random).map(|sum| (batch, sum)));
        let validated = summed.and_then(|done| pair.validate(random).map(|valid| (done, valid)));
        let ((gathered, summed), (validated, found)) =
            validated.with_context(|| format!("batch {number}"))?;
        for batch in [&gathered, &summed, &validated] {
            compared.pieces += batch.len() as u64;
            compared.bytes += batch.bytes();
        }
        compared.mismatches += u64::from(found);
        if number % 16 == 0 {
            pair.check_refusal(random)
                .with_context(|| format!("batch {number}, spoilt"))?;
            compared.refused += 1;
        }
        compared.batches += 1;
    }
    Ok(compared)
}

/// The GPU under test, and the bytes from which the CPU computes the expected results.
struct GpuAndHost<'a> {
    memory: &'a DeviceMemory,
    gpu: Worker,
    source: Vec<u8>,
    destination: Vec<u8>,
}

impl GpuAndHost<'_> {
    /// Writes the source bytes to the GPU and returns a CPU implementation over the same bytes.
    fn host_twin(&mut self) -> Result<Host> {
        self.memory
            .write(0, &self.source)
            .context("fill the source")?;
        let mut host = Host::of_bytes(self.source.as_slice(), REGION)?;
        host.write(0, &self.destination)?;
        Ok(host)
    }

    /// Gathers a random batch on GPU and CPU. The whole destination is compared, so that a byte
    /// written beside the pieces is found, too.
    fn gather(&mut self, random: &mut Random) -> Result<Batch> {
        random.fill(&mut self.source);
        random.fill(&mut self.destination);
        let batch = random_gather(random);
        let mut host = self.host_twin()?;
        self.gpu.write(0, &self.destination)?;
        self.gpu.gather(&batch).context("gather")?;
        host.gather(&batch)?;
        self.gpu.read(0, &mut self.destination)?;
        if self.destination != host.destination() {
            let mut pairs = self.destination.iter().zip(host.destination());
            let at = pairs.position(|(ours, other)| ours != other);
            bail!("gathered otherwise than by the processor, from byte {at:?}: {batch:?}");
        }
        Ok(batch)
    }

    fn crc32(&mut self, random: &mut Random) -> Result<Batch> {
        random.fill(&mut self.source);
        let batch = random_stream(random);
        let mut host = self.host_twin()?;
        let sums = (
            self.gpu.crc32(&batch).context("crc32")?,
            host.crc32(&batch)?,
        );
        ensure!(
            sums.0 == sums.1,
            "{:08x}, not {:08x}: {batch:?}",
            sums.0,
            sums.1
        );
        Ok(batch)
    }

    /// Validates a random batch on GPU and CPU, over the pattern with a few bytes changed. Returns
    /// whether a wrong byte was found.
    fn validate(&mut self, random: &mut Random) -> Result<(Batch, bool)> {
        let batch = random_stream(random);
        let period = 1 + random.below(300) as usize;
        let pattern = Pattern::new(period)?;
        for piece in batch.descriptors() {
            let from = piece.source as usize;
            let room = &mut self.source[from..from + piece.len as usize];
            pattern.fill(piece.destination, room);
        }
        for _ in 0..random.below(3) {
            let pieces = batch.descriptors();
            if !pieces.is_empty() {
                let piece = pieces[random.below(pieces.len() as u64) as usize];
                let at = piece.source + random.below(piece.len.into());
                self.source[at as usize] ^= 1 << random.below(8);
            }
        }
        let mut host = self.host_twin()?;
        let found = (
            self.gpu.validate(&batch, &pattern).context("validate")?,
            host.validate(&batch, &pattern)?,
        );
        ensure!(
            found.0 == found.1,
            "{:?}, not {:?}: {batch:?}",
            found.0,
            found.1
        );
        Ok((batch, found.1.is_some()))
    }

    /// Checks that GPU and CPU refuse a malformed batch for the same reason.
    fn check_refusal(&mut self, random: &mut Random) -> Result<()> {
        let mut batch = random_gather(random);
        match random.below(4) {
            0 => batch.push(0, 0, 0),
            1 => batch.push(REGION - 1, 2, 0),
            2 => batch.push(0, 2, REGION - 1),
            _ => (0..2).for_each(|_| batch.push(0, 9, 9)),
        }
        let mut host = Host::of_bytes(self.source.as_slice(), REGION)?;
        match (self.gpu.gather(&batch), host.gather(&batch)) {
            (Err(DeviceError::Batch(ours)), Err(DeviceError::Batch(other))) if ours == other => {
                Ok(())
            }
            (ours, other) => bail!("{ours:?}, not {other:?}: {batch:?}"),
        }
    }
}

/// Returns a random number of pieces: mostly few, sometimes up to 2,000.
fn random_count(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(2),
        1 => random.below(2000),
        _ => 1 + random.below(64),
    }
}

/// Returns a random length of a piece in bytes: of a few bytes, a packet, a page or more.
fn random_length(random: &mut Random) -> u64 {
    1 + match random.below(8) {
        0 => random.below(20),
        1 => random.below(70_000),
        2 => 4095,
        _ => random.below(5000),
    }
}

/// Returns a random offset in the source with room for `len` bytes, sometimes at the start of a
/// page.
fn random_offset(random: &mut Random, len: u64) -> u64 {
    let at = random.below(REGION - len + 1);
    match random.once_in(3) {
        true => at & !4095,
        false => at,
    }
}

/// Returns a random batch for a gather: pieces that don't overlap in the destination, in any order.
fn random_gather(random: &mut Random) -> Batch {
    let most = random_count(random);
    let (mut pieces, mut at) = (Vec::new(), 0);
    for _ in 0..most {
        at += match random.once_in(2) {
            true => 0,
            false => random.below(100),
        };
        let len = random_length(random);
        if at + len > REGION {
            break;
        }
        pieces.push((random_offset(random, len), len as u32, at));
        at += len;
    }
    if random.once_in(2) {
        random.shuffle(&mut pieces);
    }
    let mut batch = Batch::default();
    for (source, len, destination) in pieces {
        batch.push(source, len, destination);
    }
    batch
}

/// Returns a random batch of consecutive pieces of a stream, from any offset of the stream on.
fn random_stream(random: &mut Random) -> Batch {
    let mut batch = Batch::default();
    let mut at = match random.below(3) {
        0 => 0,
        1 => random.below(1 << 20),
        _ => random.number() >> 1,
    };
    for _ in 0..random_count(random) {
        let len = random_length(random);
        batch.push(random_offset(random, len), len as u32, at);
        at += len;
    }
    batch
}
