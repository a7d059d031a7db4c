//! A GPU's memory as a dmabuf.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dmabuf::Dmabuf;

use crate::error::Error;
use crate::gpu::Gpu;
use crate::sys::{self, Memory};
use crate::worker::Worker;

/// How memory is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Allocation {
    /// By `cuMemAlloc`.
    #[default]
    Plain,
    /// By the driver's functions for virtual memory (`cuMemCreate`, `cuMemMap`), told to be reached
    /// by peers (`gpuDirectRDMACapable`) where that is possible
    /// ([`DeviceInfo::rdma_virtual`](crate::DeviceInfo::rdma_virtual)).
    Virtual,
}

/// The way by which a NIC reaches a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mapping {
    /// The driver's own choice. Most machines have but one way.
    #[default]
    Default,
    /// PCIe's (`CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE`, CUDA 12.8), on machines whose processor
    /// reaches the GPU by another way, too (C2C, as GB200's). A NIC that is not behind the GPU's own
    /// root port cannot use it: binding fails then, with 524 (`ENOTSUPP`).
    ///
    /// This crate cannot order what the NIC writes before a kernel that reads it: payload comes by
    /// PCIe, its completion by the other way, and `cuFlushGPUDirectRDMAWrites` does not order such
    /// paths (`cuda.h`). Nothing about it has been measured.
    Pcie,
}

/// Memory of a GPU, which may be made a dmabuf ([`DeviceMemory::export`]) or be worked on without.
/// Dropped, it is freed once the last [`Worker`] on it has gone.
pub struct DeviceMemory {
    memory: Arc<Memory>,
    gpu: Gpu,
    allocation: Allocation,
}

impl DeviceMemory {
    pub(crate) fn new(gpu: &Gpu, len: u64, allocation: Allocation) -> Result<Self, Error> {
        let page = sys::page_size();
        if len == 0 {
            return Err(Error::Empty);
        }
        if len % page != 0 {
            return Err(Error::Unaligned { len, page });
        }
        let rdma = gpu.info().rdma_virtual;
        let memory = match allocation {
            Allocation::Plain => Memory::plain(gpu.context(), len)?,
            Allocation::Virtual => Memory::with_addresses(gpu.context(), len, rdma)?,
        };
        Ok(Self {
            memory: Arc::new(memory),
            gpu: gpu.clone(),
            allocation,
        })
    }

    /// The GPU whose memory it is.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How it was allocated.
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Where it is: a `CUdeviceptr`, for whoever uses the same GPU in this process.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Bytes of it, not 0.
    #[expect(clippy::len_without_is_empty, reason = "no memory is empty")]
    pub fn len(&self) -> u64 {
        self.memory.len()
    }

    /// A dmabuf of all of it (`cuMemGetHandleForAddressRange`).
    ///
    /// # Errors
    /// [`Error::NoExport`], [`Error::NoPcie`]; what the driver answers.
    pub fn export(&self, mapping: Mapping) -> Result<OwnedFd, Error> {
        let info = self.gpu.info();
        if !info.dmabuf {
            return Err(Error::NoExport {
                ordinal: info.ordinal,
                name: info.name.clone(),
            });
        }
        self.memory.export(mapping)
    }

    /// Copies bytes of the host to byte `offset` of the memory (`cuMemcpyHtoD`).
    ///
    /// It is done in the legacy default stream of the GPU's primary context: it waits for what others
    /// in this process have in blocking streams there, and may spoil a stream capture of theirs in
    /// global mode.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; what the driver answers.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(offset, bytes)
    }

    /// Copies from byte `offset` of the memory to the host (`cuMemcpyDtoH`), in the same stream as
    /// [`DeviceMemory::write`].
    ///
    /// # Errors
    /// As [`DeviceMemory::write`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.memory.read(offset, out)
    }

    /// The GPU at work on this memory, with a region of `destination_len` bytes, 0 for none, to
    /// gather into. It keeps the memory.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn worker(&self, destination_len: u64) -> Result<Worker, Error> {
        Worker::new(&self.gpu, Arc::clone(&self.memory), destination_len)
    }
}

/// Memory of a GPU as a dmabuf. Dropped, it is freed once the last [`Worker`] on it has gone; what
/// is done with other fds of the dmabuf after that is between the kernel and the driver.
pub struct Buffer {
    fd: OwnedFd,
    memory: DeviceMemory,
    mapping: Mapping,
}

impl Buffer {
    pub(crate) fn new(
        gpu: &Gpu,
        len: u64,
        allocation: Allocation,
        mapping: Mapping,
    ) -> Result<Self, Error> {
        let memory = DeviceMemory::new(gpu, len, allocation)?;
        Ok(Self {
            fd: memory.export(mapping)?,
            memory,
            mapping,
        })
    }

    /// The GPU whose memory it is.
    pub fn gpu(&self) -> &Gpu {
        self.memory.gpu()
    }

    /// How it was allocated.
    pub fn allocation(&self) -> Allocation {
        self.memory.allocation()
    }

    /// The way by which a NIC reaches it.
    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Where it is: a `CUdeviceptr`, for whoever uses the same GPU in this process.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// The memory itself.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Another dmabuf of the same memory, by a call of `cuMemGetHandleForAddressRange` of its own.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn export(&self) -> Result<OwnedFd, Error> {
        self.memory.export(self.mapping)
    }

    /// Copies bytes of the host to byte `offset` of the buffer (`cuMemcpyHtoD`).
    ///
    /// It is done in the legacy default stream of the GPU's primary context: it waits for what others
    /// in this process have in blocking streams there, and may spoil a stream capture of theirs in
    /// global mode.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; what the driver answers.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(offset, bytes)
    }

    /// Copies from byte `offset` of the buffer to the host (`cuMemcpyDtoH`), in the same stream as
    /// [`Buffer::write`].
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.memory.read(offset, out)
    }

    /// The GPU at work on this memory, with a region of `destination_len` bytes, 0 for none, to
    /// gather into. It keeps the memory, not the fd.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn worker(&self, destination_len: u64) -> Result<Worker, Error> {
        self.memory.worker(destination_len)
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dmabuf for Buffer {
    fn len(&self) -> u64 {
        self.memory.len()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("gpu", &self.gpu().info().ordinal)
            .field("len", &self.memory.len())
            .field("allocation", &self.allocation())
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory")
            .field("gpu", &self.gpu.info().ordinal)
            .field("len", &self.len())
            .field("allocation", &self.allocation)
            .finish_non_exhaustive()
    }
}
