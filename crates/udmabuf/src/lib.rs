//! Makes a dmabuf out of a memfd, of plain pages or of hugepages.
//!
//! The steps are those that `check_memfd_seals` and `udmabuf_create`
//! (`drivers/dma-buf/udmabuf.c`) ask for: a memfd that may be sealed, sized, sealed against
//! shrinking and not against writing, then `UDMABUF_CREATE` on `/dev/udmabuf`. The memory is pinned
//! from then on, and the memfd is closed.
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
//! `udmabuf_create` has each page allocated, one by one, and each is cleared twice where the kernel
//! clears at allocation (`init_on_alloc`), as distributions' kernels do: once there, and once by
//! `shmem_get_folio_gfp`. In instructions of a 7.3 kernel, 64 MiB take 244 million out of plain
//! pages, 146 million out of [transparent](HugePage::Transparent) hugepages and 68 million out of
//! [reserved](HugePage::Mb2) ones, 67 of which clear them; on a binding larger pages save as much again. So
//! unless told otherwise a [`Builder`] takes the largest that are to be had. `fallocate` would be
//! cheap as well, but leaves pages uncleared, which `memfd_pin_folios` then hands out as they are.
#![deny(unsafe_code)]

mod available;
mod error;
mod free;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dmabuf::{Dmabuf, DmabufFd};

pub use available::Available;
pub use error::Error;

/// The pages a udmabuf is made of. Larger pages mean fewer entries in its sg table, which a NIC
/// refills from faster, and which `rx-page-size` on `bind-rx` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HugePage {
    /// Ordinary pages.
    #[default]
    None,
    /// Transparent hugepages of 2 MiB, which nobody need have reserved: as many as the kernel finds
    /// free memory for, whatever `shmem_enabled` says short of `deny` (`MADV_COLLAPSE`, Linux 6.1);
    /// ordinary pages for the rest.
    Transparent,
    /// Hugepages of 2 MiB (`MFD_HUGE_2MB`), out of those reserved.
    Mb2,
    /// Hugepages of 1 GiB (`MFD_HUGE_1GB`), out of those reserved.
    Gb1,
}

impl HugePage {
    /// What the length of a udmabuf of such pages is a multiple of, in bytes: the size of one, and
    /// of an ordinary one where those stand in for the [transparent](Self::Transparent).
    pub fn bytes(self) -> u64 {
        match self {
            HugePage::None | HugePage::Transparent => sys::page_size(),
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
    hugepages: Option<HugePage>,
}

impl Builder {
    /// Which pages to take, rather than the largest that are to be had: [`HugePage::Mb2`] where
    /// enough of them are reserved and free, [`HugePage::Transparent`] ones else.
    pub fn hugepages(mut self, hugepages: HugePage) -> Self {
        self.hugepages = Some(hugepages);
        self
    }

    /// Allocates the memory and makes the dmabuf.
    ///
    /// # Errors
    /// [`Error`] names the step; [`Error::remedy`] says what would help, where that is known. That
    /// there are no hugepages is an error only for who asked for them.
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
        if free::suffice(HugePage::Mb2, self.len) {
            match self.build_of(HugePage::Mb2) {
                // Somebody else was faster.
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
        // Over the limit nothing is made: no page is worth to be touched.
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

/// The most bytes that the module lets one udmabuf have (`size_limit_mb`), if it has a limit: 64 MiB
/// up to Linux 7.2, none from 7.3 on.
pub fn size_limit() -> Option<u64> {
    free::size_limit()
}

/// Whether there is memory for a udmabuf of `len` bytes, before a page of it is taken: for several,
/// ask with the sum of their lengths. [`Builder::build`] asks by itself. Hugepages that are reserved
/// and free count as had; where a kernel doesn't say how much memory it has, all is well.
///
/// # Errors
/// [`Error::Available`].
pub fn check_available(len: u64, hugepages: Option<HugePage>) -> Result<(), Error> {
    let missing = match hugepages {
        // As `Builder::build` chooses.
        None if free::suffice(HugePage::Mb2, len) => 0,
        None | Some(HugePage::None | HugePage::Transparent) => len,
        // To be reserved yet, if at all.
        Some(reserved) => len.saturating_sub(free::bytes(reserved)),
    };
    match Available::to_process() {
        Some(available) if !available.holds(missing) => Err(Error::Available { len, available }),
        _ => Ok(()),
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
            hugepages: None,
        }
    }

    /// The pages it is made of: [`HugePage::Transparent`] if all that can be are such, which is all
    /// but what a length leaves that is no multiple of 2 MiB.
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

/// The examples of the README are compiled.
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
        assert_eq!(error.remedy().unwrap(), "take 2097152 bytes");
    }
}
