//! The receive path allocates nothing once it runs.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "../benches/kernel/mod.rs"]
mod kernel;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;

use devmem::cmsg::DmabufCmsg;
use devmem::pattern::Pattern;
use devmem::sink::{Checksum, Discard, Memory, Sink, Validate};
use devmem::{DevmemStream, DmabufId, RecvBuffer};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// A global allocator that counts the allocations of each thread.
struct Counting;

// SAFETY: all memory is the system allocator's, under the same layout; the count is beside it, and
// neither allocates nor is destroyed with its thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const FRAG: usize = 4096;
const FRAGS: usize = 251;

/// Returns the number of allocations during a hundred receives, after a warm-up; asserts that each
/// frag was freed.
fn allocations(scatter: usize, mut sink: impl Sink) -> u64 {
    let frags: Vec<_> = (0..FRAGS)
        .map(|at| DmabufCmsg {
            frag_offset: (at * FRAG) as u64,
            frag_size: FRAG as u32,
            frag_token: (at * scatter % FRAGS) as u32,
            dmabuf_id: kernel::DMABUF,
        })
        .collect();
    kernel::set_received(&frags);
    let mut stream = DevmemStream::new(File::open("/dev/null").unwrap());
    let mut buffer = RecvBuffer::new();
    let mut receive = |times: usize| {
        for _ in 0..times {
            let mut received = stream.recv(&mut buffer).unwrap();
            assert_eq!(received.frags(), FRAGS);
            sink.consume(&mut received).unwrap();
        }
    };
    receive(3);
    let before = ALLOCATIONS.get();
    receive(100);
    let after = ALLOCATIONS.get();
    let freed = kernel::freed_frags();
    assert_eq!(stream.close().unwrap().tokens.outstanding(), 0);
    assert!(kernel::freed_frags() > freed, "the last of them went back");
    after - before
}

/// Returns a pattern, and memory filled with it: a whole number of periods, so that receiving the
/// memory repeatedly continues the pattern.
fn memory() -> (Pattern, Memory) {
    let pattern = Pattern::new(FRAGS).unwrap();
    let mut bytes = vec![0; FRAGS * FRAG];
    pattern.fill(0, &mut bytes);
    let (mapping, _) = kernel::Memory::of(&bytes);
    let memory = Memory::new().with(DmabufId::new(kernel::DMABUF), Arc::new(mapping));
    (pattern, memory)
}

#[test]
fn nothing_is_allocated_for_a_frag() {
    // The count itself: a test that sees no allocation at all would see none here.
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1);

    for scatter in [1, 100] {
        assert_eq!(allocations(scatter, Discard), 0, "discarded");
        let (pattern, memory) = memory();
        let checksum = Checksum::new(memory.clone());
        assert_eq!(allocations(scatter, checksum), 0, "summed up");
        let validate = Validate::new(pattern, memory);
        assert_eq!(allocations(scatter, validate), 0, "validated");
    }
}
