//! Copies, streams, events, kernels: all done when they are asked for.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::time::Instant;

use crate::device::put;
use crate::state::{INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, NOT_READY, Needs, State, call};

unsafe extern "C" {
    /// Of `kernels.c`.
    fn fakecuda_run(kernel: c_int, blocks: u32, threads: u32, arguments: *mut *mut c_void);
}

const KERNELS: [&str; 3] = ["devmem_gather", "devmem_validate", "devmem_crc32"];
/// Handles of kernels: this and their index.
const KERNEL: usize = 0x100;

fn number(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

fn handle(number: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(number as usize)
}

fn stream(state: &State, stream: *mut c_void) -> Result<(), c_int> {
    state.streams.get(&number(stream)).copied().ok_or(INVALID_HANDLE)
}

/// Where "the GPU" has so many bytes.
fn device(state: &State, at: u64, len: usize) -> Result<*mut u8, c_int> {
    state.region(at, len)?;
    Ok(std::ptr::with_exposed_provenance_mut(at as usize))
}

/// Does the GPU copy from or to that memory of the host by itself?
fn pinned(state: &State, at: *const c_void, len: usize) -> Result<(), c_int> {
    let at = at.addr() as u64;
    let found = state.pinned.range(..=at).next_back();
    let fits = found.is_some_and(|(start, size)| at - start + len as u64 <= *size as u64);
    if fits { Ok(()) } else { Err(INVALID_VALUE) }
}

fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: what is the GPU's was found to be so; the rest is the caller's, who says that it is
    // `len` bytes.
    unsafe { std::ptr::copy(from, to, len) };
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) -> c_int {
    call("cuMemcpyHtoD", Needs::Context, |state| {
        copy(device(state, to, len)?, from.cast(), len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) -> c_int {
    call("cuMemcpyDtoH", Needs::Context, |state| {
        copy(to.cast(), device(state, from, len)?, len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    len: usize,
    in_stream: *mut c_void,
) -> c_int {
    call("cuMemcpyHtoDAsync", Needs::Context, |state| {
        stream(state, in_stream)?;
        pinned(state, from, len)?;
        copy(device(state, to, len)?, from.cast(), len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    len: usize,
    in_stream: *mut c_void,
) -> c_int {
    call("cuMemcpyDtoHAsync", Needs::Context, |state| {
        stream(state, in_stream)?;
        pinned(state, to, len)?;
        copy(to.cast(), device(state, from, len)?, len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    len: usize,
    in_stream: *mut c_void,
) -> c_int {
    call("cuMemcpyDtoDAsync", Needs::Context, |state| {
        stream(state, in_stream)?;
        copy(device(state, to, len)?, device(state, from, len)?, len);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(
    to: u64,
    value: c_uint,
    count: usize,
    in_stream: *mut c_void,
) -> c_int {
    call("cuMemsetD32Async", Needs::Context, |state| {
        stream(state, in_stream)?;
        let to = device(state, to, 4 * count)?;
        for i in 0..count {
            let bytes = value.to_le_bytes();
            copy(to.wrapping_add(4 * i), bytes.as_ptr(), 4);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: *mut *mut c_void, _flags: c_uint) -> c_int {
    call("cuStreamCreate", Needs::Context, |state| {
        let new = state.handle();
        state.streams.insert(new, ());
        put(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(old: *mut c_void) -> c_int {
    call("cuStreamDestroy", Needs::Context, |state| {
        state.streams.remove(&number(old)).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(which: *mut c_void) -> c_int {
    call("cuStreamSynchronize", Needs::Context, |state| stream(state, which))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(which: *mut c_void, event: *mut c_void, flags: c_uint) -> c_int {
    call("cuStreamWaitEvent", Needs::Context, |state| {
        stream(state, which)?;
        let known = state.events.contains_key(&number(event));
        if known && flags == 0 { Ok(()) } else { Err(INVALID_HANDLE) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: *mut *mut c_void, _flags: c_uint) -> c_int {
    call("cuEventCreate", Needs::Context, |state| {
        let new = state.handle();
        state.events.insert(new, None);
        put(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(old: *mut c_void) -> c_int {
    call("cuEventDestroy", Needs::Context, |state| {
        state.events.remove(&number(old)).map(drop).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, in_stream: *mut c_void) -> c_int {
    call("cuEventRecord", Needs::Context, |state| {
        stream(state, in_stream)?;
        let event = state.events.get_mut(&number(event)).ok_or(INVALID_HANDLE)?;
        *event = Some(Instant::now());
        Ok(())
    })
}

fn passed(state: &State, event: *mut c_void) -> Result<Instant, c_int> {
    let event = state.events.get(&number(event)).ok_or(INVALID_HANDLE)?;
    event.ok_or(NOT_READY)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    call("cuEventSynchronize", Needs::Context, |state| passed(state, event).map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(out: *mut f32, from: *mut c_void, to: *mut c_void) -> c_int {
    call("cuEventElapsedTime", Needs::Context, |state| {
        let elapsed = passed(state, to)?.saturating_duration_since(passed(state, from)?);
        put(out, (elapsed.as_secs_f64() * 1e3) as f32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    out: *mut *mut c_void,
    image: *const c_char,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> c_int {
    call("cuModuleLoadDataEx", Needs::Context, |state| {
        // SAFETY: PTX is a C string.
        let ptx = unsafe { CStr::from_ptr(image) }.to_string_lossy().into_owned();
        if !ptx.contains(".target sm_") {
            return Err(INVALID_PTX);
        }
        let new = state.handle();
        state.modules.insert(new, ptx);
        put(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(old: *mut c_void) -> c_int {
    call("cuModuleUnload", Needs::Context, |state| {
        state.modules.remove(&number(old)).map(drop).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(
    out: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    call("cuModuleGetFunction", Needs::Context, |state| {
        let ptx = state.modules.get(&number(module)).ok_or(INVALID_HANDLE)?;
        // SAFETY: the name is a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let index = KERNELS.iter().position(|kernel| *kernel == name);
        let index = index.filter(|_| ptx.contains(&format!(".entry {name}(")));
        put(out, std::ptr::without_provenance_mut(KERNEL + index.ok_or(NOT_FOUND)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    kernel: *mut c_void,
    blocks: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    _shared: c_uint,
    in_stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    call("cuLaunchKernel", Needs::Context, |state| {
        stream(state, in_stream)?;
        let index = kernel.addr().wrapping_sub(KERNEL);
        let flat = [blocks_y, blocks_z, threads_y, threads_z].iter().all(|n| *n == 1);
        if index >= KERNELS.len() || !flat || blocks == 0 || threads != 256 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the arguments are those of the kernel, as the caller has them for the GPU; the
        // state is locked, so that no other runs.
        unsafe { fakecuda_run(index as c_int, blocks, threads, arguments) };
        Ok(())
    })
}
