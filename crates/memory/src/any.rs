//! Dmabufs of any kind of memory.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use cuda::{Allocation, Gpu};
use dmabuf::{Dmabuf, DmabufFd, Mapping, Protection};
use payload::{Device, DeviceError, Host};
use udmabuf::{Available, HugePage, Udmabuf};

use crate::drm::Dumb;
use crate::heap::Heap;
use crate::{Choice, drm, heap, passed};

/// Default length of a dmabuf in bytes.
pub const DEFAULT_LEN: u64 = 64 << 20;

/// A dmabuf of any kind. After it is dropped, its memory is freed with the last binding, mapping
/// and fd of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyMemory {
    /// Memory of this machine, by `/dev/udmabuf`.
    Udmabuf(Udmabuf),
    /// Memory of a dma-heap.
    Heap(Heap),
    /// A dumb buffer of a DRM device.
    Drm(Dumb),
    /// Memory of an NVIDIA GPU.
    Cuda(cuda::Buffer),
    /// A dmabuf that another process made.
    Passed(DmabufFd),
}

/// Error of making a dmabuf.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Error of `/dev/udmabuf`.
    #[error(transparent)]
    Udmabuf(#[from] udmabuf::Error),
    /// Error of a dma-heap.
    #[error(transparent)]
    Heap(#[from] heap::Error),
    /// Error of a DRM device.
    #[error(transparent)]
    Drm(#[from] drm::Error),
    /// Error of an NVIDIA GPU.
    #[error(transparent)]
    Cuda(#[from] cuda::Error),
    /// Error of memory that another process passes.
    #[error(transparent)]
    Passed(#[from] passed::Error),
    /// A kind of pages was requested for memory whose pages can't be chosen.
    #[error("{choice}: pages can be chosen for udmabuf only")]
    Pages {
        /// Origin of the requested memory.
        choice: Choice,
    },
}

impl Error {
    /// Available memory, for an error of less being available than requested.
    pub fn available(&self) -> Option<&Available> {
        match self {
            Error::Udmabuf(udmabuf::Error::Available { available, .. })
            | Error::Heap(heap::Error::Available { available, .. }) => Some(available),
            _ => None,
        }
    }
}

/// Checks that memory is available for `count` buffers of `len` bytes from [`AnyMemory::make`],
/// before a page is allocated. Succeeds for memory of devices, such as a GPU, whose size is not
/// known.
///
/// # Errors
/// An error with [`Error::available`].
pub fn check_available(
    choice: &Choice,
    len: Option<u64>,
    count: u64,
    pages: Option<HugePage>,
) -> Result<(), Error> {
    let bytes = len.unwrap_or(DEFAULT_LEN).saturating_mul(count);
    match choice {
        Choice::Udmabuf => Ok(udmabuf::check_available(bytes, pages)?),
        Choice::Heap(name) => Ok(heap::check_available(name, bytes)?),
        _ => Ok(()),
    }
}

impl AnyMemory {
    /// Makes a dmabuf of the chosen memory, or takes over the dmabuf that is passed.
    ///
    /// `len` is in bytes, not 0 and a multiple of the page size; `None` is [`DEFAULT_LEN`]. Memory
    /// that is passed has a length already: then `len` is the least that is accepted. `pages` are
    /// those of a udmabuf; `None` takes the largest available.
    ///
    /// # Errors
    /// [`Error`] names the step.
    pub fn make(choice: &Choice, len: Option<u64>, pages: Option<HugePage>) -> Result<Self, Error> {
        if pages.is_some() && *choice != Choice::Udmabuf {
            return Err(Error::Pages {
                choice: choice.clone(),
            });
        }
        let bytes = len.unwrap_or(DEFAULT_LEN);
        let passed = |memory| passed::large_enough(memory, len, choice).map(Self::Passed);
        Ok(match choice {
            Choice::Udmabuf => {
                let builder = Udmabuf::builder(bytes);
                let builder = match pages {
                    Some(pages) => builder.hugepages(pages),
                    None => builder,
                };
                Self::Udmabuf(builder.build()?)
            }
            Choice::Heap(name) => Self::Heap(Heap::allocate(name, bytes)?),
            Choice::Drm(node) => Self::Drm(Dumb::create(node, bytes)?),
            Choice::Fd(fd) => passed(passed::inherited(*fd)?)?,
            Choice::Socket(socket) => passed(passed::received(socket)?)?,
            Choice::Cuda(gpu, mapping) => {
                let gpu = Gpu::open(*gpu)?;
                Self::Cuda(gpu.allocate_as(bytes, Allocation::default(), *mapping)?)
            }
        })
    }

    /// Whether the CPU reads the memory by a mapping: not that of a GPU. For a dmabuf that was
    /// passed this is not known, and its mapping may fail.
    pub fn on_host(&self) -> bool {
        !matches!(self, AnyMemory::Cuda(_))
    }

    /// Device that works on the payload in this memory, with a region of `destination_len` bytes to
    /// gather into, 0 for none: the GPU for a GPU's memory, otherwise the CPU by a mapping.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] where the CPU can't map the memory; those of the GPU's driver.
    pub fn device(&self, destination_len: u64) -> Result<Box<dyn Device>, DeviceError> {
        if let AnyMemory::Cuda(memory) = self {
            let worker = memory.worker(destination_len).map_err(|error| {
                let lost = error.is_lost();
                DeviceError::Device {
                    operation: "set the GPU to work",
                    source: Box::new(error),
                    lost,
                }
            })?;
            return Ok(Box::new(worker));
        }
        let mapping = Arc::new(self.map(Protection::Read)?);
        Ok(Box::new(Host::new(mapping, destination_len)?))
    }

    fn dmabuf(&self) -> &dyn Dmabuf {
        match self {
            AnyMemory::Udmabuf(memory) => memory,
            AnyMemory::Heap(memory) => memory,
            AnyMemory::Drm(memory) => memory,
            AnyMemory::Cuda(memory) => memory,
            AnyMemory::Passed(memory) => memory,
        }
    }
}

impl AsFd for AnyMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dmabuf().as_fd()
    }
}

impl Dmabuf for AnyMemory {
    fn len(&self) -> u64 {
        self.dmabuf().len()
    }

    fn map(&self, protection: Protection) -> Result<Mapping, dmabuf::Error> {
        self.dmabuf().map(protection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_udmabuf_has_a_kind_of_pages() {
        let choice = "heap:system".parse().unwrap();
        let error = AnyMemory::make(&choice, None, Some(HugePage::None)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "heap:system: pages can be chosen for udmabuf only"
        );
    }
}
