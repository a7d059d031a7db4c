//! Replacements of three system calls, to measure the receive path without a kernel.
//!
//! This module defines `recvmsg`, `setsockopt` and `ioctl` in place of the C library's. So the code
//! under test is the one that programs use, [`DevmemStream::recv`](devmem::DevmemStream::recv) and
//! all below it, and what is measured is user space alone.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;

use devmem::cmsg::{self, DmabufCmsg, Message};
use dmabuf::{Dmabuf, Mapping, Protection};

/// Id of the dmabuf in which all frags lie.
pub(crate) const DMABUF: u32 = 7;

thread_local! {
    static CALL: RefCell<RecvmsgResult> = const { RefCell::new(RecvmsgResult::none()) };
    /// Number of frags freed by `SO_DEVMEM_DONTNEED`.
    static FREED: Cell<u64> = const { Cell::new(0) };
}

/// Result of each `recvmsg` of a thread: control messages and number of bytes.
struct RecvmsgResult {
    control: Vec<u8>,
    bytes: isize,
    /// The control buffer that already holds `control`. The real kernel writes it each time; the
    /// cost of that is not measured here.
    written: *mut c_void,
}

impl RecvmsgResult {
    const fn none() -> Self {
        Self {
            control: Vec::new(),
            bytes: 0,
            written: std::ptr::null_mut(),
        }
    }
}

/// Makes each later `recvmsg` of this thread return `frags`.
pub(crate) fn set_received(frags: &[DmabufCmsg]) {
    let mut call = RecvmsgResult::none();
    for frag in frags {
        cmsg::encode(&Message::Dmabuf(*frag), &mut call.control);
        call.bytes += frag.frag_size as isize;
    }
    CALL.set(call);
}

/// Number of frags that this thread has freed so far.
pub(crate) fn freed_frags() -> u64 {
    FREED.get()
}

/// Replaces `recvmsg` of the C library.
///
/// # Safety
/// As of that: `message` points at a message header with a control buffer of `msg_controllen` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn recvmsg(_: c_int, message: *mut libc::msghdr, _: c_int) -> isize {
    CALL.with_borrow_mut(|call| {
        // SAFETY: the caller's promise; no other reference to the header exists during the call.
        let message = unsafe { &mut *message };
        let (from, len, to) = (
            call.control.as_ptr(),
            call.control.len(),
            message.msg_control,
        );
        assert!(message.msg_controllen >= len as _);
        if std::mem::replace(&mut call.written, to) != to {
            // SAFETY: the caller's control buffer is as long as it says, which was just compared.
            unsafe { to.cast::<u8>().copy_from(from, len) };
        }
        message.msg_controllen = len as _;
        call.bytes
    })
}

/// Replaces `setsockopt` of the C library, for `SO_DEVMEM_DONTNEED` only.
///
/// # Safety
/// As of that: `value` points at `len` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn setsockopt(
    _: c_int,
    _: c_int,
    option: c_int,
    value: *const c_void,
    len: libc::socklen_t,
) -> c_int {
    assert_eq!(option, libc::SO_DEVMEM_DONTNEED);
    let ranges = len as usize / size_of::<[u32; 2]>();
    assert!(ranges <= devmem::MAX_RANGES);
    // SAFETY: the caller's promise; `struct dmabuf_token` is two u32.
    let ranges = unsafe { std::slice::from_raw_parts(value.cast::<[u32; 2]>(), ranges) };
    let freed: u32 = ranges.iter().map(|[_, count]| count).sum();
    assert!(freed <= devmem::MAX_FRAGS);
    FREED.set(FREED.get() + u64::from(freed));
    freed as c_int
}

/// Replaces `ioctl` of the C library: `DMA_BUF_IOCTL_SYNC` does nothing, other requests go to the
/// kernel.
///
/// # Safety
/// As of that.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ioctl(
    fd: c_int,
    request: libc::Ioctl,
    argument: *mut c_void,
) -> c_int {
    const DMA_BUF_IOCTL_SYNC: libc::Ioctl = 0x4008_6200;
    if request == DMA_BUF_IOCTL_SYNC {
        return 0;
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int }
}

/// A memfd that is mapped like a dmabuf.
pub(crate) struct Memory {
    file: File,
    len: u64,
}

impl Memory {
    /// Makes a memfd that holds `bytes`. Returns it as the crates map a dmabuf, and as plain
    /// memory.
    pub(crate) fn of(bytes: &[u8]) -> (Mapping, &'static [u8]) {
        // SAFETY: the name is a C string, and the call takes no other pointer.
        let fd = unsafe { libc::memfd_create(c"frags".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        let memory = Self {
            // SAFETY: the fd was just made, and has no other owner.
            file: unsafe { File::from_raw_fd(fd) },
            len: bytes.len() as u64,
        };
        memory.file.write_all_at(bytes, 0).expect("fill the memfd");
        let mapping = memory.map(Protection::Read).expect("map the memfd");
        let (none, read) = (std::ptr::null_mut(), libc::PROT_READ);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(none, bytes.len(), read, libc::MAP_SHARED, fd, 0) };
        assert!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: the mapping is this long, is never unmapped, and no write follows to the file
        // any more.
        (mapping, unsafe {
            std::slice::from_raw_parts(at.cast(), bytes.len())
        })
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Dmabuf for Memory {
    fn len(&self) -> u64 {
        self.len
    }
}
