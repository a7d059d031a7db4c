//! Memory of a dma-heap: `/dev/dma_heap/NAME` (`drivers/dma-buf/dma-heap.c`).
//!
//! The `system` heap has ordinary pages, in contiguous runs of up to 1 MiB while memory is not
//! fragmented; others have what their names say. The pages are freed with the last binding, mapping
//! and fd of the buffer.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dmabuf::{Dmabuf, DmabufFd};
use udmabuf::Available;

use crate::len::{BadLen, check_len};
use crate::sys;

/// Folder of the dma-heaps' nodes.
const DIRECTORY: &str = "/dev/dma_heap";

/// Name of a dma-heap: that of a file in `/dev/dma_heap`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Error of a text that no file can have as its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a heap, a file of /dev/dma_heap")]
pub struct NameError(String);

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let odd = matches!(text, "" | "." | "..");
        if odd || text.contains(['/', '\0']) {
            return Err(NameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Name {
    /// Name of the dma-heap, without the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Path of the dma-heap's node.
    pub fn node(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Error of allocating from a dma-heap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The length can't be that of a dma-heap's buffer.
    #[error("heap:{heap}")]
    Len {
        /// Name of the heap.
        heap: Name,
        /// What is wrong with the requested length.
        #[source]
        source: BadLen,
    },
    /// The dma-heap's node could not be opened.
    #[error("open /dev/dma_heap/{heap}")]
    Open {
        /// Name of the heap.
        heap: Name,
        /// Error of `open`.
        #[source]
        source: io::Error,
    },
    /// More memory was requested than the machine has available; the kernel would kill processes to
    /// find it.
    #[error("heap:{heap}: {len} bytes of memory, of which {available}")]
    Available {
        /// Name of the heap.
        heap: Name,
        /// Requested length in bytes.
        len: u64,
        /// Available memory.
        available: Available,
    },
    /// `DMA_HEAP_IOCTL_ALLOC` failed (`dma_heap_ioctl_allocate`).
    #[error("DMA_HEAP_IOCTL_ALLOC of {len} bytes from heap {heap}")]
    Allocate {
        /// Name of the heap.
        heap: Name,
        /// Requested length in bytes.
        len: u64,
        /// Error of the ioctl.
        #[source]
        source: io::Error,
    },
    /// The length of the new buffer could not be read.
    #[error(transparent)]
    Dmabuf(#[from] dmabuf::Error),
}

/// Names of this machine's dma-heaps, sorted; none where `/dev/dma_heap` does not exist.
pub fn names() -> Vec<Name> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut names: Vec<Name> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// Checks that the machine has `len` bytes available, for one buffer or the sum of several, before
/// a page is allocated. [`Heap::allocate`] checks by itself.
///
/// # Errors
/// [`Error::Available`].
pub fn check_available(heap: &Name, len: u64) -> Result<(), Error> {
    // The pages of a heap are not accounted to a control group.
    match Available::on_machine() {
        Some(available) if !available.holds(len) => Err(Error::Available {
            heap: heap.clone(),
            len,
            available,
        }),
        _ => Ok(()),
    }
}

/// A dmabuf of a dma-heap's memory.
#[derive(Debug)]
pub struct Heap {
    fd: DmabufFd,
}

impl Heap {
    /// Allocates a dmabuf of `len` bytes from a dma-heap; the length is not 0, and a multiple of
    /// the page size.
    ///
    /// # Errors
    /// [`Error`] names the step.
    #[doc(alias = "DMA_HEAP_IOCTL_ALLOC")]
    pub fn allocate(heap: &Name, len: u64) -> Result<Self, Error> {
        let name = || heap.clone();
        check_len(len).map_err(|source| Error::Len {
            heap: name(),
            source,
        })?;
        let node = sys::open(&heap.node()).map_err(|source| Error::Open {
            heap: name(),
            source,
        })?;
        // `system_heap_allocate` allocates page after page, and each allocation may call the OOM
        // killer.
        check_available(heap, len)?;
        let fd = sys::heap_allocate(node.as_fd(), len).map_err(|source| Error::Allocate {
            heap: name(),
            len,
            source,
        })?;
        let fd = DmabufFd::new(fd)?;
        Ok(Self { fd })
    }
}

impl AsFd for Heap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dmabuf for Heap {
    fn len(&self) -> u64 {
        self.fd.len()
    }
}

impl From<Heap> for OwnedFd {
    fn from(buffer: Heap) -> Self {
        buffer.fd.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_anything_is_opened() {
        let heap: Name = "no-such-heap".parse().unwrap();
        let error = Heap::allocate(&heap, 0).unwrap_err();
        assert_eq!(error.to_string(), "heap:no-such-heap");
        assert!(matches!(
            error,
            Error::Len {
                source: BadLen::Empty,
                ..
            }
        ));
        let error = Heap::allocate(&heap, 4097).unwrap_err();
        assert!(matches!(
            error,
            Error::Len {
                source: BadLen::Unaligned { len: 4097, .. },
                ..
            }
        ));
    }

    #[test]
    fn a_heap_that_is_not_there_is_named() {
        let heap: Name = "no-such-heap".parse().unwrap();
        let error = Heap::allocate(&heap, 4096).unwrap_err();
        assert_eq!(error.to_string(), "open /dev/dma_heap/no-such-heap");
    }
}
