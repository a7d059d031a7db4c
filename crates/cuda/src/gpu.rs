//! The driver and its GPUs.

use std::ffi::CStr;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::{Allocation, Buffer, DeviceMemory, Mapping};
use crate::error::Error;
use crate::sys::{self, Attribute, Context, Module};

/// The kernels, as `make ptx` made them of `kernels/payload.cu`.
const PTX: &str = concat!(include_str!("kernels/payload.ptx"), "\0");

/// `CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER`: a kernel that begins after the host knows of a peer's
/// write sees it.
const ORDERING_OWNER: i32 = 100;
/// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST`.
const FLUSH_OPTION_HOST: i32 = 1;

/// A release of CUDA, as which a driver tells its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number before the point.
    pub major: u32,
    /// The number after it.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What there is to know of a GPU before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number, from 0.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Where it is on PCIe, as `0000:3b:00.0`.
    pub pci: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its compute capability: 9.0 is (9, 0).
    pub compute: (u32, u32),
    /// How many multiprocessors it has.
    pub multiprocessors: u32,
    /// Whether the driver makes dmabufs of its memory
    /// (`CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED`).
    pub dmabuf: bool,
    /// Whether memory of [`Allocation::Virtual`] can be told to be reached by peers
    /// (`CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED`).
    pub rdma_virtual: bool,
}

/// NVIDIA's driver, found and loaded at run time.
#[derive(Clone)]
pub struct Driver(sys::Driver);

impl Driver {
    /// Loads `libcuda.so.1` from where the loader finds it, and initializes it.
    ///
    /// # Errors
    /// [`Error::Static`], [`Error::Library`], [`Error::Symbol`]; what `cuInit` answers.
    pub fn load() -> Result<Self, Error> {
        Self::load_from(sys::LIBRARY)
    }

    /// The same, of a library of another name, or at a path.
    ///
    /// # Errors
    /// As [`Driver::load`].
    pub fn load_from(library: &str) -> Result<Self, Error> {
        Ok(Self(sys::Driver::load(library)?))
    }

    /// The latest CUDA that it speaks.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn version(&self) -> Result<Version, Error> {
        let version = self.0.version()?.unsigned_abs();
        Ok(Version {
            major: version / 1000,
            minor: version % 1000 / 10,
        })
    }

    /// Its GPUs. `CUDA_VISIBLE_DEVICES` in the environment chooses among them.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        (0..self.0.count()?)
            .map(|ordinal| self.info(ordinal))
            .collect()
    }

    fn info(&self, ordinal: u32) -> Result<DeviceInfo, Error> {
        let device = self.0.device(ordinal)?;
        let number = |attribute| Ok(self.0.attribute(device, attribute)?.unsigned_abs());
        Ok(DeviceInfo {
            ordinal,
            name: self.0.name(device)?,
            pci: self.0.pci(device)?.to_lowercase(),
            memory: self.0.memory(device)?,
            compute: (
                number(Attribute::ComputeMajor)?,
                number(Attribute::ComputeMinor)?,
            ),
            multiprocessors: number(Attribute::Multiprocessors)?,
            dmabuf: number(Attribute::DmabufSupported)? != 0,
            rdma_virtual: number(Attribute::RdmaVirtual)? != 0,
        })
    }

    /// A GPU, by its number, with the context that the CUDA runtime in this process has too.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; what the driver answers.
    pub fn open(&self, ordinal: u32) -> Result<Gpu, Error> {
        let count = self.0.count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let info = self.info(ordinal)?;
        let device = self.0.device(ordinal)?;
        let flush = self.0.attribute(device, Attribute::WritesOrdering)? < ORDERING_OWNER
            && self.0.attribute(device, Attribute::FlushOptions)? & FLUSH_OPTION_HOST != 0;
        let context = Arc::new(Context::retain(&self.0, device, ordinal)?);
        Ok(Gpu(Arc::new(Inner {
            module: Mutex::new(None),
            context,
            info,
            flush,
        })))
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// A GPU. Clones are the same one.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    /// Made when first wanted: the driver may have to compile it.
    module: Mutex<Option<Arc<Module>>>,
    context: Arc<Context>,
    info: DeviceInfo,
    flush: bool,
}

impl Gpu {
    /// Loads the driver and takes its GPU of that number.
    ///
    /// # Errors
    /// As [`Driver::load`] and [`Driver::open`].
    pub fn open(ordinal: u32) -> Result<Self, Error> {
        Driver::load()?.open(ordinal)
    }

    /// What there is to know of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Memory of `len` bytes as a dmabuf, by `cuMemAlloc`.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Unaligned`], [`Error::NoExport`]; what the driver answers.
    pub fn allocate(&self, len: u64) -> Result<Buffer, Error> {
        self.allocate_as(len, Allocation::default(), Mapping::default())
    }

    /// The same, allocated and reached one way or the other.
    ///
    /// # Errors
    /// As [`Gpu::allocate`]; [`Error::NoPcie`].
    pub fn allocate_as(
        &self,
        len: u64,
        allocation: Allocation,
        mapping: Mapping,
    ) -> Result<Buffer, Error> {
        // Before memory is taken for nothing.
        if !self.0.info.dmabuf {
            return Err(Error::NoExport {
                ordinal: self.0.info.ordinal,
                name: self.0.info.name.clone(),
            });
        }
        Buffer::new(self, len, allocation, mapping)
    }

    /// Memory that is no dmabuf, or not yet ([`DeviceMemory::export`]): for work of the GPU alone,
    /// where a driver exports nothing.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Unaligned`]; what the driver answers.
    pub fn allocate_memory(&self, len: u64, allocation: Allocation) -> Result<DeviceMemory, Error> {
        DeviceMemory::new(self, len, allocation)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    /// The kernels.
    pub(crate) fn module(&self) -> Result<Arc<Module>, Error> {
        let mut module = self.0.module.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = &*module {
            return Ok(Arc::clone(module));
        }
        let ptx = CStr::from_bytes_until_nul(PTX.as_bytes()).unwrap_or_default();
        let made = Arc::new(Module::load(self.context(), ptx)?);
        *module = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Has what a NIC has written be seen by kernels that begin from now on, where the GPU doesn't
    /// see to that itself.
    pub(crate) fn see_writes(&self) -> Result<(), Error> {
        if self.0.flush {
            self.context().flush()?;
        }
        Ok(())
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gpu").field(self.info()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ptx_is_that_of_the_kernels() {
        let source = include_bytes!("kernels/payload.cu");
        let (first, rest) = PTX.trim_end_matches('\0').split_once('\n').unwrap();
        let expected = format!("// crc32 of payload.cu: {:08x}", crc32fast::hash(source));
        assert_eq!(first, expected, "kernels/payload.cu has changed: make ptx");
        let (second, body) = rest.split_once('\n').unwrap();
        let expected = format!(
            "// crc32 of what follows: {:08x}",
            crc32fast::hash(body.as_bytes())
        );
        assert_eq!(second, expected, "kernels/payload.ptx was edited: make ptx");
        for kernel in ["devmem_gather", "devmem_validate", "devmem_crc32"] {
            assert!(PTX.contains(&format!(".entry {kernel}(")), "{kernel}");
        }
    }
}
