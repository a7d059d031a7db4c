//! Makes a dmabuf out of a memfd, of plain pages or of hugepages.
//!
//! The steps are those that `check_memfd_seals` and `udmabuf_create`
//! (`drivers/dma-buf/udmabuf.c`) ask for: a memfd that may be sealed, sized, sealed against
//! shrinking and not against writing, then `UDMABUF_CREATE` on `/dev/udmabuf`. The memory is pinned
//! from then on, and the memfd is closed.
//!
//! ```no_run
//! use dmabuf::Dmabuf;
//! use udmabuf::{HugePage, Udmabuf};
//! # fn main() -> Result<(), udmabuf::Error> {
//! let memory = Udmabuf::builder(64 << 20).hugepages(HugePage::Mb2).build()?;
//! assert_eq!(memory.len(), 64 << 20);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod error;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dmabuf::{Dmabuf, DmabufFd};

pub use error::Error;

/// The pages a udmabuf is made of. Larger pages mean fewer entries in its sg table, which a NIC
/// refills from faster, and which `rx-page-size` on `bind-rx` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePage {
    /// Ordinary pages.
    #[default]
    None,
    /// Hugepages of 2 MiB (`MFD_HUGE_2MB`), out of those reserved.
    Mb2,
    /// Hugepages of 1 GiB (`MFD_HUGE_1GB`), out of those reserved.
    Gb1,
}

impl HugePage {
    /// Size of one such page in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            HugePage::None => sys::page_size(),
            HugePage::Mb2 => 2 << 20,
            HugePage::Gb1 => 1 << 30,
        }
    }
}

/// How to make a [`Udmabuf`]; see [`Udmabuf::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until build() is called"]
pub struct Builder {
    len: u64,
    hugepages: HugePage,
}

impl Builder {
    /// Which pages to take: ordinary ones unless said otherwise.
    pub fn hugepages(mut self, hugepages: HugePage) -> Self {
        self.hugepages = hugepages;
        self
    }

    /// Allocates the memory and makes the dmabuf.
    ///
    /// # Errors
    /// [`Error`] names the step; [`Error::remedy`] says what would help, where that is known.
    pub fn build(&self) -> Result<Udmabuf, Error> {
        let page = self.hugepages.bytes();
        if self.len == 0 {
            return Err(Error::Empty);
        }
        if self.len % page != 0 {
            return Err(Error::Unaligned {
                len: self.len,
                page,
            });
        }
        let device = sys::open_device().map_err(Error::open)?;
        let memory = sys::memfd(self.hugepages)
            .map_err(|source| Error::memory(self.len, self.hugepages, source))?;
        sys::size_and_seal(memory.as_fd(), self.len)
            .map_err(|source| Error::memory(self.len, self.hugepages, source))?;
        let fd = sys::create(device.as_fd(), memory.as_fd(), self.len)
            .map_err(|source| Error::create(self.len, self.hugepages, source))?;
        Ok(Udmabuf {
            fd: DmabufFd::new(fd)?,
            hugepages: self.hugepages,
        })
    }
}

/// A dmabuf of this machine's own memory. Dropped, its pages go back once the last binding, mapping
/// and duplicate of its fd has gone.
#[derive(Debug)]
pub struct Udmabuf {
    fd: DmabufFd,
    hugepages: HugePage,
}

impl Udmabuf {
    /// Begins a udmabuf of `len` bytes: not 0, and a multiple of the page size.
    pub fn builder(len: u64) -> Builder {
        Builder {
            len,
            hugepages: HugePage::None,
        }
    }

    /// The pages it is made of.
    pub fn hugepages(&self) -> HugePage {
        self.hugepages
    }
}

impl AsFd for Udmabuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dmabuf for Udmabuf {
    fn len(&self) -> u64 {
        self.fd.len()
    }
}

impl From<Udmabuf> for OwnedFd {
    fn from(buffer: Udmabuf) -> Self {
        buffer.fd.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_made() {
        let error = Udmabuf::builder(0).build().unwrap_err();
        assert!(matches!(error, Error::Empty), "{error}");
        let error = Udmabuf::builder(4097).build().unwrap_err();
        assert!(
            matches!(error, Error::Unaligned { len: 4097, .. }),
            "{error}"
        );
        let error = Udmabuf::builder(1 << 20)
            .hugepages(HugePage::Mb2)
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "udmabuf of 1048576 bytes: not a multiple of the 2097152 byte page"
        );
        assert_eq!(error.remedy().unwrap(), "take 2097152 bytes");
    }
}
