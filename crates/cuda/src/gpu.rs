//! NVIDIA's driver and its GPUs.

use std::ffi::CStr;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::sys::{self, Attribute, Context, Module};

/// PTX of this crate's CUDA kernels, made from `kernels/payload.cu` by `make ptx`.
const PTX: &str = concat!(include_str!("kernels/payload.ptx"), "\0");

/// `CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER`: a CUDA kernel sees every peer's write that the host
/// knew of before the kernel began.
const ORDERING_OWNER: i32 = 100;
/// Bit of a GPU whose writes by peers the host can flush:
/// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST`.
const FLUSH_OPTION_HOST: i32 = 1;

/// Number of a CUDA release that a driver supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major number of a CUDA release, before the point.
    pub major: u32,
    /// Minor number of a CUDA release, after the point.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Properties of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Number of the GPU, from 0.
    pub ordinal: u32,
    /// Name of the GPU.
    pub name: String,
    /// PCIe address of the GPU, as `0000:3b:00.0`.
    pub pci: String,
    /// Size of the GPU's memory in bytes.
    pub memory: u64,
    /// Compute capability of the GPU: 9.0 is (9, 0).
    pub compute: (u32, u32),
    /// Number of multiprocessors of the GPU.
    pub multiprocessors: u32,
    /// Whether the driver exports the GPU's memory as dmabufs
    /// (`CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED`).
    pub dmabuf: bool,
    /// Whether peers can reach memory of [`Allocation::Virtual`](crate::Allocation::Virtual)
    /// (`CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED`).
    pub rdma_virtual: bool,
}

/// NVIDIA's driver, found and loaded at run time.
#[derive(Clone)]
pub struct Driver(sys::Driver);

impl Driver {
    /// Loads `libcuda.so.1` from the loader's paths, and initializes it.
    ///
    /// # Errors
    /// [`Error::Static`], [`Error::Library`], [`Error::Symbol`]; those of `cuInit`.
    #[doc(alias = "cuInit")]
    pub fn load() -> Result<Self, Error> {
        Self::load_from(sys::LIBRARY)
    }

    /// Loads and initializes a CUDA driver library of another name, or at a path.
    ///
    /// # Errors
    /// As [`Driver::load`].
    pub fn load_from(library: &str) -> Result<Self, Error> {
        Ok(Self(sys::Driver::load(library)?))
    }

    /// Latest CUDA release that the driver supports.
    ///
    /// # Errors
    /// Those of the driver.
    #[doc(alias = "cuDriverGetVersion")]
    pub fn version(&self) -> Result<Version, Error> {
        let version = self.0.version()?.unsigned_abs();
        Ok(Version {
            major: version / 1000,
            minor: version % 1000 / 10,
        })
    }

    /// Lists the GPUs of this machine, as far as `CUDA_VISIBLE_DEVICES` in the environment selects
    /// them.
    ///
    /// # Errors
    /// Those of the driver.
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

    /// Opens the GPU with the number `ordinal`, in its primary context, which the CUDA runtime in
    /// this process shares.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; those of the driver.
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

/// A GPU in its primary context, which all clones of this value share.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    /// CUDA module, loaded when first needed: the driver may have to compile it.
    module: Mutex<Option<Arc<Module>>>,
    context: Arc<Context>,
    info: DeviceInfo,
    flush: bool,
}

impl Gpu {
    /// Loads the driver and opens the GPU with the number `ordinal`.
    ///
    /// # Errors
    /// As [`Driver::load`] and [`Driver::open`].
    pub fn open(ordinal: u32) -> Result<Self, Error> {
        Driver::load()?.open(ordinal)
    }

    /// Properties of the GPU.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    /// Module with this crate's CUDA kernels, loaded once.
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

    /// Makes a NIC's writes visible to CUDA kernels that begin from now on, where the GPU does not
    /// do so by itself.
    pub(crate) fn flush_nic_writes(&self) -> Result<(), Error> {
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
