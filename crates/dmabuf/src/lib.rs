//! DMA buffers: an fd, a length, and a CPU mapping that is read and written by copies between the
//! begin and end of an access.
//!
//! A device may write to the buffer at any time, so no `&[u8]` of it exists. The CPU reads and
//! writes by copies between [`Mapping::begin_access`] and [`CpuAccess::end`], which are
//! `DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_START` and `DMA_BUF_SYNC_END`
//! (`include/uapi/linux/dma-buf.h`; `dma_buf_ioctl` in `drivers/dma-buf/dma-buf.c`).
//!
//! ```no_run
//! use dmabuf::{Access, Dmabuf, DmabufFd, Protection};
//! # fn fd_from_somewhere() -> std::os::fd::OwnedFd { unimplemented!() }
//! # fn main() -> Result<(), dmabuf::Error> {
//! let buffer = DmabufFd::new(fd_from_somewhere())?;
//! let mapping = buffer.map(Protection::Read)?;
//! let mut first = [0; 16];
//! let access = mapping.begin_access(Access::Read)?;
//! access.copy_to(0, &mut first)?;
//! access.end()?;
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod map;
mod sys;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use map::{Access, CpuAccess, Mapping, Protection};

/// Error of an operation on a dmabuf. The text names the operation; the kernel's words are the
/// source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The fd is not a dmabuf but a file, a memfd or a socket.
    #[error("fd {fd} is not a dmabuf")]
    NotDmabuf {
        /// Number of the fd.
        fd: i32,
    },
    /// The dmabuf's length could not be read: `lseek(SEEK_END)`, which returns a dmabuf's length
    /// (`dma_buf_llseek`), failed.
    #[error("length of dmabuf")]
    Length(#[source] io::Error),
    /// The dmabuf's fd could not be duplicated for the mapping.
    #[error("duplicate dmabuf fd")]
    Duplicate(#[source] io::Error),
    /// `mmap` failed: the exporter has no mmap, or the buffer is too large for the address space.
    #[error("map dmabuf of {len} bytes")]
    Map {
        /// Length of the buffer in bytes.
        len: u64,
        /// Error of `mmap`.
        #[source]
        source: io::Error,
    },
    /// `DMA_BUF_IOCTL_SYNC` at the begin of an access failed.
    #[error("begin CPU access to dmabuf")]
    Begin(#[source] io::Error),
    /// `DMA_BUF_IOCTL_SYNC` at the end of an access failed: bytes that were written may not be
    /// visible to the device.
    #[error("end CPU access to dmabuf")]
    End(#[source] io::Error),
    /// A copy would go past the end of the buffer.
    #[error("{len} bytes at offset {offset} lie outside a dmabuf of {size} bytes")]
    OutOfBounds {
        /// Offset in the buffer of the first byte to copy.
        offset: u64,
        /// Number of bytes to copy.
        len: usize,
        /// Length of the buffer in bytes.
        size: usize,
    },
    /// Write to a mapping, or in a CPU access, that was made for reading.
    #[error("write to a dmabuf opened for reading")]
    ReadOnly,
    /// Read in a CPU access that was begun for writing only: the exporter was not asked to make the
    /// device's bytes visible.
    #[error("read from a dmabuf opened for writing")]
    WriteOnly,
}

/// A DMA buffer: its fd and its length.
#[expect(
    clippy::len_without_is_empty,
    reason = "the kernel makes no empty dmabuf"
)]
pub trait Dmabuf: AsFd {
    /// Length of the dmabuf in bytes: never 0, a multiple of the page size, and constant.
    fn len(&self) -> u64;

    /// Maps the whole dmabuf into this process, shared with devices. The mapping has an fd of its
    /// own, so it may outlive `self`.
    ///
    /// # Errors
    /// [`Error::Duplicate`] and [`Error::Map`].
    fn map(&self, protection: Protection) -> Result<Mapping, Error> {
        Mapping::new(self.as_fd(), self.len(), protection)
    }
}

impl<T: Dmabuf + ?Sized> Dmabuf for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }
}

/// A dmabuf of any exporter, by its fd: made by a heap, a GPU, or another process.
#[doc(alias = "dma_buf")]
#[derive(Debug)]
pub struct DmabufFd {
    fd: OwnedFd,
    len: u64,
}

impl DmabufFd {
    /// Takes over an fd, checks that it is a dmabuf and reads its length.
    ///
    /// # Errors
    /// [`Error::NotDmabuf`] for an fd of another kind, [`Error::Length`] if the length can't be
    /// read.
    pub fn new(fd: OwnedFd) -> Result<Self, Error> {
        let len = sys::probe(fd.as_fd())?;
        Ok(Self { fd, len })
    }

    /// Duplicates the dmabuf's fd.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when the process has no fds left.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self.fd.try_clone().map_err(Error::Duplicate)?;
        Ok(Self { fd, len: self.len })
    }
}

impl AsFd for DmabufFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dmabuf for DmabufFd {
    fn len(&self) -> u64 {
        self.len
    }
}

impl From<DmabufFd> for OwnedFd {
    fn from(buffer: DmabufFd) -> Self {
        buffer.fd
    }
}

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::TcpListener;

    #[test]
    fn an_fd_of_another_kind_is_refused() {
        let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
        let socket: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        for fd in [file, socket, null] {
            let error = DmabufFd::new(fd).unwrap_err();
            assert!(matches!(error, Error::NotDmabuf { .. }), "{error}");
            assert!(error.to_string().contains("is not a dmabuf"));
        }
    }
}
