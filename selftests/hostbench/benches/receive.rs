//! Measures the receive path in user space: per frag, from the control message to
//! `SO_DEVMEM_DONTNEED`, and per validated byte, against `memcmp`.
//!
//! `make bench-host` runs it and writes `target/criterion-summary.json`.

#![allow(missing_docs, reason = "criterion_group! makes a function without")]

mod kernel;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devmem::cmsg::DmabufCmsg;
use devmem::pattern::Pattern;
use devmem::sink::{Discard, Memory, Sink, Validate};
use devmem::{DevmemStream, DmabufId, RecvBuffer, Thresholds};

/// Length of a frag in bytes: a page, as niovs are.
const FRAG: usize = 4096;
/// Number of frags that an engine's receive buffer has room for.
const FRAGS: usize = 1024;

/// Number of times that each measurement is repeated, in turn with the others: another program may
/// occupy the processor and its caches for a while.
const ROUNDS: usize = 3;
/// Period of the pattern in bytes. The number of frags is a multiple of it, so that the stream
/// continues when the frags start again; each frag is compared with the pattern from another offset
/// in a cache line on.
const PERIOD: usize = 63;

/// Returns `count` consecutive frags with the lowest tokens, as a socket issues them when none is
/// outstanding.
fn frags(count: usize) -> Vec<DmabufCmsg> {
    let frag = |token| DmabufCmsg {
        frag_offset: (token * FRAG) as u64,
        frag_size: FRAG as u32,
        frag_token: token as u32,
        dmabuf_id: kernel::DMABUF,
    };
    (0..count).map(frag).collect()
}

/// Returns a stream that receives the same frags on each call, and frees them before the next.
fn stream(frags: &[DmabufCmsg]) -> (DevmemStream<File>, RecvBuffer) {
    kernel::set_received(frags);
    let thresholds = Thresholds {
        frags: frags.len() as u32,
        ..Thresholds::default()
    };
    let socket = File::open("/dev/null").expect("/dev/null");
    (
        DevmemStream::with_thresholds(socket, thresholds),
        RecvBuffer::with_capacity(frags.len() * FRAG, frags.len()),
    )
}

fn per_frag(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frag");
    let mut bench = |name: String, frags: &[DmabufCmsg]| {
        group.throughput(Throughput::Elements(frags.len() as u64));
        group.bench_function(name, |bencher| {
            let (mut stream, mut buffer) = stream(frags);
            bencher.iter(|| {
                let mut received = stream.recv(&mut buffer).expect("recv");
                Discard.consume(&mut received).expect("discard");
            });
        });
    };
    // Tokens that came back in any order are issued in that order again.
    let mut scattered = frags(FRAGS);
    for (at, frag) in scattered.iter_mut().enumerate() {
        frag.frag_token = (at * 389 % FRAGS) as u32;
    }
    for round in 1..=ROUNDS {
        for count in [FRAGS, 64, 8, 1] {
            bench(format!("{count} a call {round}"), &frags(count));
        }
        bench(format!("scattered tokens {round}"), &scattered);
    }
    group.finish();
    assert!(kernel::freed_frags() > 0, "tokens go back");
}

fn per_byte(criterion: &mut Criterion) {
    // Within the second-level cache, and far beyond the last.
    for (name, count) in [("in cache", PERIOD), ("in memory", 260 * PERIOD)] {
        let mut group = criterion.benchmark_group(format!("validate {name}"));
        let len = count * FRAG;
        group.throughput(Throughput::Bytes(len as u64));
        let pattern = Pattern::new(PERIOD).expect("a pattern");
        let mut bytes = vec![0; len];
        pattern.fill(0, &mut bytes);
        let (mapping, plain) = kernel::Memory::of(&bytes);
        // A table no longer than it must be stays in the first-level cache: the memory is all that is
        // read from beyond.
        let table = &bytes[..FRAG + PERIOD];
        let memory = Memory::new().with(DmabufId::new(kernel::DMABUF), Arc::new(mapping));
        let frags = frags(count);
        let (mut stream, mut buffer) = stream(&frags);
        let mut sink = Validate::new(pattern, memory);
        for round in 1..=ROUNDS {
            group.bench_function(format!("memcmp {round}"), |bencher| {
                bencher.iter(|| {
                    for (number, frag) in plain.chunks(FRAG).enumerate() {
                        let phase = number * FRAG % PERIOD;
                        assert!(frag == &table[phase..phase + FRAG]); // `memcmp`
                    }
                });
            });
            group.bench_function(format!("sink {round}"), |bencher| {
                bencher.iter(|| {
                    let mut received = stream.recv(&mut buffer).expect("recv");
                    sink.consume(&mut received).expect("validate");
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50);
    targets = per_frag, per_byte
}
criterion_main!(benches);
