//! System calls: ioctls of heaps and DRM devices, fds in control messages.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// `struct dma_heap_allocation_data` of `include/uapi/linux/dma-heap.h`.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// Request number of the ioctl: `_IOWR('H', 0x0, struct dma_heap_allocation_data)`.
const DMA_HEAP_IOCTL_ALLOC: libc::Ioctl = libc::_IOWR::<HeapAllocation>(b'H' as u32, 0);

/// `struct drm_mode_create_dumb` of `include/uapi/drm/drm_mode.h`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct CreateDumb {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) bpp: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

impl CreateDumb {
    /// Shape of a dumb buffer of `len` bytes, a multiple of 4 KiB: lines of 4 KiB, pixels of 32
    /// bits.
    pub(crate) fn of(len: u64) -> Option<Self> {
        // `drm_mode_create_dumb` computes the size in 32 bits.
        u32::try_from(len).ok()?;
        Some(Self {
            height: u32::try_from(len / 4096).ok()?,
            width: 1024,
            bpp: 32,
            ..Self::default()
        })
    }
}

/// Request number of the ioctl: `_IOWR('d', 0xB2, struct drm_mode_create_dumb)`.
const DRM_IOCTL_MODE_CREATE_DUMB: libc::Ioctl = libc::_IOWR::<CreateDumb>(b'd' as u32, 0xb2);

/// `struct drm_prime_handle` of `include/uapi/drm/drm.h`.
#[repr(C)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}

/// Request number of the ioctl: `_IOWR('d', 0x2d, struct drm_prime_handle)`.
const DRM_IOCTL_PRIME_HANDLE_TO_FD: libc::Ioctl = libc::_IOWR::<PrimeHandle>(b'd' as u32, 0x2d);

/// `struct drm_version` of `include/uapi/drm/drm.h`. Date and description are not written, because
/// no buffer is given for them.
#[repr(C)]
struct DrmVersion {
    major: libc::c_int,
    minor: libc::c_int,
    patch: libc::c_int,
    name_len: usize,
    name: *mut libc::c_char,
    date_len: usize,
    date: *mut libc::c_char,
    desc_len: usize,
    desc: *mut libc::c_char,
}

/// Request number of the ioctl: `_IOWR('d', 0x00, struct drm_version)`.
const DRM_IOCTL_VERSION: libc::Ioctl = libc::_IOWR::<DrmVersion>(b'd' as u32, 0);

pub(crate) fn page_size() -> u64 {
    // SAFETY: `sysconf` takes no pointers, and _SC_PAGESIZE is known to every kernel.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Opens a device's node for reading and writing, with `O_CLOEXEC`. `O_NOCTTY` and `O_NONBLOCK` are
/// for a node that is a terminal or a pipe.
pub(crate) fn open(node: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options.open(node).map(OwnedFd::from)
}

/// Major and minor number of an open device node.
pub(crate) fn device_number(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let number = fs::metadata(path_of(fd)).ok()?.rdev();
    Some((libc::major(number), libc::minor(number)))
}

/// Target of an fd in `/proc/self/fd`: a path, or `socket:[…]` and the like.
pub(crate) fn name(fd: BorrowedFd<'_>) -> String {
    match fs::read_link(path_of(fd)) {
        Ok(name) => name.display().to_string(),
        Err(_) => "something else".to_owned(),
    }
}

fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Duplicates the fd with this number, if it is open.
pub(crate) fn duplicate(number: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: F_DUPFD_CLOEXEC takes an int, no pointer, and leaves the number itself as it is,
    // whoever it belongs to.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    take_new_fd(fd)
}

/// Sets `FD_CLOEXEC` on the fd with this number, so that programs that this process executes don't
/// inherit it.
pub(crate) fn close_on_exec(number: u32) -> io::Result<()> {
    let number = i32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: F_SETFD takes an int, no pointer.
    check_return_value(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// Allocates a dmabuf from a dma-heap by `DMA_HEAP_IOCTL_ALLOC` (`dma_heap_ioctl_allocate`), for
/// reading and writing, so that the buffer can be mapped for both.
pub(crate) fn heap_allocate(heap: BorrowedFd<'_>, len: u64) -> io::Result<OwnedFd> {
    let mut allocation = HeapAllocation {
        len,
        fd: 0,
        fd_flags: (libc::O_RDWR | libc::O_CLOEXEC).unsigned_abs(),
        heap_flags: 0,
    };
    // SAFETY: the request reads and writes one `struct dma_heap_allocation_data`, which `allocation`
    // is; a file of another kind refuses the request.
    let rc = unsafe { libc::ioctl(heap.as_raw_fd(), DMA_HEAP_IOCTL_ALLOC, &raw mut allocation) };
    check_return_value(rc)?;
    take_new_fd(allocation.fd as RawFd)
}

/// Calls `DRM_IOCTL_MODE_CREATE_DUMB` (`drm_mode_create_dumb`) and returns the handle of the new
/// buffer.
pub(crate) fn create_dumb(device: BorrowedFd<'_>, mut dumb: CreateDumb) -> io::Result<u32> {
    // SAFETY: the request reads and writes one `struct drm_mode_create_dumb`, which `dumb` is; a
    // file of another kind refuses the request.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            DRM_IOCTL_MODE_CREATE_DUMB,
            &raw mut dumb,
        )
    };
    check_return_value(rc)?;
    Ok(dumb.handle)
}

/// Exports a dumb buffer as a dmabuf by `DRM_IOCTL_PRIME_HANDLE_TO_FD`
/// (`drm_gem_prime_handle_to_fd`); `DRM_RDWR` lets the dmabuf be mapped for writing.
pub(crate) fn export(device: BorrowedFd<'_>, handle: u32) -> io::Result<OwnedFd> {
    let mut prime = PrimeHandle {
        handle,
        flags: (libc::O_RDWR | libc::O_CLOEXEC).unsigned_abs(),
        fd: -1,
    };
    // SAFETY: the request reads and writes one `struct drm_prime_handle`, which `prime` is; a file
    // of another kind refuses the request.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            DRM_IOCTL_PRIME_HANDLE_TO_FD,
            &raw mut prime,
        )
    };
    check_return_value(rc)?;
    take_new_fd(prime.fd)
}

/// Name of a DRM driver (`drm_version`).
pub(crate) fn drm_driver(device: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 64];
    let mut version = DrmVersion {
        major: 0,
        minor: 0,
        patch: 0,
        name_len: name.len(),
        name: name.as_mut_ptr().cast(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    // SAFETY: the request reads and writes one `struct drm_version`, and at most `name_len` bytes at
    // `name`, which are there (`drm_copy_field`); lengths of 0 have it write nothing else.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), DRM_IOCTL_VERSION, &raw mut version) };
    check_return_value(rc)?;
    let name = name.get(..version.name_len).unwrap_or(&name);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Number of messages without an fd that are skipped before a message with an fd.
const MAX_MESSAGES_WITHOUT_FD: usize = 64;

/// Waits for a message with fds on a Unix socket. Returns none if the other end closes before it
/// sends any, or sends only messages without fds.
pub(crate) fn receive_fds(socket: &UnixStream, patience: Duration) -> io::Result<Vec<OwnedFd>> {
    let began = Instant::now();
    // `SCM_MAX_FD` fds fit a message: with room for all, none is cut off.
    let mut control = cmsg_space!([RawFd; 253]);
    for _ in 0..MAX_MESSAGES_WITHOUT_FD {
        let left = patience.saturating_sub(began.elapsed());
        socket.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
        let mut bytes = [0; 64];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let received = match received {
            Err(nix::errno::Errno::EINTR) => continue,
            received => received?,
        };
        let mut fds = Vec::new();
        let messages = received.cmsgs().map_err(|_| {
            // MSG_CTRUNC is set although there was room.
            io::Error::other("the kernel kept fds back: too many are open (ulimit -n), or a security module refused")
        })?;
        for message in messages {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                fds.extend(numbers);
            }
        }
        // SAFETY: the kernel has just made these fds for us (`scm_detach_fds`), each once, and
        // nobody else knows them.
        let fds = fds
            .into_iter()
            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let fds: Vec<OwnedFd> = fds.collect();
        if !fds.is_empty() || received.bytes == 0 {
            return Ok(fds);
        }
    }
    Ok(Vec::new())
}

/// Sends fds over a Unix socket, with a byte to carry them.
pub(crate) fn send_fds(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

fn check_return_value(rc: libc::c_int) -> io::Result<()> {
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn take_new_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this fd for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
