//! The system calls that devmem TCP needs raw: `recvmsg` with control bytes as the kernel wrote
//! them, `setsockopt` with its return value, and options that no crate knows.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::token::TokenRange;

/// `MSG_SOCK_DEVMEM` of `include/linux/socket.h`; no user header has it.
const MSG_SOCK_DEVMEM: libc::c_int = 0x0200_0000;

/// Result of one `recvmsg`: bytes of the stream and control bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    /// Return value of `recvmsg`: number of bytes of the stream.
    pub(crate) bytes: usize,
    /// Number of control bytes that `recvmsg` wrote.
    pub(crate) control: usize,
}

/// Whether a `recvmsg` may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Sleep, if the socket is a blocking one.
    AsSet,
    /// Never sleep, even on a blocking socket (`MSG_DONTWAIT`).
    Never,
}

/// Calls `recvmsg(MSG_SOCK_DEVMEM)` once. The control buffer is a slice of u64, which aligns it as
/// `struct cmsghdr` requires.
pub(crate) fn recvmsg(
    socket: BorrowedFd<'_>,
    iov: &mut [u8],
    control: &mut [u64],
    wait: Wait,
) -> io::Result<Filled> {
    let flags = match wait {
        Wait::AsSet => MSG_SOCK_DEVMEM,
        Wait::Never => MSG_SOCK_DEVMEM | libc::MSG_DONTWAIT,
    };
    let mut vector = libc::iovec {
        iov_base: iov.as_mut_ptr().cast(),
        iov_len: iov.len(),
    };
    // SAFETY: `msghdr` is made of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control) as _;
    // SAFETY: `message` points at one iovec over `iov` and at `control`, both borrowed mutably for
    // the call, with their true lengths; every bit pattern the kernel writes is a valid u8 or u64.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    Ok(Filled {
        bytes,
        control: message.msg_controllen as _,
    })
}

/// The control buffer of `recvmsg` as bytes.
pub(crate) fn bytes(control: &[u64]) -> &[u8] {
    // SAFETY: u8 has no alignment and no invalid values, and the length is that of `control`,
    // whose borrow the result keeps.
    unsafe { std::slice::from_raw_parts(control.as_ptr().cast(), size_of_val(control)) }
}

/// The control buffer as bytes that tests write in the kernel's place.
#[cfg(test)]
pub(crate) fn bytes_mut(control: &mut [u64]) -> &mut [u8] {
    // SAFETY: as in `bytes`; every bit pattern is a valid u64, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(control.as_mut_ptr().cast(), size_of_val(control)) }
}

/// Calls `setsockopt(SO_DEVMEM_DONTNEED)`: gives `ranges` of tokens back and returns the number of
/// frags that were freed (`sock_devmem_dontneed`).
pub(crate) fn dontneed(socket: BorrowedFd<'_>, ranges: &[TokenRange]) -> io::Result<u32> {
    // SAFETY: `TokenRange` is `struct dmabuf_token` (repr(C), two u32), and the length is that of
    // the slice in bytes.
    let freed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DEVMEM_DONTNEED,
            ranges.as_ptr().cast(),
            size_of_val(ranges) as libc::socklen_t,
        )
    };
    u32::try_from(freed).map_err(|_| io::Error::last_os_error())
}

/// Sets `TCP_INQ`: each `recvmsg` returns a `TCP_CM_INQ` message.
pub(crate) fn set_tcp_inq(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_TCP, libc::TCP_INQ, 1)
}

/// Sets `SO_RCVLOWAT`: a socket counts as readable only when `bytes` bytes wait, or its window is
/// nearly closed, or its peer has closed (`tcp_set_rcvlowat`, `tcp_epollin_ready`).
pub(crate) fn set_low_water(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Sets `SO_RCVBUFFORCE`: a receive buffer that `net.core.rmem_max` doesn't limit.
pub(crate) fn set_recv_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Sets `SO_ZEROCOPY`, which allows `MSG_ZEROCOPY`.
pub(crate) fn set_zerocopy(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)
}

/// A `struct iovec` whose base is an offset into a dmabuf (`zerocopy_fill_skb_from_devmem`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OffsetVec {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// Calls `sendmsg(SCM_DEVMEM_DMABUF, MSG_ZEROCOPY)` once, without sleeping or a signal: sends
/// `vectors` of the dmabuf and returns the number of bytes that were taken.
pub(crate) fn sendmsg(
    socket: BorrowedFd<'_>,
    dmabuf: u32,
    vectors: &[OffsetVec],
) -> io::Result<usize> {
    let mut control = [0u64; 3];
    let length = size_of::<libc::cmsghdr>() + size_of::<u32>();
    let header = libc::cmsghdr {
        cmsg_len: length as _,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_DEVMEM_DMABUF,
    };
    let start = control.as_mut_ptr();
    // SAFETY: a `cmsghdr` and a u32 take 20 of the 24 bytes, and a u64 is aligned as both want.
    unsafe { start.cast::<libc::cmsghdr>().write(header) };
    let payload = start.cast::<u8>().wrapping_add(size_of::<libc::cmsghdr>());
    // SAFETY: see above; the offset is a multiple of 4.
    #[allow(clippy::cast_ptr_alignment)]
    unsafe {
        payload.cast::<u32>().write(dmabuf);
    };
    // SAFETY: `msghdr` is made of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_ptr().cast_mut().cast();
    message.msg_iovlen = vectors.len() as _;
    message.msg_control = start.cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `OffsetVec` has the layout of `iovec` (repr(C), two words), and `message` names the
    // slice and `control` with their true lengths. The kernel takes the bases for offsets, as the
    // message says. Where it would take them for addresses it only reads there: that is no matter of
    // memory safety, but of what is sent, and `DevmemSender::new` refuses such sockets.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Reads a message from the socket's error queue, without sleeping: returns the number of control
/// bytes, and whether they were cut short; `None` if the queue is empty.
pub(crate) fn error_queue(
    socket: BorrowedFd<'_>,
    control: &mut [u64],
) -> io::Result<Option<(usize, bool)>> {
    // SAFETY: `msghdr` is made of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control) as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: `message` names no iovec, and `control`, borrowed mutably, with its true length.
    let rc = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if rc >= 0 {
        let cut = message.msg_flags & libc::MSG_CTRUNC != 0;
        return Ok(Some((message.msg_controllen as _, cut)));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        error => Err(error),
    }
}

/// Number of bytes that the peer has not acknowledged (`SIOCOUTQ`, which is `TIOCOUTQ`;
/// `tcp_ioctl`).
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, and `bytes` lives through the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if rc == 0 {
        Ok(u64::from(bytes.unsigned_abs()))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a socket option that takes an int.
fn set_int(socket: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which lives through the call.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `SO_MEMINFO`, as in the kernel's `asm/socket.h`; the libc crate has none.
#[cfg(not(target_arch = "sparc64"))]
const SO_MEMINFO: libc::c_int = 55;
#[cfg(target_arch = "sparc64")]
const SO_MEMINFO: libc::c_int = 0x39;

/// Bytes of memory that the socket's receive queue takes (`SO_MEMINFO`, of which the first number
/// is `SK_MEMINFO_RMEM_ALLOC`; `sk_get_meminfo`).
pub(crate) fn receive_memory(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut rmem_alloc: u32 = 0;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the option writes no more than `len` bytes, and `rmem_alloc` and `len` live through the
    // call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            (&raw mut rmem_alloc).cast(),
            &raw mut len,
        )
    };
    if rc == 0 {
        Ok(rmem_alloc)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the socket is TCP's (`SO_PROTOCOL`) and has no filter. `SO_GET_FILTER` returns the
/// number of a filter's instructions, or `EACCES` for an eBPF program.
pub(crate) fn is_tcp_without_filter(socket: BorrowedFd<'_>) -> bool {
    let protocol = get_int(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    if !matches!(protocol, Ok(libc::IPPROTO_TCP)) {
        return false;
    }
    let mut instructions: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the option writes to the length alone (`sk_get_filter`), which lives through the
    // call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::null_mut(),
            &raw mut instructions,
        )
    };
    rc == 0 && instructions == 0
}

/// NAPI id of the rx queue that the last packet came through (`SO_INCOMING_NAPI_ID`); 0 if none
/// did.
pub(crate) fn incoming_napi_id(socket: BorrowedFd<'_>) -> io::Result<u32> {
    get_int(socket, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID).map(|id| id as u32)
}

/// Upper limit of the receive window in bytes (`TCP_WINDOW_CLAMP`).
pub(crate) fn window_clamp(socket: BorrowedFd<'_>) -> io::Result<u32> {
    get_int(socket, libc::SOL_TCP, libc::TCP_WINDOW_CLAMP).map(|bytes| bytes as u32)
}

/// Sets the upper limit of the receive window in bytes (`TCP_WINDOW_CLAMP`); the kernel takes at
/// least half of the smallest receive buffer (`tcp_set_window_clamp`).
pub(crate) fn set_window_clamp(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(socket, libc::SOL_TCP, libc::TCP_WINDOW_CLAMP, bytes)
}

/// Reads a socket option that is an int.
fn get_int(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int, and `value` and `len` live through the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if rc == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's `struct epoll_params` (`include/uapi/linux/eventpoll.h`).
#[repr(C)]
struct EpollParams {
    busy_poll_usecs: u32,
    busy_poll_budget: u16,
    prefer_busy_poll: u8,
    pad: u8,
}

/// Sets `EPIOCSPARAMS`: `epoll_wait` polls the NAPI instances of its sockets for `time` before it
/// sleeps (`ep_eventpoll_bp_ioctl`, since Linux 6.9). A budget of 0 is the kernel's default.
pub(crate) fn set_busy_poll(epoll: RawFd, time: Duration) -> io::Result<()> {
    const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01;
    let params = EpollParams {
        busy_poll_usecs: u32::try_from(time.as_micros()).unwrap_or(u32::MAX),
        busy_poll_budget: 0,
        prefer_busy_poll: 0,
        pad: 0,
    };
    // SAFETY: the ioctl reads a `struct epoll_params`, which `params` is laid out as.
    let rc = unsafe { libc::ioctl(epoll, EPIOCSPARAMS, &raw const params) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Pins the calling thread to one processor (`sched_setaffinity`).
pub(crate) fn pin_to_processor(cpu: usize) -> io::Result<()> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(cpu)?;
    Ok(nix::sched::sched_setaffinity(
        nix::unistd::Pid::from_raw(0),
        &cpus,
    )?)
}
