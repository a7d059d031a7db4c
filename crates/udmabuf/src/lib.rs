//! Dmabufs of the machine's own memory: a memfd, of plain pages or of hugepages.
//!
//! The steps are those that `check_memfd_seals` and `udmabuf_create` (`drivers/dma-buf/udmabuf.c`)
//! require: create a memfd that may be sealed, size it, seal it against shrinking but not against
//! writing, then call `UDMABUF_CREATE` on `/dev/udmabuf`. From then on the memory is pinned, and
//! the memfd is closed.
//!
//! ```no_run
//! use dmabuf::Dmabuf;
//! use udmabuf::Udmabuf;
//! # fn main() -> Result<(), udmabuf::Error> {
//! let memory = Udmabuf::builder(64 << 20).build()?;
//! assert_eq!(memory.len(), 64 << 20);
//! println!("{} bytes of {:?}", memory.len(), memory.hugepages());
//! # Ok(()) }
//! ```
//!
//! # What it costs
//! `udmabuf_create` allocates the pages one by one. Each is cleared twice where the kernel clears
//! at allocation (`init_on_alloc`), as distributions' kernels do: once there, and once by
//! `shmem_get_folio_gfp`. In instructions of a 7.3 kernel, 64 MiB take 244 million with plain
//! pages, 146 million with [transparent](HugePage::Transparent) hugepages and 68 million with
//! [reserved](HugePage::Mb2) ones, 67 of which clear them; binding saves as much again with larger
//! pages. So by default a [`Builder`] takes the largest pages that are available. `fallocate` would
//! be cheap, too, but leaves pages uncleared, which `memfd_pin_folios` then hands out as they are.
#![deny(unsafe_code)]

mod available;
mod error;
mod reserved;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dmabuf::{Dmabuf, DmabufFd};

pub use available::Available;
pub use error::Error;
pub use reserved::{ReservedHugepages, SIZE_LIMIT_MB};

/// Kind of pages that a udmabuf consists of. Larger pages make fewer entries in its sg table, from
/// which a NIC refills faster; `rx-page-size` on `bind-rx` requires them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HugePage {
    /// Ordinary pages, of the system's page size.
    #[default]
    None,
    /// Transparent hugepages of 2 MiB, which need not be reserved. The kernel makes as many as it
    /// finds free memory for, unless `shmem_enabled` is `deny` (`MADV_COLLAPSE`, Linux 6.1); the
    /// rest are ordinary pages.
    #[doc(alias = "MADV_COLLAPSE")]
    Transparent,
    /// Reserved hugepages of 2 MiB (`MFD_HUGE_2MB`).
    #[doc(alias = "MFD_HUGE_2MB")]
    Mb2,
    /// Reserved hugepages of 1 GiB (`MFD_HUGE_1GB`).
    #[doc(alias = "MFD_HUGE_1GB")]
    Gb1,
}

impl HugePage {
    /// Unit in bytes of the length of a udmabuf of such pages: the size of a page, and of an
    /// ordinary page where those complete [transparent](Self::Transparent) ones.
    pub fn bytes(self) -> u64 {
        match self {
            HugePage::None | HugePage::Transparent => sys::page_size(),
            HugePage::Mb2 => 2 << 20,
            HugePage::Gb1 => 1 << 30,
        }
    }
}

/// Parameters of a new [`Udmabuf`]; see [`Udmabuf::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until build() is called"]
pub struct Builder {
    len: u64,
    hugepages: Option<HugePage>,
}

impl Builder {
    /// Sets the kind of pages of the udmabuf. By default they are the largest available:
    /// [`HugePage::Mb2`] where enough of them are reserved and free, otherwise
    /// [`HugePage::Transparent`].
    pub fn hugepages(mut self, hugepages: HugePage) -> Self {
        self.hugepages = Some(hugepages);
        self
    }

    /// Allocates the memory and makes the dmabuf.
    ///
    /// # Errors
    /// [`Error`] names the step. A lack of
    /// hugepages is an error only if they were requested.
    #[doc(alias = "UDMABUF_CREATE")]
    #[doc(alias = "MFD_ALLOW_SEALING")]
    #[doc(alias = "F_SEAL_SHRINK")]
    pub fn build(&self) -> Result<Udmabuf, Error> {
        let page = self.hugepages.unwrap_or_default().bytes();
        if self.len == 0 {
            return Err(Error::Empty);
        }
        if self.len % page != 0 {
            return Err(Error::Unaligned {
                len: self.len,
                page,
            });
        }
        if let Some(hugepages) = self.hugepages {
            check_available(self.len, self.hugepages)?;
            return self.build_of(hugepages);
        }
        if reserved::suffice(HugePage::Mb2, self.len) {
            match self.build_of(HugePage::Mb2) {
                // Another process took the hugepages first.
                Err(Error::Memory { .. }) => {}
                done => return done,
            }
        }
        check_available(self.len, None)?;
        self.build_of(HugePage::Transparent)
    }

    fn build_of(&self, hugepages: HugePage) -> Result<Udmabuf, Error> {
        let mut hugepages = hugepages;
        let device = sys::open_device().map_err(Error::open)?;
        let memory =
            sys::memfd(hugepages).map_err(|source| Error::memory(self.len, hugepages, source))?;
        sys::size_and_seal(&memory, self.len)
            .map_err(|source| Error::memory(self.len, hugepages, source))?;
        // Above the limit the kernel refuses, so no page is touched.
        let untouched = size_limit().is_some_and(|limit| self.len > limit);
        if hugepages == HugePage::Transparent
            && (untouched || sys::collapse(&memory, self.len).is_err())
        {
            hugepages = HugePage::None;
        }
        let fd = sys::create(device.as_fd(), memory.as_fd(), self.len)
            .map_err(|source| Error::create(self.len, hugepages, source))?;
        Ok(Udmabuf {
            fd: DmabufFd::new(fd)?,
            hugepages,
        })
    }
}

/// The udmabuf module's limit on one buffer in bytes (`size_limit_mb`), if it has a limit: 64 MiB
/// up to Linux 7.2, none from 7.3 on.
#[doc(alias = "size_limit_mb")]
pub fn size_limit() -> Option<u64> {
    reserved::size_limit()
}

/// Checks that memory is available for a udmabuf of `len` bytes, or for several with this sum of
/// lengths, before a page is allocated. [`Builder::build`] checks by itself. Reserved hugepages
/// that are free count as available. Succeeds where a kernel does not report its memory.
///
/// # Errors
/// [`Error::Available`].
pub fn check_available(len: u64, hugepages: Option<HugePage>) -> Result<(), Error> {
    let missing = match hugepages {
        // The choice of `Builder::build`.
        None if reserved::suffice(HugePage::Mb2, len) => 0,
        None | Some(HugePage::None | HugePage::Transparent) => len,
        // The missing ones would have to be reserved first.
        Some(pages) => len.saturating_sub(reserved::bytes(pages)),
    };
    match Available::to_process() {
        Some(available) if !available.holds(missing) => Err(Error::Available { len, available }),
        _ => Ok(()),
    }
}

/// A dmabuf of this machine's own memory. After it is dropped, its pages are freed with the last
/// binding, mapping and duplicate of its fd.
#[doc(alias = "UDMABUF_CREATE")]
#[derive(Debug)]
pub struct Udmabuf {
    fd: DmabufFd,
    hugepages: HugePage,
}

impl Udmabuf {
    /// Creates a builder of a udmabuf of `len` bytes: not 0, and a multiple of the page size.
    pub fn builder(len: u64) -> Builder {
        Builder {
            len,
            hugepages: None,
        }
    }

    /// Kind of pages that the udmabuf consists of: [`HugePage::Transparent`] if all pages are that
    /// can be, which is all but the rest of a length that is not a multiple of 2 MiB.
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

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
    }
}
