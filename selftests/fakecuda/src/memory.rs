//! Memory of the fake CUDA driver: memfds, mapped into this process at the addresses that "the GPU"
//! has them at.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use crate::device::write_out;
use crate::state::{
    INVALID_VALUE, NOT_SUPPORTED, Needs, OPERATING_SYSTEM, OUT_OF_MEMORY, Region, driver_call,
};

const PAGE: u64 = 4096;
const GRANULARITY: usize = 2 << 20;

/// `struct udmabuf_create` of `include/uapi/linux/udmabuf.h`.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const UDMABUF_FLAGS_CLOEXEC: u32 = 1;
const UDMABUF_CREATE: libc::Ioctl = libc::_IOW::<UdmabufCreate>(b'u' as u32, 0x42);

/// Creates a memfd of `len` bytes, sealed against shrinking as udmabuf requires.
fn memfd(len: usize) -> Result<OwnedFd, c_int> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"fakecuda".as_ptr(), flags) };
    if fd < 0 {
        return Err(OPERATING_SYSTEM);
    }
    // SAFETY: it has just been made, and is nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len as u64).map_err(|_| OUT_OF_MEMORY)?;
    // SAFETY: takes no pointers.
    let sealed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
    if sealed < 0 {
        return Err(OPERATING_SYSTEM);
    }
    Ok(file.into())
}

/// Maps `fd`, or inaccessible memory where there is none, at the address `at` (0: at an address of
/// the kernel's choice).
fn map(at: u64, len: usize, fd: Option<&OwnedFd>) -> Result<u64, c_int> {
    let (protection, flags) = match fd {
        Some(_) => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
        None => (
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        ),
    };
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let fd = fd.map_or(-1, AsRawFd::as_raw_fd);
    let at = std::ptr::without_provenance_mut(at as usize);
    // SAFETY: anywhere is where nothing is; a fixed place is one that was reserved here.
    let start = unsafe { libc::mmap(at, len, protection, flags | fixed, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(OUT_OF_MEMORY);
    }
    Ok(start.expose_provenance() as u64)
}

fn unmap(at: u64, len: usize) {
    // SAFETY: it was mapped here, as a whole, and the caller of the driver is done with it.
    unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(at as usize), len) };
}

/// Reserves an address range between two inaccessible guard ranges, so that an access beyond it
/// ends in a signal.
fn reserve(len: usize) -> Result<u64, c_int> {
    Ok(map(0, len + 2 * GRANULARITY, None)? + GRANULARITY as u64)
}

fn unreserve(at: u64, len: usize) {
    unmap(at - GRANULARITY as u64, len + 2 * GRANULARITY);
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: *mut u64, len: usize) -> c_int {
    driver_call("cuMemAlloc", Needs::Context, |state| {
        if len == 0 || len > 4 << 30 {
            return Err(if len == 0 {
                INVALID_VALUE
            } else {
                OUT_OF_MEMORY
            });
        }
        let memory = memfd(len)?;
        let start = map(reserve(len)?, len, Some(&memory))?;
        state.regions.insert(start, Region { len, memory });
        write_out(out, start)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(at: u64) -> c_int {
    driver_call("cuMemFree", Needs::Context, |state| {
        let region = state.regions.remove(&at).ok_or(INVALID_VALUE)?;
        state.count_free_under_work();
        unreserve(at, region.len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAllocationGranularity(
    out: *mut usize,
    prop: *const c_void,
    option: c_int,
) -> c_int {
    driver_call("cuMemGetAllocationGranularity", Needs::Driver, |_| {
        if prop.is_null() || !(0..=1).contains(&option) {
            return Err(INVALID_VALUE);
        }
        write_out(out, GRANULARITY)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemCreate(out: *mut u64, len: usize, prop: *const c_int, flags: u64) -> c_int {
    driver_call("cuMemCreate", Needs::Driver, |state| {
        if len == 0 || len % GRANULARITY != 0 || prop.is_null() || flags != 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: a `CUmemAllocationProp` begins with an int, its type.
        let pinned = unsafe { prop.read() } == 1;
        // SAFETY: byte 25 is `allocFlags.gpuDirectRDMACapable`.
        let rdma = unsafe { prop.cast::<u8>().wrapping_add(25).read() };
        if !pinned || rdma != u8::from(state.rdma_virtual) {
            return Err(INVALID_VALUE);
        }
        let handle = state.new_handle();
        let memory = memfd(len)?;
        state.created.insert(handle, Region { len, memory });
        write_out(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemRelease(handle: u64) -> c_int {
    driver_call("cuMemRelease", Needs::Driver, |state| {
        state.created.remove(&handle).map(drop).ok_or(INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAddressReserve(
    out: *mut u64,
    len: usize,
    _alignment: usize,
    _hint: u64,
    flags: u64,
) -> c_int {
    driver_call("cuMemAddressReserve", Needs::Driver, |state| {
        if len == 0 || len % GRANULARITY != 0 || flags != 0 {
            return Err(INVALID_VALUE);
        }
        let start = reserve(len)?;
        state.reserved.insert(start, len);
        write_out(out, start)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAddressFree(at: u64, len: usize) -> c_int {
    driver_call("cuMemAddressFree", Needs::Driver, |state| {
        if state.reserved.get(&at) != Some(&len) || state.mapped.contains_key(&at) {
            return Err(INVALID_VALUE);
        }
        state.reserved.remove(&at);
        unreserve(at, len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemMap(at: u64, len: usize, offset: usize, handle: u64, flags: u64) -> c_int {
    driver_call("cuMemMap", Needs::Driver, |state| {
        let created = state.created.get(&handle).ok_or(INVALID_VALUE)?;
        let fits = state.reserved.get(&at) == Some(&len) && created.len == len;
        if !fits || offset != 0 || flags != 0 {
            return Err(INVALID_VALUE);
        }
        let memory = created.memory.try_clone().map_err(|_| OPERATING_SYSTEM)?;
        state.mapped.insert(at, Region { len, memory });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemSetAccess(at: u64, len: usize, access: *const c_void, count: usize) -> c_int {
    driver_call("cuMemSetAccess", Needs::Driver, |state| {
        let region = state.mapped.get(&at).filter(|region| region.len == len);
        let region = region.filter(|_| !access.is_null() && count == 1);
        // Only now may it be touched.
        map(at, len, Some(&region.ok_or(INVALID_VALUE)?.memory)).map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemUnmap(at: u64, len: usize) -> c_int {
    driver_call("cuMemUnmap", Needs::Driver, |state| {
        let region = state.mapped.remove(&at).ok_or(INVALID_VALUE)?;
        state.count_free_under_work();
        if region.len != len {
            return Err(INVALID_VALUE);
        }
        map(at, len, None).map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetHandleForAddressRange(
    out: *mut c_void,
    at: u64,
    len: usize,
    kind: c_int,
    flags: u64,
) -> c_int {
    driver_call("cuMemGetHandleForAddressRange", Needs::Driver, |state| {
        state.flags = flags;
        if kind != 1 || at % PAGE != 0 || len as u64 % PAGE != 0 || flags > 1 {
            return Err(INVALID_VALUE);
        }
        if !state.dmabuf || (flags == 1 && !state.pcie) {
            return Err(NOT_SUPPORTED);
        }
        let (region, offset) = state.find_region(at, len)?;
        let fd = export(&region.memory, offset, len)?;
        write_out(out.cast::<c_int>(), fd.into_raw_fd())
    })
}

/// Exports memory as a udmabuf, or as the memfd itself where there is no `/dev/udmabuf`.
fn export(memory: &OwnedFd, offset: u64, size: usize) -> Result<OwnedFd, c_int> {
    let Ok(device) = File::options().read(true).write(true).open("/dev/udmabuf") else {
        return memory.try_clone().map_err(|_| OPERATING_SYSTEM);
    };
    let create = UdmabufCreate {
        memfd: memory.as_raw_fd().unsigned_abs(),
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset,
        size: size as u64,
    };
    // SAFETY: reads one `struct udmabuf_create`.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), UDMABUF_CREATE, &raw const create) };
    if fd < 0 {
        return Err(OPERATING_SYSTEM);
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: *mut *mut c_void, len: usize, _flags: c_uint) -> c_int {
    driver_call("cuMemHostAlloc", Needs::Context, |state| {
        if len == 0 {
            return Err(INVALID_VALUE);
        }
        let memory = memfd(len)?;
        let start = map(reserve(len)?, len, Some(&memory))?;
        state.pinned.insert(start, len);
        write_out(out, std::ptr::with_exposed_provenance_mut(start as usize))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(at: *mut c_void) -> c_int {
    driver_call("cuMemFreeHost", Needs::Context, |state| {
        let at = at.addr() as u64;
        let len = state.pinned.remove(&at).ok_or(INVALID_VALUE)?;
        state.count_free_under_work();
        unreserve(at, len);
        Ok(())
    })
}
