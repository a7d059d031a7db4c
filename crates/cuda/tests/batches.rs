//! Tests of the kernels' source, run by the fake driver, against the CPU.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Chance, Fake};
use cuda::{Allocation, Buffer, Mapping, Worker};
use dmabuf::Dmabuf;
use payload::pattern::Pattern;
use payload::{Batch, BatchError, Device, DeviceError, Host};

const MIB: u64 = 1 << 20;
const BATCHES: usize = 10_000;

/// Size of the source region: it ends with its allocation, behind which the fake driver has pages
/// that must not be touched.
const SOURCE: u64 = 2 * MIB;
const DESTINATION: u64 = 300_000;

fn make_buffer(fake: &Fake, allocation: Allocation) -> Buffer {
    let gpu = fake.gpu();
    gpu.allocate_as(SOURCE, allocation, Mapping::Default)
        .unwrap()
}

/// A GPU worker, and a CPU device with the same bytes as its source.
fn worker_and_cpu(buffer: &Buffer, bytes: &[u8]) -> (Worker, Host) {
    buffer.write(0, bytes).unwrap();
    let worker = buffer.worker(DESTINATION).unwrap();
    (worker, cpu_device(bytes))
}

fn cpu_device(bytes: &[u8]) -> Host {
    Host::of_bytes(Arc::<[u8]>::from(bytes), DESTINATION).unwrap()
}

fn read_destination(worker: &mut Worker) -> Vec<u8> {
    let mut bytes = vec![0; DESTINATION as usize];
    worker.read(0, &mut bytes).unwrap();
    bytes
}

/// Random offset of `len` bytes in the source region, often near one of its ends.
fn random_source_offset(chance: &mut Chance, len: u64) -> u64 {
    let room = SOURCE - len + 1;
    match chance.below(8) {
        0 => chance.below(room.min(20)),
        1 => room - 1 - chance.below(room.min(20)),
        _ => chance.below(room),
    }
}

/// Random pieces in any order, which don't overlap in the destination but may touch.
fn scattered_batch(chance: &mut Chance) -> Batch {
    let mut pieces = Vec::new();
    let mut end = chance.below(50);
    for _ in 0..chance.below(40) {
        let len = chance.len().min(DESTINATION - end);
        if len == 0 {
            break;
        }
        pieces.push((random_source_offset(chance, len), len as u32, end));
        end += len;
        if chance.once_in(4) {
            end = (end + chance.below(600)).min(DESTINATION);
        }
    }
    for i in (1..pieces.len()).rev() {
        pieces.swap(i, chance.below(i as u64 + 1) as usize);
    }
    let mut batch = Batch::with_capacity(pieces.len());
    for (source, len, destination) in pieces {
        batch.push(source, len, destination);
    }
    batch
}

/// Random pieces that follow each other in the stream, from byte `begin` on.
fn stream_batch(chance: &mut Chance, begin: u64, pieces: u64) -> Batch {
    let mut batch = Batch::default();
    let mut at = begin;
    for _ in 0..pieces {
        let len = chance.len();
        batch.push(random_source_offset(chance, len), len as u32, at);
        at += len;
    }
    batch
}

#[test]
fn gpu_gathers_as_the_cpu_does() {
    let fake = Fake::new();
    let mut chance = Chance::new();
    for allocation in [Allocation::Plain, Allocation::Virtual] {
        let buffer = make_buffer(&fake, allocation);
        let bytes = chance.bytes(SOURCE as usize);
        let (mut worker, mut host) = worker_and_cpu(&buffer, &bytes);
        for turn in 0..BATCHES / 2 {
            let batch = scattered_batch(&mut chance);
            if turn % 64 == 0 {
                let bytes = chance.bytes(DESTINATION as usize);
                worker.write(0, &bytes).unwrap();
                host.write(0, &bytes).unwrap();
            }
            worker.gather(&batch).unwrap();
            host.gather(&batch).unwrap();
            // Bytes of the destination without a piece are compared, too.
            assert!(
                read_destination(&mut worker) == host.destination(),
                "turn {turn}: {batch:?}"
            );
        }
    }
}

#[test]
fn gpu_checksums_equal_the_cpus() {
    let fake = Fake::new();
    let mut chance = Chance::new();
    let buffer = make_buffer(&fake, Allocation::Plain);
    let bytes = chance.bytes(SOURCE as usize);
    let (mut worker, mut host) = worker_and_cpu(&buffer, &bytes);
    for turn in 0..BATCHES {
        let begin = chance.next() >> chance.below(64) >> 1;
        let pieces = chance.below(20);
        let batch = stream_batch(&mut chance, begin, pieces);
        assert_eq!(
            worker.crc32(&batch).unwrap(),
            host.crc32(&batch).unwrap(),
            "turn {turn}: {batch:?}"
        );
    }
}

/// The first wrong byte that the GPU finds is the one that the CPU finds, wherever bytes were
/// changed.
#[test]
fn gpu_finds_the_first_wrong_byte_that_the_cpu_finds() {
    let fake = Fake::new();
    let mut chance = Chance::new();
    let buffer = make_buffer(&fake, Allocation::Plain);
    let mut worker = buffer.worker(0).unwrap();
    let mut bad = 0;
    for turn in 0..BATCHES / 50 {
        let period = 1 + chance.below(256) as usize;
        let ahead = chance.next() >> chance.below(64) >> 1;
        let pattern = Pattern::new(period).unwrap();
        let mut bytes = vec![0; SOURCE as usize];
        pattern.fill(ahead, &mut bytes);
        for _ in 0..chance.below(60) {
            let at = chance.below(SOURCE) as usize;
            bytes[at] ^= 1 << chance.below(8);
        }
        buffer.write(0, &bytes).unwrap();
        let mut host = cpu_device(&bytes);
        for _ in 0..50 {
            let mut batch = Batch::default();
            for _ in 0..chance.below(20) {
                let len = chance.len();
                let from = random_source_offset(&mut chance, len);
                // Sometimes at a wrong position.
                let skew = if chance.once_in(100) {
                    chance.below(500)
                } else {
                    0
                };
                batch.push(from, len as u32, from + ahead + skew);
            }
            let found = worker.validate(&batch, &pattern).unwrap();
            let expected = host.validate(&batch, &pattern).unwrap();
            assert_eq!(found, expected, "turn {turn}: period {period} {batch:?}");
            bad += usize::from(found.is_some());
        }
    }
    assert!(bad > BATCHES / 20 && bad < BATCHES * 19 / 20, "{bad}");
}

/// Results for batches of more parts than are sent at once, and of pieces longer than a part, equal
/// the CPU's.
#[test]
fn large_batches_give_the_cpus_results() {
    let fake = Fake::new();
    let mut chance = Chance::new();
    let buffer = make_buffer(&fake, Allocation::Plain);
    let bytes = chance.bytes(SOURCE as usize);
    let (mut worker, mut host) = worker_and_cpu(&buffer, &bytes);
    worker.set_timing(true);

    let mut many = Batch::default();
    for i in 0..70_000u64 {
        let len = 1 + i % 4;
        many.push(
            chance.below(SOURCE - 4),
            len as u32,
            4 * i + chance.below(5 - len),
        );
    }
    worker.gather(&many).unwrap();
    assert!(worker.elapsed().is_some());
    host.gather(&many).unwrap();
    assert!(read_destination(&mut worker) == host.destination());

    let mut long = Batch::default();
    long.push(3, SOURCE as u32 - 3, 77);
    long.push(0, SOURCE as u32, 77 + SOURCE - 3);
    let mut one = stream_batch(&mut chance, 1 << 50, 60_000);
    one.push(1, 1, one.bytes() + (1 << 50));
    for batch in [&long, &one] {
        assert_eq!(worker.crc32(batch).unwrap(), host.crc32(batch).unwrap());
        let pattern = Pattern::default();
        assert_eq!(
            worker.validate(batch, &pattern).unwrap(),
            host.validate(batch, &pattern).unwrap()
        );
    }
}

/// A call that the worker refuses does not disturb the next call.
#[test]
fn a_refused_call_does_not_disturb_the_next() {
    let fake = Fake::new();
    let mut chance = Chance::new();
    let buffer = make_buffer(&fake, Allocation::Plain);
    let bytes = chance.bytes(SOURCE as usize);
    let (mut worker, mut host) = worker_and_cpu(&buffer, &bytes);
    worker.set_timing(true);
    for nth in 1u64.. {
        let mut refused = Batch::default();
        refused.push(5, 1000 + nth as u32, nth);
        fake.set("FAIL", &format!("*:{nth}:2"));
        if worker.gather(&refused).is_ok() && fake.failed_function().is_none() {
            assert!(nth > 10, "{nth}");
            break;
        }
        let pieces = 1 + chance.below(20);
        let batch = stream_batch(&mut chance, 0, pieces);
        fake.reset();
        assert_eq!(worker.crc32(&batch).unwrap(), host.crc32(&batch).unwrap());
    }
}

#[test]
fn a_batch_that_makes_no_sense_is_refused() {
    let fake = Fake::new();
    let buffer = make_buffer(&fake, Allocation::Plain);
    let mut worker = buffer.worker(DESTINATION).unwrap();
    let before = fake.call_count();
    let of = |pieces: &[(u64, u32, u64)]| {
        let mut batch = Batch::default();
        for (source, len, destination) in pieces {
            batch.push(*source, *len, *destination);
        }
        batch
    };
    for (batch, wanted) in [
        (of(&[(0, 0, 0)]), "no bytes"),
        (of(&[(SOURCE - 1, 2, 0)]), "leave the source"),
        (of(&[(u64::MAX, 2, 0)]), "leave the source"),
        (of(&[(0, 2, DESTINATION - 1)]), "leave the destination"),
        (of(&[(0, 9, 8), (0, 9, 0)]), "overlap"),
    ] {
        let error = worker.gather(&batch).unwrap_err();
        assert!(matches!(error, DeviceError::Batch(_)), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let error = worker.crc32(&of(&[(0, 2, 0), (0, 2, 3)])).unwrap_err();
    assert!(
        matches!(error, DeviceError::Batch(BatchError::Gap { .. })),
        "{error}"
    );
    for (offset, len) in [(DESTINATION, 1), (DESTINATION - 1, 2), (u64::MAX, 1)] {
        let mut out = vec![0; len];
        let error = worker.read(offset, &mut out).unwrap_err();
        assert!(matches!(error, DeviceError::Memory(_)), "{error}");
        let error = worker.write(offset, &out).unwrap_err();
        assert!(error.to_string().contains("lie outside"), "{error}");
    }
    assert!(buffer.read(SOURCE, &mut [0]).is_err());
    assert!(worker.copy(0, DESTINATION + 1).is_err());
    assert!(worker.copy(SOURCE, 1).is_err());
    let empty = Batch::default();
    worker.gather(&empty).unwrap();
    assert_eq!(worker.crc32(&empty).unwrap(), 0);
    assert_eq!(worker.validate(&empty, &Pattern::default()).unwrap(), None);
    // Two of the calls for each copy, which the owner of the memory checks, with its events around.
    assert!(fake.call_count() - before < 30, "the GPU was asked");
    assert_eq!(buffer.len(), SOURCE);
}
