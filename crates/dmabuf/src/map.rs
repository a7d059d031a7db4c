//! CPU mapping of a dmabuf, shared with devices, so that it is only copied from and to.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};

use crate::{Error, sys};

/// Number of bytes that [`CpuAccess::read_with`] copies at once.
const PIECE: usize = 4096;

/// Number of bytes that [`CpuAccess::prefetch`] fetches: those that are read before the processor's
/// own prefetcher follows.
#[cfg(target_arch = "x86_64")]
const PREFETCHED: usize = 512;

/// Permitted use of a [`Mapping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// The CPU may only read the mapping (`PROT_READ`).
    Read,
    /// The CPU may read and write the mapping (`PROT_READ | PROT_WRITE`).
    ReadWrite,
}

/// Direction of an access by the CPU (`DMA_BUF_SYNC_READ`, `DMA_BUF_SYNC_WRITE`, or both).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The CPU reads what a device wrote.
    Read,
    /// The CPU writes what a device will read.
    Write,
    /// The CPU reads what a device wrote, and writes what a device will read.
    ReadWrite,
}

impl Access {
    fn direction(self) -> u64 {
        match self {
            Access::Read => sys::SYNC_READ,
            Access::Write => sys::SYNC_WRITE,
            Access::ReadWrite => sys::SYNC_READ | sys::SYNC_WRITE,
        }
    }

    #[inline]
    fn reads(self) -> bool {
        self != Access::Write
    }

    #[inline]
    fn writes(self) -> bool {
        self != Access::Read
    }
}

/// A mapping of a whole dmabuf in this process, shared with the device.
///
/// Made by [`Dmabuf::map`](crate::Dmabuf::map). It keeps the buffer alive by an fd of its own.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    fd: OwnedFd,
    protection: Protection,
}

impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, len: u64, protection: Protection) -> Result<Self, Error> {
        let fd = fd.try_clone_to_owned().map_err(Error::Duplicate)?;
        let too_large = |_| Error::Map {
            len,
            source: std::io::ErrorKind::FileTooLarge.into(),
        };
        let mut options = MmapOptions::new();
        options.len(usize::try_from(len).map_err(too_large)?);
        let map = match protection {
            Protection::Read => options.map_raw_read_only(&fd),
            Protection::ReadWrite => options.map_raw(&fd),
        };
        let map = map.map_err(|source| Error::Map { len, source })?;
        Ok(Self {
            map,
            fd,
            protection,
        })
    }

    /// Length of the dmabuf in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the kernel makes no empty dmabuf"
    )]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Begins an access by the CPU: `DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_START`
    /// (`dma_buf_begin_cpu_access`). One access may cover any number of copies; begin a new one
    /// for bytes that a device wrote after this one began.
    ///
    /// # Errors
    /// [`Error::Begin`] if the exporter refuses, [`Error::ReadOnly`] for a writing access to a
    /// mapping made with [`Protection::Read`].
    #[doc(alias = "DMA_BUF_IOCTL_SYNC")]
    #[doc(alias = "DMA_BUF_SYNC_START")]
    pub fn begin_access(&self, access: Access) -> Result<CpuAccess<'_>, Error> {
        if access.writes() && self.protection == Protection::Read {
            return Err(Error::ReadOnly);
        }
        sys::begin(self.fd.as_fd(), access.direction()).map_err(Error::Begin)?;
        Ok(CpuAccess {
            mapping: self,
            access,
            open: true,
        })
    }

    /// Prepares for the first access: begins one, reads a byte, and ends it. A udmabuf maps all of
    /// its pages at the first touch of one (`udmabuf_vm_fault`) and makes its page table at the
    /// first access (`begin_cpu_udmabuf`): some 15 million instructions for 64 MiB, which would
    /// otherwise delay the first frag.
    ///
    /// # Errors
    /// As [`Mapping::begin_access`] and [`CpuAccess::end`].
    pub fn touch(&self) -> Result<(), Error> {
        let access = self.begin_access(Access::Read)?;
        let first = self.at(0, 1)?;
        // SAFETY: `at` has checked that the byte is inside the mapping, which lives as long as
        // `self`; a volatile read makes no reference to it.
        unsafe { first.cast_const().read_volatile() };
        access.end()
    }

    /// Address of the `len` bytes at `offset` of the mapping, or an error if it ends before them.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> Result<*mut u8, Error> {
        let size = self.len();
        let fits = |start: &usize| start.checked_add(len).is_some_and(|end| end <= size);
        let Some(start) = usize::try_from(offset).ok().filter(fits) else {
            return Err(Error::OutOfBounds { offset, len, size });
        };
        Ok(self.map.as_mut_ptr().wrapping_add(start))
    }
}

/// An access by the CPU, from its begin to its end. End it with [`CpuAccess::end`]; dropping it
/// ends it, too, but can only log an error.
#[derive(Debug)]
#[must_use = "an access that is dropped at once covers no copy"]
pub struct CpuAccess<'a> {
    mapping: &'a Mapping,
    access: Access,
    open: bool,
}

impl CpuAccess<'_> {
    /// Length of the buffer in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the kernel makes no empty dmabuf"
    )]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Copies `out.len()` bytes from byte `offset` of the dmabuf to host memory.
    ///
    /// If a device writes at the same time, which of its bytes are read is not defined.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], with nothing copied; [`Error::WriteOnly`].
    #[inline]
    pub fn copy_to(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let from = self.readable(offset, out.len())?;
        // SAFETY: `at` has checked that `out.len()` bytes from `from` are inside the mapping, which
        // lives as long as `self`; `out` is ours alone, so the two can't overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies `bytes` from host memory to byte `offset` of the dmabuf.
    ///
    /// Reading takes a shared access. Writing takes an exclusive one, so that no other thread reads
    /// or writes with it at the same time:
    ///
    /// ```compile_fail,E0596
    /// fn shared(access: &dmabuf::CpuAccess<'_>) {
    ///     let _ = access.copy_from(0, b"bytes");
    /// }
    /// ```
    ///
    /// Several accesses to one buffer are like several devices: if two write the same bytes at the
    /// same time, which of them are seen is not defined.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], with nothing copied; [`Error::ReadOnly`].
    #[inline]
    pub fn copy_from(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if !self.access.writes() {
            return Err(Error::ReadOnly);
        }
        let to = self.mapping.at(offset, bytes.len())?;
        // SAFETY: `at` has checked that `bytes.len()` bytes from `to` are inside the mapping, which
        // was made writable (`begin_access` checks); no reference to mapped memory ever exists, so
        // `bytes` can't overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Whether the bytes at `offset` equal `expected`. Compares in place, at memory speed, with the
    /// C library's `memcmp`. If a device writes at the same time, the answer may be either.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::WriteOnly`].
    #[inline]
    pub fn equals(&self, offset: u64, expected: &[u8]) -> Result<bool, Error> {
        let from = self.readable(offset, expected.len())?;
        // SAFETY: `at` has checked that `expected.len()` bytes from `from` are inside the mapping;
        // `memcmp` makes no Rust reference to them, so a device may write meanwhile.
        let order = unsafe { libc::memcmp(from.cast(), expected.as_ptr().cast(), expected.len()) };
        Ok(order == 0)
    }

    /// Prefetches the first bytes of the dmabuf at `offset` into the processor's caches: its own
    /// prefetcher stops at the end of each page. Does nothing outside of the buffer, and on
    /// processors other than x86-64.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Ok(first) = self.mapping.at(offset, PREFETCHED) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in (0..PREFETCHED).step_by(64) {
                let line = first.wrapping_add(line).cast_const().cast();
                // SAFETY: a prefetch is a hint, which accesses no memory that the program can see.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// Passes the `len` bytes of the dmabuf at `offset` to `visit`, in order, in pieces of up to 4
    /// KiB that are copied to the stack.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], before the first piece; [`Error::WriteOnly`].
    #[inline]
    pub fn read_with(
        &self,
        offset: u64,
        len: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let from = self.readable(offset, len)?;
        let mut piece = MaybeUninit::<[u8; PIECE]>::uninit();
        let to = piece.as_mut_ptr().cast::<u8>();
        let mut done = 0;
        while done < len {
            let now = PIECE.min(len - done);
            // SAFETY: `readable` has checked that `len` bytes from `from` are inside the mapping, of
            // which these are some; `piece` has room for `now`, and is ours alone.
            unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(done), to, now) };
            // SAFETY: the first `now` bytes of `piece` have just been written, and nobody writes
            // there while `visit` has them.
            visit(unsafe { std::slice::from_raw_parts(to, now) });
            done += now;
        }
        Ok(())
    }

    /// Ends the access by the CPU: `DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_END`
    /// (`dma_buf_end_cpu_access`).
    ///
    /// # Errors
    /// [`Error::End`]; the access has ended even then.
    #[doc(alias = "DMA_BUF_IOCTL_SYNC")]
    #[doc(alias = "DMA_BUF_SYNC_END")]
    pub fn end(mut self) -> Result<(), Error> {
        self.close()
    }

    #[inline]
    fn readable(&self, offset: u64, len: usize) -> Result<*const u8, Error> {
        if !self.access.reads() {
            return Err(Error::WriteOnly);
        }
        Ok(self.mapping.at(offset, len)?.cast_const())
    }

    fn close(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        sys::end(self.mapping.fd.as_fd(), self.access.direction()).map_err(Error::End)
    }
}

impl Drop for CpuAccess<'_> {
    fn drop(&mut self) {
        if let Err(Error::End(error)) = self.close() {
            tracing::warn!(%error, "end CPU access to dmabuf");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    /// Maps a plain file, whose accesses begin without a call to the kernel. The copies are the
    /// same.
    fn mapping(len: u64, protection: Protection) -> Mapping {
        let path =
            std::env::temp_dir().join(format!("dmabuf-map-{:?}", std::thread::current().id()));
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(len).unwrap();
        Mapping::new(file.as_fd(), len, protection).unwrap()
    }

    fn access(mapping: &Mapping, access: Access) -> CpuAccess<'_> {
        CpuAccess {
            mapping,
            access,
            open: false,
        }
    }

    #[test]
    fn bytes_written_are_read() {
        let mapping = mapping(16384, Protection::ReadWrite);
        let mut access = access(&mapping, Access::ReadWrite);
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        access.copy_from(123, &bytes).unwrap();
        let mut read = vec![0; bytes.len()];
        access.copy_to(123, &mut read).unwrap();
        assert_eq!(read, bytes);
        assert!(access.equals(123, &bytes).unwrap());
        assert!(!access.equals(124, &bytes).unwrap());
        let mut visited = Vec::new();
        access
            .read_with(123, bytes.len(), |piece| visited.extend_from_slice(piece))
            .unwrap();
        assert_eq!(visited, bytes);
    }

    #[test]
    fn nothing_outside_the_mapping_is_touched() {
        let mapping = mapping(4096, Protection::ReadWrite);
        let mut access = access(&mapping, Access::ReadWrite);
        access.copy_from(4095, &[1]).unwrap();
        access.copy_to(4096, &mut []).unwrap();
        for (offset, len) in [
            (4096, 1),
            (4095, 2),
            (0, 4097),
            (u64::MAX, 1),
            (u64::MAX, 0),
        ] {
            let mut out = vec![0; len];
            let read = access.copy_to(offset, &mut out);
            assert!(
                matches!(read, Err(Error::OutOfBounds { size: 4096, .. })),
                "{read:?}"
            );
            assert!(access.copy_from(offset, &out).is_err());
            assert!(access.equals(offset, &out).is_err());
            assert!(access.read_with(offset, len, |_| panic!()).is_err());
        }
    }

    #[test]
    fn an_access_refuses_the_other_direction() {
        let mapping = mapping(4096, Protection::Read);
        assert!(matches!(
            mapping.begin_access(Access::Write),
            Err(Error::ReadOnly)
        ));
        let mut reading = access(&mapping, Access::Read);
        assert!(matches!(reading.copy_from(0, &[1]), Err(Error::ReadOnly)));
        let writing = access(&mapping, Access::Write);
        assert!(matches!(
            writing.copy_to(0, &mut [0]),
            Err(Error::WriteOnly)
        ));
    }
}
