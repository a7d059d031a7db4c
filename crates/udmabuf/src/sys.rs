//! The system calls that make a udmabuf.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::HugePage;

/// `struct udmabuf_create` of `include/uapi/linux/udmabuf.h`.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const UDMABUF_FLAGS_CLOEXEC: u32 = 1;

/// `_IOW('u', 0x42, struct udmabuf_create)`.
const UDMABUF_CREATE: libc::Ioctl = libc::_IOW::<UdmabufCreate>(b'u' as u32, 0x42);

pub(crate) fn page_size() -> u64 {
    // SAFETY: `sysconf` takes no pointers, and _SC_PAGESIZE is known to every kernel.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// For reading: the ioctl wants no more.
pub(crate) fn open_device() -> io::Result<File> {
    File::open("/dev/udmabuf")
}

/// A memfd that may be sealed. `MFD_NOEXEC_SEAL` allows sealing too and spares the kernel's
/// warning about memfds that leave the question of execution open.
pub(crate) fn memfd(hugepages: HugePage) -> io::Result<OwnedFd> {
    let huge = match hugepages {
        HugePage::None => 0,
        HugePage::Mb2 => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        HugePage::Gb1 => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | huge;
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(c"udmabuf".as_ptr(), flags) };
    own(fd)
}

/// `check_memfd_seals` wants F_SEAL_SHRINK, and neither F_SEAL_WRITE nor F_SEAL_FUTURE_WRITE.
pub(crate) fn size_and_seal(memory: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let len = i64::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: `ftruncate64` takes no pointers.
    if unsafe { libc::ftruncate64(memory.as_raw_fd(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: F_ADD_SEALS takes an int, no pointer.
    let rc = unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `udmabuf_ioctl_create`.
pub(crate) fn create(
    device: BorrowedFd<'_>,
    memory: BorrowedFd<'_>,
    len: u64,
) -> io::Result<OwnedFd> {
    let create = UdmabufCreate {
        memfd: memory.as_raw_fd().unsigned_abs(),
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset: 0,
        size: len,
    };
    // SAFETY: the request reads one `struct udmabuf_create`, and `create` is one that lives through
    // the call.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), UDMABUF_CREATE, &raw const create) };
    own(fd)
}

fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this fd for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
