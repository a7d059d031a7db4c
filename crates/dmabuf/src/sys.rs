//! System calls on a dmabuf's fd: `DMA_BUF_IOCTL_SYNC` and `lseek`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Error;

/// `struct dma_buf_sync` of `include/uapi/linux/dma-buf.h`.
#[repr(C)]
struct DmaBufSync {
    flags: u64,
}

pub(crate) const SYNC_READ: u64 = 1;
pub(crate) const SYNC_WRITE: u64 = 2;
const SYNC_START: u64 = 0;
const SYNC_END: u64 = 4;

/// Request number of the ioctl: `_IOW('b', 0, struct dma_buf_sync)`.
const DMA_BUF_IOCTL_SYNC: libc::Ioctl = libc::_IOW::<DmaBufSync>(b'b' as u32, 0);

fn sync_once(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let sync = DmaBufSync { flags };
    // SAFETY: the request reads one `struct dma_buf_sync`, and `sync` is one that lives through the
    // call; on an fd of another kind the kernel refuses the request without touching it.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), DMA_BUF_IOCTL_SYNC, &raw const sync) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls `DMA_BUF_IOCTL_SYNC` until it is not interrupted: waiting for a fence may be, and drivers
/// may ask to be called again (`Documentation/driver-api/dma-buf.rst`: restart on `EAGAIN` and
/// `EINTR`).
fn sync(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    loop {
        match sync_once(fd, flags) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            done => return done,
        }
    }
}

/// Begins a CPU access (`dma_buf_begin_cpu_access`); `direction` consists of [`SYNC_READ`] and
/// [`SYNC_WRITE`].
pub(crate) fn begin(fd: BorrowedFd<'_>, direction: u64) -> io::Result<()> {
    sync(fd, direction | SYNC_START)
}

/// Ends a CPU access (`dma_buf_end_cpu_access`), with the direction of its beginning.
pub(crate) fn end(fd: BorrowedFd<'_>, direction: u64) -> io::Result<()> {
    sync(fd, direction | SYNC_END)
}

fn lseek(fd: BorrowedFd<'_>, offset: libc::off64_t, whence: libc::c_int) -> io::Result<u64> {
    // SAFETY: `lseek64` takes no pointers.
    let at = unsafe { libc::lseek64(fd.as_raw_fd(), offset, whence) };
    u64::try_from(at).map_err(|_| io::Error::last_os_error())
}

/// Checks that an fd is a dmabuf, and returns its length.
///
/// Neither call changes a dmabuf: `dma_buf_ioctl` refuses flags outside its mask with `EINVAL`
/// where another file returns `ENOTTY`, and `dma_buf_llseek` refuses every offset but 0.
pub(crate) fn probe(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    let is = |outcome: Option<io::Error>, errno| {
        outcome.is_some_and(|error| error.raw_os_error() == Some(errno))
    };
    if !is(sync_once(fd, u64::MAX).err(), libc::EINVAL)
        || !is(lseek(fd, 1, libc::SEEK_END).err(), libc::EINVAL)
    {
        return Err(Error::NotDmabuf { fd: fd.as_raw_fd() });
    }
    lseek(fd, 0, libc::SEEK_END).map_err(Error::Length)
}
