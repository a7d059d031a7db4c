//! Memory of a GPU, and its export as a dmabuf.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dmabuf::Dmabuf;

use crate::error::Error;
use crate::gpu::Gpu;
use crate::mapping::Mapping;
use crate::sys::{self, Memory};

/// How a GPU's memory is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Allocation {
    /// Memory allocated by `cuMemAlloc`.
    #[doc(alias = "cuMemAlloc")]
    #[default]
    Plain,
    /// Memory allocated by the driver's functions for virtual memory (`cuMemCreate`, `cuMemMap`),
    /// reachable for peers (`gpuDirectRDMACapable`) where that is possible
    /// ([`DeviceInfo::rdma_virtual`](crate::DeviceInfo::rdma_virtual)).
    #[doc(alias = "cuMemCreate")]
    Virtual,
}

/// Memory of a GPU. It can be exported as a dmabuf ([`DeviceMemory::export`]). It is freed when it
/// and the last [`Worker`](crate::Worker) on it are dropped.
pub struct DeviceMemory {
    pub(crate) memory: Arc<Memory>,
    pub(crate) gpu: Gpu,
    allocation: Allocation,
}

impl Gpu {
    /// Allocates `len` bytes as a dmabuf, by `cuMemAlloc`.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Unaligned`], [`Error::NoExport`]; those of the driver.
    #[doc(alias = "cuMemAlloc")]
    pub fn allocate(&self, len: u64) -> Result<Buffer, Error> {
        self.allocate_as(len, Allocation::default(), Mapping::default())
    }

    /// Allocates `len` bytes as a dmabuf, with the given kind of allocation and the given path for
    /// the NIC.
    ///
    /// # Errors
    /// As [`Gpu::allocate`]; [`Error::NoPcie`].
    pub fn allocate_as(
        &self,
        len: u64,
        allocation: Allocation,
        mapping: Mapping,
    ) -> Result<Buffer, Error> {
        // Check before memory is allocated in vain.
        if !self.info().dmabuf {
            return Err(Error::NoExport {
                ordinal: self.info().ordinal,
                name: self.info().name.clone(),
            });
        }
        Buffer::new(self, len, allocation, mapping)
    }

    /// Allocates memory that is not exported as a dmabuf ([`DeviceMemory::export`] can do so
    /// later): for the GPU alone, where the driver exports none.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Unaligned`]; those of the driver.
    pub fn allocate_memory(&self, len: u64, allocation: Allocation) -> Result<DeviceMemory, Error> {
        DeviceMemory::new(self, len, allocation)
    }
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
            Allocation::Plain => Memory::allocate_plain(gpu.context(), len)?,
            Allocation::Virtual => {
                Memory::allocate_at_reserved_addresses(gpu.context(), len, rdma)?
            }
        };
        Ok(Self {
            memory: Arc::new(memory),
            gpu: gpu.clone(),
            allocation,
        })
    }

    /// GPU that has the memory.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How the memory was allocated.
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Address of the memory: a `CUdeviceptr`, for code in this process that uses the same GPU.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Length of the memory in bytes, not 0.
    #[expect(clippy::len_without_is_empty, reason = "no memory is empty")]
    pub fn len(&self) -> u64 {
        self.memory.len()
    }

    /// Exports all of the memory as a dmabuf (`cuMemGetHandleForAddressRange`).
    ///
    /// # Errors
    /// [`Error::NoExport`], [`Error::NoPcie`]; those of the driver.
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

    /// Copies bytes of the host to the memory at byte `offset` (`cuMemcpyHtoD`).
    ///
    /// The copy is in the legacy default stream of the GPU's primary context: it waits for work of
    /// this process in blocking streams there, and may spoil a stream capture in global mode.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; those of the driver.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(offset, bytes)
    }

    /// Copies from byte `offset` of the memory to the host (`cuMemcpyDtoH`), in the stream of
    /// [`DeviceMemory::write`].
    ///
    /// # Errors
    /// As [`DeviceMemory::write`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.memory.read(offset, out)
    }
}

/// Memory of a GPU as a dmabuf. It is freed when it and the last [`Worker`](crate::Worker) on it are dropped; the
/// kernel and the driver decide what becomes of other fds of the dmabuf after that.
pub struct Buffer {
    fd: OwnedFd,
    pub(crate) memory: DeviceMemory,
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

    /// GPU that has the memory.
    pub fn gpu(&self) -> &Gpu {
        self.memory.gpu()
    }

    /// How the buffer's memory was allocated.
    pub fn allocation(&self) -> Allocation {
        self.memory.allocation()
    }

    /// Path by which a NIC reaches the memory.
    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Address of the memory: a `CUdeviceptr`, for code in this process that uses the same GPU.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Memory of the buffer.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Exports another dmabuf of the same memory, by another call of
    /// `cuMemGetHandleForAddressRange`.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn export(&self) -> Result<OwnedFd, Error> {
        self.memory.export(self.mapping)
    }

    /// Copies bytes of the host to the buffer's memory at byte `offset` (`cuMemcpyHtoD`).
    ///
    /// The copy is in the legacy default stream of the GPU's primary context: it waits for work of
    /// this process in blocking streams there, and may spoil a stream capture in global mode.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; those of the driver.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(offset, bytes)
    }

    /// Copies from byte `offset` of the buffer to the host (`cuMemcpyDtoH`), in the stream of
    /// [`Buffer::write`].
    ///
    /// # Errors
    /// As [`Buffer::write`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.memory.read(offset, out)
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
