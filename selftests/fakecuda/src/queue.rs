//! Operations in the fake CUDA driver's streams. They are executed only when a caller waits for
//! them, as late as a GPU may be, so that a caller that does not wait is found out.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::time::Instant;

use crate::state::{INVALID_HANDLE, NOT_READY, State};

const ILLEGAL_ADDRESS: c_int = 700;

unsafe extern "C" {
    /// Runs a GPU kernel on the CPU (`kernels.c`).
    fn fakecuda_run(kernel: c_int, blocks: u32, threads: u32, arguments: *mut *mut c_void);
}

/// An operation in a stream's queue. Addresses are plain numbers; the caller has exposed the
/// provenance of host addresses.
pub(crate) enum Work {
    /// Copies between any two addresses, of the device or of pinned host memory.
    Copy { to: u64, from: u64, len: usize },
    /// Copies bytes that the driver had taken over from the caller's memory.
    Bytes { to: u64, bytes: Vec<u8> },
    /// Writes a 32-bit value `count` times.
    Fill { to: u64, value: u32, count: usize },
    /// Runs a kernel; each argument's bytes are in the low end of a `u64`.
    Kernel {
        index: c_int,
        blocks: u32,
        threads: u32,
        arguments: Vec<u64>,
    },
    /// Records the event of this number.
    Mark(u64),
    /// Waits until another stream has come to this place.
    Wait(Place),
}

/// A point in a stream: after its first `count` operations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    stream: u64,
    count: u64,
}

#[derive(Default)]
pub(crate) struct Stream {
    queue: VecDeque<Work>,
    done: u64,
}

#[derive(Default)]
pub(crate) struct Event {
    place: Option<Place>,
    passed: Option<Instant>,
}

/// Number of the default stream, which calls without a stream use.
pub(crate) const DEFAULT_STREAM: u64 = 0;

impl State {
    fn stream(&mut self, stream: u64) -> Result<&mut Stream, c_int> {
        if stream == DEFAULT_STREAM {
            return Ok(self.streams.entry(DEFAULT_STREAM).or_default());
        }
        self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn enqueue(&mut self, stream: u64, work: Work) -> Result<(), c_int> {
        self.stream(stream)?.queue.push_back(work);
        Ok(())
    }

    pub(crate) fn record_event(&mut self, stream: u64, event: u64) -> Result<(), c_int> {
        let to = self.stream(stream)?;
        let count = to.done + to.queue.len() as u64 + 1;
        let marked = self.events.get_mut(&event).ok_or(INVALID_HANDLE)?;
        *marked = Event {
            place: Some(Place { stream, count }),
            passed: None,
        };
        self.enqueue(stream, Work::Mark(event))
    }

    /// Returns the point in a stream at which an event was recorded; `None` if it never was.
    pub(crate) fn event_place(&self, event: u64) -> Result<Option<Place>, c_int> {
        Ok(self.events.get(&event).ok_or(INVALID_HANDLE)?.place)
    }

    pub(crate) fn event_time(&self, event: u64) -> Result<Instant, c_int> {
        let event = self.events.get(&event).ok_or(INVALID_HANDLE)?;
        event.passed.ok_or(NOT_READY)
    }

    /// Executes all operations that are queued in a stream.
    pub(crate) fn finish(&mut self, stream: u64) -> Result<(), c_int> {
        let to = self.stream(stream)?;
        let count = to.done + to.queue.len() as u64;
        self.run_until(Place { stream, count })
    }

    pub(crate) fn finish_all(&mut self) {
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            // Errors of the work are told by another call.
            let _ = self.finish(stream);
        }
    }

    pub(crate) fn run_until(&mut self, place: Place) -> Result<(), c_int> {
        loop {
            let stream = self.stream(place.stream)?;
            if stream.done >= place.count {
                return Ok(());
            }
            let Some(work) = stream.queue.pop_front() else {
                return Ok(());
            };
            stream.done += 1;
            if let Err(code) = self.execute(work) {
                self.mark_lost(code);
                return Err(code);
            }
        }
    }

    fn execute(&mut self, work: Work) -> Result<(), c_int> {
        match work {
            Work::Copy { to, from, len } => {
                self.check_accessible(to, len)?;
                self.check_accessible(from, len)?;
                copy(to, pointer(from), len);
            }
            Work::Bytes { to, bytes } => {
                self.check_accessible(to, bytes.len())?;
                copy(to, bytes.as_ptr(), bytes.len());
            }
            Work::Fill { to, value, count } => {
                self.check_accessible(to, 4 * count)?;
                for i in 0..count as u64 {
                    copy(to + 4 * i, value.to_le_bytes().as_ptr(), 4);
                }
            }
            Work::Kernel {
                index,
                blocks,
                threads,
                mut arguments,
            } => {
                let values = arguments.iter_mut();
                let mut pointers: Vec<*mut c_void> = values
                    .map(|value| std::ptr::from_mut(value).cast())
                    .collect();
                // SAFETY: as many arguments as the kernel takes; the state is locked, so that no
                // other runs. What it touches is the business of who launched it: beyond its memory
                // are pages that nobody may touch.
                unsafe { fakecuda_run(index, blocks, threads, pointers.as_mut_ptr()) };
            }
            Work::Mark(event) => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.passed = Some(Instant::now());
                }
            }
            Work::Wait(place) => self.run_until(place)?,
        }
        Ok(())
    }

    /// Fails with an illegal address unless the bytes lie in pinned host memory or device memory
    /// that is still allocated.
    fn check_accessible(&self, at: u64, len: usize) -> Result<(), c_int> {
        let pinned = self.pinned.range(..=at).next_back();
        let of_host = pinned.is_some_and(|(start, size)| at - start + len as u64 <= *size as u64);
        if of_host || self.find_region(at, len).is_ok() {
            return Ok(());
        }
        Err(ILLEGAL_ADDRESS)
    }

    /// Counts an object that is freed while operations are still queued, which may need it.
    pub(crate) fn count_free_under_work(&mut self) {
        let under_way = self.streams.values().any(|stream| !stream.queue.is_empty());
        self.under_work += usize::from(under_way);
    }
}

fn pointer(at: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at as usize)
}

fn copy(to: u64, from: *const u8, len: usize) {
    // SAFETY: both were found to be memory that is there, or are the caller's own bytes.
    unsafe { std::ptr::copy(from, pointer(to), len) };
}
