//! A GPU at work on a buffer.

mod tables;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dmabuf::Error::OutOfBounds;
use payload::pattern::{Mismatch, Pattern};
use payload::{Batch, Descriptor, Device, DeviceError, crc};

use crate::error::Error;
use crate::gpu::Gpu;
use crate::parts::{Parts, Side, part_len};
use crate::sys::{Argument, Event, Kernel, Memory, Pinned, Stream};

/// Threads of a block, as the kernels have it.
const THREADS: u32 = 256;
/// Parts that a block works on at once: one a warp.
const PARTS_PER_BLOCK: u32 = THREADS / 32;
/// Blocks a multiprocessor of the kernels that begin by making a table: what it runs at once. The
/// gather has one for each of its parts, which are even out by themselves.
const BLOCKS: u32 = 4;
/// Partial sums of `devmem_crc32`.
const SLOTS: usize = 1024;
/// Parts that are told at once: while a GPU works on these, the next are on their way to it.
const SLICE: usize = 16 << 10;

/// A GPU at work on the memory of a [`Buffer`](crate::Buffer): gathers pieces of it into a region of
/// its own, holds them against a pattern, sums them up.
///
/// A call brings the batch to the GPU, runs a kernel, brings the result back, and waits for it once.
/// It may be made from any thread; whatever context that has stays its. Reads and writes of the
/// region are done as [`Buffer::write`](crate::Buffer::write) is.
pub struct Worker {
    // In this order they go: the streams wait before what they work on is freed.
    upload: Stream,
    stream: Stream,
    slices: [Slice; 2],
    begin: Event,
    end: Event,
    gather: Kernel,
    validate: Kernel,
    crc32: Kernel,
    tables: Memory,
    results: Memory,
    answer: Pinned,
    destination: Option<Memory>,
    source: Arc<Memory>,
    gpu: Gpu,
    timing: bool,
    elapsed: Option<Duration>,
}

/// Room for the parts that are told at once, on both sides.
struct Slice {
    host: Pinned,
    device: Memory,
    /// The parts have arrived.
    uploaded: Event,
    /// They are worked off.
    done: Event,
    busy: bool,
}

impl Slice {
    fn new(gpu: &Gpu) -> Result<Self, Error> {
        let len = SLICE * size_of::<Descriptor>();
        Ok(Self {
            host: Pinned::new(gpu.context(), len)?,
            device: Memory::plain(gpu.context(), len as u64)?,
            uploaded: Event::new(gpu.context())?,
            done: Event::new(gpu.context())?,
            busy: false,
        })
    }

    /// Sends the next parts to the GPU, and has `stream` wait for them. Says how many.
    fn send(
        &mut self,
        parts: &mut Parts<'_>,
        upload: &Stream,
        stream: &Stream,
    ) -> Result<u32, Error> {
        if std::mem::take(&mut self.busy) {
            self.done.wait()?;
        }
        let count = self.host.fill(parts);
        if count > 0 {
            upload.upload(&self.device, &self.host, count * size_of::<Descriptor>())?;
            self.uploaded.record(upload)?;
            stream.wait_for(&self.uploaded)?;
        }
        Ok(count as u32)
    }
}

impl Worker {
    pub(crate) fn new(gpu: &Gpu, source: Arc<Memory>, destination_len: u64) -> Result<Self, Error> {
        let context = gpu.context();
        let module = gpu.module()?;
        let tables = tables::tables();
        let worker = Self {
            upload: Stream::new(context)?,
            stream: Stream::new(context)?,
            slices: [Slice::new(gpu)?, Slice::new(gpu)?],
            begin: Event::new(context)?,
            end: Event::new(context)?,
            gather: module.kernel(c"devmem_gather")?,
            validate: module.kernel(c"devmem_validate")?,
            crc32: module.kernel(c"devmem_crc32")?,
            tables: Memory::plain(context, tables.len() as u64)?,
            results: Memory::plain(context, 4 * SLOTS as u64)?,
            answer: Pinned::new(context, 4 * SLOTS)?,
            destination: match destination_len {
                0 => None,
                len => Some(Memory::plain(context, len)?),
            },
            source,
            gpu: gpu.clone(),
            timing: false,
            elapsed: None,
        };
        worker.tables.write(0, &tables)?;
        Ok(worker)
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Where the destination region is: a `CUdeviceptr`, for whoever uses the same GPU in this
    /// process; 0 without one.
    pub fn destination(&self) -> u64 {
        self.destination.as_ref().map_or(0, Memory::address)
    }

    /// Whether to take the time of the calls from now on.
    pub fn set_timing(&mut self, timing: bool) {
        self.timing = timing;
        self.elapsed = None;
    }

    /// How long the GPU was at the last call: from the begin of its first kernel to the end of its
    /// last, by the GPU's own clock, without the way there and back. The clock starts before the
    /// kernel is told: of a small batch, the launch's submission is much of it.
    pub fn elapsed(&self) -> Option<Duration> {
        self.elapsed
    }

    /// Copies `len` bytes at `offset` of the source to the begin of the destination
    /// (`cuMemcpyDtoDAsync`), and says how long the GPU was at it: what a gather is to be measured
    /// by.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; what the driver answers.
    pub fn copy(&mut self, offset: u64, len: u64) -> Result<Duration, Error> {
        let Some(destination) = &self.destination else {
            return Err(Error::OutOfBounds {
                offset,
                len,
                size: 0,
            });
        };
        self.begin.record(&self.stream)?;
        let copied = self.stream.copy(destination, &self.source, offset, len);
        let copied = copied.and_then(|()| self.end.record(&self.stream));
        let waited = self.stream.wait();
        copied.and(waited)?;
        self.end.since(&self.begin)
    }

    /// Has a kernel work on the batch, cut where that `side` of a piece is best cut, and waits for it.
    fn run(&mut self, batch: &Batch, side: Side, task: &Task) -> Result<(), Error> {
        self.elapsed = None;
        self.gpu.see_writes()?;
        let enqueued = self.enqueue(batch, side, task);
        if enqueued.is_err() {
            // What is enqueued already has an end, before anything else is done with the memory.
            let _ = self.upload.wait();
        }
        let waited = self.stream.wait();
        self.slices.iter_mut().for_each(|slice| slice.busy = false);
        enqueued.and(waited)?;
        if self.timing {
            self.elapsed = Some(self.end.since(&self.begin)?);
        }
        Ok(())
    }

    fn enqueue(&mut self, batch: &Batch, side: Side, task: &Task) -> Result<(), Error> {
        let multiprocessors = self.gpu.info().multiprocessors;
        let mut parts = Parts::new(batch, part_len(batch.bytes(), multiprocessors), side);
        let most = match task {
            Task::Gather { .. } => u32::MAX,
            Task::Validate { .. } | Task::Crc32 { .. } => BLOCKS * multiprocessors.max(1),
        };
        if let Some(clear) = task.clear() {
            self.stream.fill(&self.results, clear, SLOTS)?;
        }
        let mut timed = !self.timing;
        for turn in (0..self.slices.len()).cycle() {
            let slice = &mut self.slices[turn];
            let count = slice.send(&mut parts, &self.upload, &self.stream)?;
            if count == 0 {
                break;
            }
            if !std::mem::replace(&mut timed, true) {
                self.begin.record(&self.stream)?;
            }
            let blocks = count.div_ceil(PARTS_PER_BLOCK).min(most);
            let list = self.slices[turn].device.address();
            let (kernel, arguments) = self.call(task, list, count);
            self.stream.launch(kernel, (blocks, THREADS), &arguments)?;
            let slice = &mut self.slices[turn];
            slice.done.record(&self.stream)?;
            slice.busy = true;
        }
        if self.timing {
            self.end.record(&self.stream)?;
        }
        if task.clear().is_some() {
            let len = 4 * SLOTS;
            self.stream.download(&mut self.answer, &self.results, len)?;
        }
        Ok(())
    }

    /// The kernel of a task, and its arguments in the order in which it takes them.
    fn call(&self, task: &Task, list: u64, count: u32) -> (&Kernel, Vec<Argument>) {
        use Argument::{Long, Word};
        let source = Long(self.source.address());
        let (list, count) = (Long(list), Word(count));
        let results = Long(self.results.address());
        match *task {
            Task::Gather { to } => (&self.gather, vec![source, Long(to), list, count]),
            Task::Validate { period } => (
                &self.validate,
                vec![source, list, count, Word(period), results],
            ),
            Task::Crc32 { end } => {
                let tables = Long(self.tables.address());
                let arguments = vec![source, list, count, Long(end), tables, results];
                (&self.crc32, arguments)
            }
        }
    }

    /// The bad byte of which the GPU has found the place.
    fn mismatch(&self, batch: &Batch, pattern: &Pattern, offset: u64) -> Result<Mismatch, Error> {
        let expected = pattern.byte(offset);
        let mut first = None;
        for piece in batch.descriptors() {
            let inside = offset.checked_sub(piece.destination);
            let Some(inside) = inside.filter(|inside| *inside < u64::from(piece.len)) else {
                continue;
            };
            let mut got = [0];
            self.source.read(piece.source + inside, &mut got)?;
            if got[0] != expected {
                first = Some(got[0]);
                break;
            }
            // The memory may have changed since, which is a fault as well.
            first = first.or(Some(got[0]));
        }
        Ok(Mismatch::new(offset, expected, first.unwrap_or(expected)))
    }
}

/// What a kernel is to do.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// To that address.
    Gather { to: u64 },
    /// Against the pattern of that period.
    Validate { period: u32 },
    /// Of a stream that ends there.
    Crc32 { end: u64 },
}

impl Task {
    /// What the results are before, word by word.
    fn clear(&self) -> Option<u32> {
        match self {
            Task::Gather { .. } => None,
            Task::Validate { .. } => Some(u32::MAX),
            Task::Crc32 { .. } => Some(0),
        }
    }
}

/// Says of a device's error what the device was to do.
fn doing(operation: &'static str) -> impl Fn(Error) -> DeviceError {
    move |error| match error {
        Error::OutOfBounds { offset, len, size } => DeviceError::Memory(OutOfBounds {
            offset,
            len: len as usize,
            size: size as usize,
        }),
        error => DeviceError::Device {
            operation,
            lost: error.is_lost(),
            source: Box::new(error),
        },
    }
}

impl Device for Worker {
    fn source_len(&self) -> u64 {
        self.source.len()
    }

    fn destination_len(&self) -> u64 {
        self.destination.as_ref().map_or(0, Memory::len)
    }

    fn gather(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        batch.check_gather(self.source_len(), self.destination_len())?;
        if batch.is_empty() {
            return Ok(());
        }
        let to = self.destination();
        self.run(batch, Side::Destination, &Task::Gather { to })
            .map_err(doing("gather on the GPU"))
    }

    fn validate(
        &mut self,
        batch: &Batch,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, DeviceError> {
        const NONE: u64 = u64::MAX;
        batch.check_validate(self.source_len())?;
        if batch.is_empty() {
            return Ok(None);
        }
        let period = pattern.period() as u32;
        self.run(batch, Side::Source, &Task::Validate { period })
            .map_err(doing("validate on the GPU"))?;
        let mut first = [0; 8];
        self.answer.read(&mut first);
        match u64::from_le_bytes(first) {
            NONE => Ok(None),
            offset => (self.mismatch(batch, pattern, offset))
                .map(Some)
                .map_err(doing("validate on the GPU")),
        }
    }

    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError> {
        batch.check_crc32(self.source_len())?;
        let Some(last) = batch.descriptors().last() else {
            return Ok(0);
        };
        let end = last.destination + u64::from(last.len);
        self.run(batch, Side::Source, &Task::Crc32 { end })
            .map_err(doing("sum up on the GPU"))?;
        let mut slots = [0; 4 * SLOTS];
        self.answer.read(&mut slots);
        let sum = (slots.chunks_exact(4))
            .map(|slot| u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]))
            .fold(0, |sum, slot| sum ^ slot);
        let sum = crc::multiply(sum, tables::BLOCK_LESS);
        Ok(crc::complete(sum, batch.bytes()))
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let destination = self.place(offset, out.len())?;
        destination.map_or(Ok(()), |destination| {
            (destination.read(offset, out)).map_err(doing("read from the GPU"))
        })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let destination = self.place(offset, bytes.len())?;
        destination.map_or(Ok(()), |destination| {
            (destination.write(offset, bytes)).map_err(doing("write to the GPU"))
        })
    }
}

impl Worker {
    /// The destination, if `len` bytes at `offset` lie in it; none for none.
    fn place(&self, offset: u64, len: usize) -> Result<Option<&Memory>, DeviceError> {
        let size = self.destination_len();
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            let size = size as usize;
            return Err(OutOfBounds { offset, len, size }.into());
        }
        Ok(self.destination.as_ref().filter(|_| len > 0))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("gpu", &self.gpu.info().ordinal)
            .field("source_len", &self.source.len())
            .field("destination_len", &self.destination_len())
            .finish_non_exhaustive()
    }
}
