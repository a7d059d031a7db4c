//! Memory, whatever its kind.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use cuda::{Allocation, Gpu};
use dmabuf::{Dmabuf, DmabufFd, Mapping, Protection};
use payload::{Device, DeviceError, Host};
use udmabuf::{Available, HugePage, Udmabuf};

use crate::drm::Dumb;
use crate::heap::Heap;
use crate::{Choice, drm, heap, passed};

/// Bytes of memory that is made where nobody says how many.
pub const DEFAULT_LEN: u64 = 64 << 20;

/// A dmabuf of any kind. Dropped, its memory goes back once the last binding, mapping and fd of it
/// has gone.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyMemory {
    /// This machine's own memory.
    Udmabuf(Udmabuf),
    /// A dma-heap's.
    Heap(Heap),
    /// A DRM device's.
    Drm(Dumb),
    /// An NVIDIA GPU's.
    Cuda(cuda::Buffer),
    /// What another process made.
    Passed(DmabufFd),
}

/// Why there is no memory; [`Error::remedy`] says what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of `/dev/udmabuf`.
    #[error(transparent)]
    Udmabuf(#[from] udmabuf::Error),
    /// Of a heap.
    #[error(transparent)]
    Heap(#[from] heap::Error),
    /// Of a DRM device.
    #[error(transparent)]
    Drm(#[from] drm::Error),
    /// Of an NVIDIA GPU.
    #[error(transparent)]
    Cuda(#[from] cuda::Error),
    /// Of another process.
    #[error(transparent)]
    Passed(#[from] passed::Error),
    /// Pages were asked for of memory that has its own.
    #[error("{choice}: pages can be chosen of udmabuf only")]
    Pages {
        /// Which memory.
        choice: Choice,
    },
}

impl Error {
    /// What would help, in one line, where that is known: for a tool to print below the error.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Udmabuf(error) => error.remedy(),
            Error::Heap(error) => error.remedy(),
            Error::Drm(error) => error.remedy(),
            Error::Cuda(error) => error.remedy().map(str::to_owned),
            Error::Passed(error) => error.remedy(),
            Error::Pages { .. } => Some("leave the pages to it".to_owned()),
        }
    }
}

impl Error {
    /// The memory that there is, if it was too little for what was asked.
    pub fn available(&self) -> Option<&Available> {
        match self {
            Error::Udmabuf(udmabuf::Error::Available { available, .. })
            | Error::Heap(heap::Error::Available { available, .. }) => Some(available),
            _ => None,
        }
    }
}

/// Whether there is memory for `count` buffers of `len` bytes, as [`AnyMemory::make`] would make them,
/// before a page of it is taken. Of memory that isn't this machine's own nothing is known, and all
/// is well.
///
/// # Errors
/// One that has [`Error::available`].
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
    /// Makes the memory, or takes over what was passed.
    ///
    /// `len` is in bytes, not 0 and a multiple of the page size; [`DEFAULT_LEN`] if it is `None`.
    /// Memory that was passed has the length that it has: `len` is then the least that will do.
    /// `pages` are those of a udmabuf, the largest that are to be had if it is `None`.
    ///
    /// # Errors
    /// [`Error`] names the step; [`Error::remedy`] says what would help, where that is known.
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

    /// Whether it is memory that the CPU reads by a mapping, as far as is known before one is tried:
    /// that of a GPU is not. Of memory that was passed nobody knows; its mapping may fail.
    pub fn on_host(&self) -> bool {
        !matches!(self, AnyMemory::Cuda(_))
    }

    /// What works on payload in this memory, with a region of `destination_len` bytes of its own, 0
    /// for none, to gather into: the GPU on a GPU's, the processor by a mapping on any other.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] where the processor cannot map it; what the GPU's driver says.
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
    fn pages_are_a_udmabufs() {
        let choice = "heap:system".parse().unwrap();
        let error = AnyMemory::make(&choice, None, Some(HugePage::None)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "heap:system: pages can be chosen of udmabuf only"
        );
    }
}
