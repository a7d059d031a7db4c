//! A GPU's work on a buffer: gathering, validation, checksums.

mod tables;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dmabuf::Error::OutOfBounds;
use payload::pattern::{Mismatch, Pattern};
use payload::{Batch, Descriptor, Device, DeviceError, crc};

use crate::buffer::{Buffer, DeviceMemory};
use crate::error::Error;
use crate::gpu::Gpu;
use crate::parts::{AlignedSide, Parts, part_len};
use crate::sys::{Argument, Event, Kernel, Memory, Pinned, Stream};

/// Number of threads in a CUDA block, as in the kernels' source.
const THREADS: u32 = 256;
/// Number of parts of the payload that a CUDA block works on at once: one for each warp.
const PARTS_PER_BLOCK: u32 = THREADS / 32;
/// Number of CUDA blocks for each multiprocessor, of kernels that begin by making a table: as many
/// as a multiprocessor runs at once. The gather kernel has a block for each eight parts, which
/// spread evenly by themselves.
const BLOCKS: u32 = 4;
/// Number of partial sums that the kernel `devmem_crc32` computes.
const PARTIAL_SUMS: usize = 1024;
/// Number of parts whose descriptors are copied to the GPU at once: the next are copied while the
/// GPU works on these.
const PARTS_AT_ONCE: usize = 16 << 10;

/// A GPU that works on the memory of a [`Buffer`](crate::Buffer): gathers pieces of that memory
/// into a region of its own, compares the pieces with a pattern, or computes their checksum.
///
/// A call copies the batch to the GPU, runs a kernel, copies the result back, and waits once. It
/// may be made from any thread, whose current context stays current. The region is read and written
/// as [`Buffer::write`](crate::Buffer::write) does.
pub struct Worker {
    // Drop order: the streams wait before the memory that they work on is freed.
    upload: Stream,
    stream: Stream,
    slices: [DescriptorBuffers; 2],
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

/// Buffers for the descriptors that are copied at once, on the host and on the GPU.
struct DescriptorBuffers {
    host: Pinned,
    device: Memory,
    /// Event that is reached when the descriptors have been copied.
    uploaded: Event,
    /// Event that is reached when the parts have been processed.
    done: Event,
    busy: bool,
}

impl DescriptorBuffers {
    fn new(gpu: &Gpu) -> Result<Self, Error> {
        let len = PARTS_AT_ONCE * size_of::<Descriptor>();
        Ok(Self {
            host: Pinned::new(gpu.context(), len)?,
            device: Memory::allocate_plain(gpu.context(), len as u64)?,
            uploaded: Event::new(gpu.context())?,
            done: Event::new(gpu.context())?,
            busy: false,
        })
    }

    /// Copies the descriptors of the next parts to the GPU, makes `stream` wait for them, and
    /// returns the number of parts.
    fn copy_descriptors(
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

impl DeviceMemory {
    /// Creates a worker of the GPU on this memory, with a region of `destination_len` bytes, 0 for
    /// none, to gather into. The worker keeps the memory alive, not an fd of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn worker(&self, destination_len: u64) -> Result<Worker, Error> {
        Worker::new(&self.gpu, Arc::clone(&self.memory), destination_len)
    }
}

impl Buffer {
    /// Creates a worker of the GPU on this memory, with a region of `destination_len` bytes, 0 for
    /// none, to gather into. The worker keeps the memory alive, not an fd of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn worker(&self, destination_len: u64) -> Result<Worker, Error> {
        self.memory.worker(destination_len)
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
            slices: [DescriptorBuffers::new(gpu)?, DescriptorBuffers::new(gpu)?],
            begin: Event::new(context)?,
            end: Event::new(context)?,
            gather: module.kernel(c"devmem_gather")?,
            validate: module.kernel(c"devmem_validate")?,
            crc32: module.kernel(c"devmem_crc32")?,
            tables: Memory::allocate_plain(context, tables.len() as u64)?,
            results: Memory::allocate_plain(context, 4 * PARTIAL_SUMS as u64)?,
            answer: Pinned::new(context, 4 * PARTIAL_SUMS)?,
            destination: match destination_len {
                0 => None,
                len => Some(Memory::allocate_plain(context, len)?),
            },
            source,
            gpu: gpu.clone(),
            timing: false,
            elapsed: None,
        };
        worker.tables.write(0, &tables)?;
        Ok(worker)
    }

    /// GPU that does the worker's work.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Address of the destination region: a `CUdeviceptr`, for code in this process that uses the
    /// same GPU; 0 without a region.
    pub fn destination(&self) -> u64 {
        self.destination.as_ref().map_or(0, Memory::address)
    }

    /// Sets whether later calls measure the time that the GPU takes ([`Worker::elapsed`]).
    pub fn set_timing(&mut self, timing: bool) {
        self.timing = timing;
        self.elapsed = None;
    }

    /// Time that the GPU took for the last call: from the begin of its first kernel to the end of
    /// its last, by the GPU's clock, without copies to the GPU and back. The time includes the
    /// launch's submission, which is much of it for a small batch.
    pub fn elapsed(&self) -> Option<Duration> {
        self.elapsed
    }

    /// Copies `len` bytes at `offset` of the source to the begin of the destination
    /// (`cuMemcpyDtoDAsync`), and returns the GPU's time: a baseline for gathering.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; those of the driver.
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

    /// Runs a CUDA kernel on the batch, divided along `side`, and waits for it.
    fn run(&mut self, batch: &Batch, side: AlignedSide, task: &Task) -> Result<(), Error> {
        self.elapsed = None;
        self.gpu.flush_nic_writes()?;
        let enqueued = self.enqueue(batch, side, task);
        if enqueued.is_err() {
            // Work that is enqueued must end before the memory is used otherwise.
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

    fn enqueue(&mut self, batch: &Batch, side: AlignedSide, task: &Task) -> Result<(), Error> {
        let multiprocessors = self.gpu.info().multiprocessors;
        let mut parts = Parts::new(batch, part_len(batch.bytes(), multiprocessors), side);
        let most = match task {
            Task::Gather { .. } => u32::MAX,
            Task::Validate { .. } | Task::Crc32 { .. } => BLOCKS * multiprocessors.max(1),
        };
        if let Some(clear) = task.initial_result() {
            self.stream.fill(&self.results, clear, PARTIAL_SUMS)?;
        }
        let mut timed = !self.timing;
        for turn in (0..self.slices.len()).cycle() {
            let slice = &mut self.slices[turn];
            let count = slice.copy_descriptors(&mut parts, &self.upload, &self.stream)?;
            if count == 0 {
                break;
            }
            if !std::mem::replace(&mut timed, true) {
                self.begin.record(&self.stream)?;
            }
            let blocks = count.div_ceil(PARTS_PER_BLOCK).min(most);
            let list = self.slices[turn].device.address();
            let (kernel, arguments) = self.kernel_and_arguments(task, list, count);
            self.stream.launch(kernel, (blocks, THREADS), &arguments)?;
            let slice = &mut self.slices[turn];
            slice.done.record(&self.stream)?;
            slice.busy = true;
        }
        if self.timing {
            self.end.record(&self.stream)?;
        }
        if task.initial_result().is_some() {
            let len = 4 * PARTIAL_SUMS;
            self.stream.download(&mut self.answer, &self.results, len)?;
        }
        Ok(())
    }

    /// CUDA kernel of a task, and the kernel's arguments in order.
    fn kernel_and_arguments(&self, task: &Task, list: u64, count: u32) -> (&Kernel, Vec<Argument>) {
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

    /// Reads the bytes at an offset of the stream where the GPU found a mismatch, and returns the
    /// wrong one.
    fn read_mismatch(
        &self,
        batch: &Batch,
        pattern: &Pattern,
        offset: u64,
    ) -> Result<Mismatch, Error> {
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
            // The memory may have changed since, which is a fault, too.
            first = first.or(Some(got[0]));
        }
        Ok(Mismatch::new(offset, expected, first.unwrap_or(expected)))
    }
}

/// Task of a CUDA kernel.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// Gather the pieces to this address of the GPU's memory.
    Gather { to: u64 },
    /// Compare the pieces with the pattern of this period.
    Validate { period: u32 },
    /// Compute the CRC-32 of a stream that ends at this offset.
    Crc32 { end: u64 },
}

impl Task {
    /// Initial value of the words that a task's result is written to; `None` for a task without a
    /// result.
    fn initial_result(&self) -> Option<u32> {
        match self {
            Task::Gather { .. } => None,
            Task::Validate { .. } => Some(u32::MAX),
            Task::Crc32 { .. } => Some(0),
        }
    }
}

/// Turns an error of the driver into a [`DeviceError`] that names the operation.
fn device_error(operation: &'static str) -> impl Fn(Error) -> DeviceError {
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
        self.run(batch, AlignedSide::Destination, &Task::Gather { to })
            .map_err(device_error("gather on the GPU"))
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
        self.run(batch, AlignedSide::Source, &Task::Validate { period })
            .map_err(device_error("validate on the GPU"))?;
        let mut first = [0; 8];
        self.answer.read(&mut first);
        match u64::from_le_bytes(first) {
            NONE => Ok(None),
            offset => (self.read_mismatch(batch, pattern, offset))
                .map(Some)
                .map_err(device_error("validate on the GPU")),
        }
    }

    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError> {
        batch.check_crc32(self.source_len())?;
        let Some(last) = batch.descriptors().last() else {
            return Ok(0);
        };
        let end = last.destination + u64::from(last.len);
        self.run(batch, AlignedSide::Source, &Task::Crc32 { end })
            .map_err(device_error("sum up on the GPU"))?;
        let mut slots = [0; 4 * PARTIAL_SUMS];
        self.answer.read(&mut slots);
        let sum = (slots.chunks_exact(4))
            .map(|slot| u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]))
            .fold(0, |sum, slot| sum ^ slot);
        let sum = crc::multiply(sum, tables::BLOCK_LESS);
        Ok(crc::complete(sum, batch.bytes()))
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let destination = self.destination_at(offset, out.len())?;
        destination.map_or(Ok(()), |destination| {
            (destination.read(offset, out)).map_err(device_error("read from the GPU"))
        })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let destination = self.destination_at(offset, bytes.len())?;
        destination.map_or(Ok(()), |destination| {
            (destination.write(offset, bytes)).map_err(device_error("write to the GPU"))
        })
    }
}

impl Worker {
    /// Memory of the destination region, if `len` bytes at `offset` are in it; `None` for no bytes.
    fn destination_at(&self, offset: u64, len: usize) -> Result<Option<&Memory>, DeviceError> {
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
