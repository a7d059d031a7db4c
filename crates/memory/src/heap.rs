//! Memory of a dma-heap: `/dev/dma_heap/NAME` (`drivers/dma-buf/dma-heap.c`).
//!
//! The `system` heap gives ordinary pages, in contiguous runs of up to 1 MiB while memory is not
//! fragmented; others give what their names say. The pages go back once the last binding, mapping
//! and fd of the buffer has gone.

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

/// Where the heaps are.
const DIRECTORY: &str = "/dev/dma_heap";

/// The name of a heap: that of a file in `/dev/dma_heap`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// No file has such a name.
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
    /// The name alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The heap's node.
    pub fn node(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a heap gave no memory; [`Error::remedy`] says what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A length that no buffer has.
    #[error("heap:{heap}")]
    Len {
        /// The heap.
        heap: Name,
        /// What is wrong with it.
        #[source]
        source: BadLen,
    },
    /// The node could not be opened.
    #[error("open /dev/dma_heap/{heap}")]
    Open {
        /// The heap.
        heap: Name,
        /// What `open` answered.
        #[source]
        source: io::Error,
    },
    /// More than the machine has to spare; the kernel would kill processes to find it.
    #[error("heap:{heap}: {len} bytes of memory, of which {available}")]
    Available {
        /// The heap.
        heap: Name,
        /// Bytes asked for.
        len: u64,
        /// Those that there are.
        available: Available,
    },
    /// `DMA_HEAP_IOCTL_ALLOC` failed (`dma_heap_ioctl_allocate`).
    #[error("DMA_HEAP_IOCTL_ALLOC of {len} bytes from heap {heap}")]
    Allocate {
        /// The heap.
        heap: Name,
        /// Bytes asked for.
        len: u64,
        /// What the ioctl answered.
        #[source]
        source: io::Error,
    },
    /// The heap gave a buffer that could not be asked for its length.
    #[error(transparent)]
    Dmabuf(#[from] dmabuf::Error),
}

impl Error {
    /// What would help, in one line, where that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Len { source, .. } => source.remedy(),
            Error::Open { heap, source } => open_remedy(heap, source),
            Error::Available { available, .. } => {
                let most = available.advice(1) >> 20;
                Some(format!("ask for {most} MiB or less"))
            }
            Error::Allocate { source, .. } => match source.raw_os_error()? {
                libc::ENOMEM => Some("ask for less memory, or take another heap".to_owned()),
                libc::ENOTTY => Some("that node is not a heap".to_owned()),
                _ => None,
            },
            Error::Dmabuf(_) => None,
        }
    }
}

fn open_remedy(heap: &Name, source: &io::Error) -> Option<String> {
    match source.raw_os_error()? {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Some(match &names()[..] {
            [] => "no heap is here: boot a kernel with CONFIG_DMABUF_HEAPS and a heap; in a \
                   container, pass /dev/dma_heap into it"
                .to_owned(),
            names => format!("take one that is there: {}", join(names)),
        }),
        libc::EACCES | libc::EPERM => Some(format!(
            "run as root, or: chown {} {}",
            sys::user(),
            heap.node().display()
        )),
        _ => None,
    }
}

/// As they are written on a command line.
fn join(names: &[Name]) -> String {
    let words = names.iter().map(|name| format!("heap:{name}"));
    words.collect::<Vec<_>>().join(", ")
}

/// The heaps of this machine, in the order of their names; none where there is no `/dev/dma_heap`.
pub fn names() -> Vec<Name> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut names: Vec<Name> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// Whether the machine has `len` bytes to spare, before a page of them is taken: for several buffers,
/// ask with the sum of their lengths. [`Heap::allocate`] asks by itself.
///
/// # Errors
/// [`Error::Available`].
pub fn check_available(heap: &Name, len: u64) -> Result<(), Error> {
    // A heap's pages count towards no control group.
    match Available::on_machine() {
        Some(available) if !available.holds(len) => Err(Error::Available {
            heap: heap.clone(),
            len,
            available,
        }),
        _ => Ok(()),
    }
}

/// A dmabuf of a heap's memory.
#[derive(Debug)]
pub struct Heap {
    fd: DmabufFd,
}

impl Heap {
    /// Has the heap make a dmabuf of `len` bytes: not 0, and a multiple of the page size.
    ///
    /// # Errors
    /// [`Error`] names the step; [`Error::remedy`] says what would help, where that is known.
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
        // `system_heap_allocate` takes page after page, with the killer of processes behind it.
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

    fn error(errno: i32) -> Error {
        Error::Open {
            heap: "no-such-heap".parse().unwrap(),
            source: io::Error::from_raw_os_error(errno),
        }
    }

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
        assert_eq!(error.remedy().unwrap(), "take 8192 bytes");
    }

    #[test]
    fn a_heap_that_is_not_there_is_named_with_a_remedy() {
        let heap: Name = "no-such-heap".parse().unwrap();
        let error = Heap::allocate(&heap, 4096).unwrap_err();
        assert_eq!(error.to_string(), "open /dev/dma_heap/no-such-heap");
        let remedy = error.remedy().unwrap();
        assert!(remedy.contains("heap"), "{remedy}");
    }

    #[test]
    fn a_closed_node_and_an_odd_refusal() {
        assert!(error(libc::EACCES).remedy().unwrap().contains("chown"));
        assert_eq!(error(libc::EIO).remedy(), None);
    }
}
