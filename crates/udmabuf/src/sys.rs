//! System calls that make a udmabuf.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

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

/// Request number of the ioctl: `_IOW('u', 0x42, struct udmabuf_create)`.
const UDMABUF_CREATE: libc::Ioctl = libc::_IOW::<UdmabufCreate>(b'u' as u32, 0x42);

pub(crate) fn page_size() -> u64 {
    // SAFETY: `sysconf` takes no pointers, and _SC_PAGESIZE is known to every kernel.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Opens `/dev/udmabuf` for reading, which is enough for the ioctl.
pub(crate) fn open_device() -> io::Result<File> {
    File::open("/dev/udmabuf")
}

/// Creates a memfd that may be sealed. `MFD_NOEXEC_SEAL` allows sealing, too, and avoids the
/// kernel's warning about memfds that leave the question of execution open.
pub(crate) fn memfd(hugepages: HugePage) -> io::Result<File> {
    let huge = match hugepages {
        HugePage::None | HugePage::Transparent => 0,
        HugePage::Mb2 => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        HugePage::Gb1 => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | huge;
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(c"udmabuf".as_ptr(), flags) };
    own(fd).map(File::from)
}

/// Sizes and seals a memfd: `check_memfd_seals` requires F_SEAL_SHRINK, and neither F_SEAL_WRITE
/// nor F_SEAL_FUTURE_WRITE.
pub(crate) fn size_and_seal(memory: &File, len: u64) -> io::Result<()> {
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

/// Turns the memory of a memfd into transparent hugepages, as far as `len` holds whole ones.
///
/// `MADV_COLLAPSE` (`madvise_collapse`) requires that the memory is mapped at an address that is a
/// multiple of the hugepage size, and that each hugepage holds a page already. A page table is not
/// needed.
pub(crate) fn collapse(memory: &File, len: u64) -> io::Result<()> {
    let huge = HugePage::Mb2.bytes();
    let whole = len - len % huge;
    if whole == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for at in (0..whole).step_by(huge as usize) {
        memory.write_all_at(&[0], at)?;
    }
    let too_large = |_| io::Error::from(io::ErrorKind::OutOfMemory);
    let area = Area::new(usize::try_from(whole + huge).map_err(too_large)?)?;
    area.collapse(memory.as_fd(), (whole as usize, huge as usize))
}

/// A range of addresses that is reserved until it is dropped.
struct Area {
    start: *mut libc::c_void,
    len: usize,
}

impl Area {
    fn new(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a mapping at an address of the kernel's choice touches no memory that anybody has.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    /// Maps `whole` bytes of `memory` at the first multiple of `huge` in the area, and collapses
    /// them to transparent hugepages.
    fn collapse(&self, memory: BorrowedFd<'_>, (whole, huge): (usize, usize)) -> io::Result<()> {
        let pad = self.start.addr().next_multiple_of(huge) - self.start.addr();
        assert!(pad + whole <= self.len, "the area has a hugepage to spare");
        let at = self.start.wrapping_byte_add(pad);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies inside our own area, as was just checked, where nothing is mapped
        // that anybody has a pointer to.
        let mapped = unsafe { libc::mmap(at, whole, protection, flags, memory.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: MADV_COLLAPSE changes which pages hold the bytes, not the bytes.
        match unsafe { libc::madvise(at, whole, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the addresses are ours alone, and nobody has a pointer to them any more.
        let rc = unsafe { libc::munmap(self.start, self.len) };
        debug_assert_eq!(rc, 0, "the area was mapped");
    }
}

/// Makes a udmabuf of a memfd by `UDMABUF_CREATE` (`udmabuf_ioctl_create`).
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
