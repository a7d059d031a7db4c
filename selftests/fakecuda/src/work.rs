//! Copies, streams, events and kernels of the fake CUDA driver.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::device::write_out;
use crate::queue::{DEFAULT_STREAM, Work};
use crate::state::{
    INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, Needs, State, driver_call,
};

/// Names of the GPU kernels, and the length of each argument in bytes.
const KERNELS: [(&str, &[usize]); 3] = [
    ("devmem_gather", &[8, 8, 8, 4]),
    ("devmem_validate", &[8, 8, 4, 4, 8]),
    ("devmem_crc32", &[8, 8, 4, 8, 8, 8]),
];
/// Base of kernel handles: a handle is this number plus the index in [`KERNELS`].
const KERNEL_HANDLE_BASE: usize = 0x100;

fn number(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

fn handle(number: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(number as usize)
}

/// Returns the number of a stream that the caller created; an error for the default stream or an
/// unknown one.
fn check_stream(state: &State, stream: *mut c_void) -> Result<u64, c_int> {
    let number = number(stream);
    let known = number != DEFAULT_STREAM && state.streams.contains_key(&number);
    if known {
        Ok(number)
    } else {
        Err(INVALID_HANDLE)
    }
}

/// Returns the address of host memory if all of it is pinned, so that the GPU can copy it by DMA.
fn check_pinned(state: &State, at: *const c_void, len: usize) -> Result<u64, c_int> {
    let at = at.expose_provenance() as u64;
    let found = state.pinned.range(..=at).next_back();
    let fits = found.is_some_and(|(start, size)| at - start + len as u64 <= *size as u64);
    if fits { Ok(at) } else { Err(INVALID_VALUE) }
}

/// Largest host-to-device copy, in bytes, that may still be under way when the synchronous call
/// returns.
const STAGING_BYTES: usize = 64 << 10;

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) -> c_int {
    driver_call("cuMemcpyHtoD", Needs::Context, |state| {
        state.find_region(to, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: the caller says that there are so many.
        unsafe { std::ptr::copy_nonoverlapping(from.cast(), bytes.as_mut_ptr(), len) };
        state.enqueue(DEFAULT_STREAM, Work::Bytes { to, bytes })?;
        if len > STAGING_BYTES {
            state.finish(DEFAULT_STREAM)
        } else {
            Ok(())
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) -> c_int {
    driver_call("cuMemcpyDtoH", Needs::Context, |state| {
        state.find_region(from, len)?;
        state.finish(DEFAULT_STREAM)?;
        let from: *const u8 = std::ptr::with_exposed_provenance(from as usize);
        // SAFETY: the device has so many, and the caller says that there is room for them.
        unsafe { std::ptr::copy_nonoverlapping(from, to.cast(), len) };
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
    driver_call("cuMemcpyHtoDAsync", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        state.find_region(to, len)?;
        let from = check_pinned(state, from, len)?;
        state.enqueue(stream, Work::Copy { to, from, len })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    len: usize,
    in_stream: *mut c_void,
) -> c_int {
    driver_call("cuMemcpyDtoHAsync", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        state.find_region(from, len)?;
        let to = check_pinned(state, to, len)?;
        state.enqueue(stream, Work::Copy { to, from, len })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    len: usize,
    in_stream: *mut c_void,
) -> c_int {
    driver_call("cuMemcpyDtoDAsync", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        state.find_region(to, len)?;
        state.find_region(from, len)?;
        state.enqueue(stream, Work::Copy { to, from, len })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(
    to: u64,
    value: c_uint,
    count: usize,
    in_stream: *mut c_void,
) -> c_int {
    driver_call("cuMemsetD32Async", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        state.find_region(to, 4 * count)?;
        state.enqueue(stream, Work::Fill { to, value, count })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: *mut *mut c_void, _flags: c_uint) -> c_int {
    driver_call("cuStreamCreate", Needs::Context, |state| {
        let new = state.new_handle();
        state.streams.insert(new, crate::queue::Stream::default());
        write_out(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(old: *mut c_void) -> c_int {
    driver_call("cuStreamDestroy", Needs::Context, |state| {
        let stream = check_stream(state, old)?;
        state.streams.remove(&stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(which: *mut c_void) -> c_int {
    driver_call("cuStreamSynchronize", Needs::Context, |state| {
        state.finish(number(which))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(which: *mut c_void, event: *mut c_void, flags: c_uint) -> c_int {
    driver_call("cuStreamWaitEvent", Needs::Context, |state| {
        let stream = check_stream(state, which)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        match state.event_place(number(event))? {
            Some(place) => state.enqueue(stream, Work::Wait(place)),
            None => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: *mut *mut c_void, _flags: c_uint) -> c_int {
    driver_call("cuEventCreate", Needs::Context, |state| {
        let new = state.new_handle();
        state.events.insert(new, crate::queue::Event::default());
        write_out(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(old: *mut c_void) -> c_int {
    driver_call("cuEventDestroy", Needs::Context, |state| {
        state
            .events
            .remove(&number(old))
            .map(drop)
            .ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, in_stream: *mut c_void) -> c_int {
    driver_call("cuEventRecord", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        state.record_event(stream, number(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    driver_call("cuEventSynchronize", Needs::Context, |state| {
        state
            .event_place(number(event))?
            .map_or(Ok(()), |place| state.run_until(place))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(out: *mut f32, from: *mut c_void, to: *mut c_void) -> c_int {
    driver_call("cuEventElapsedTime", Needs::Context, |state| {
        let (from, to) = (
            state.event_time(number(from))?,
            state.event_time(number(to))?,
        );
        let elapsed = to.saturating_duration_since(from);
        write_out(out, (elapsed.as_secs_f64() * 1e3) as f32)
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
    driver_call("cuModuleLoadDataEx", Needs::Context, |state| {
        // SAFETY: PTX is a C string.
        let ptx = unsafe { CStr::from_ptr(image) }
            .to_string_lossy()
            .into_owned();
        if !ptx.contains(".target sm_") {
            return Err(INVALID_PTX);
        }
        let new = state.new_handle();
        state.modules.insert(new, ptx);
        write_out(out, handle(new))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(old: *mut c_void) -> c_int {
    driver_call("cuModuleUnload", Needs::Context, |state| {
        state
            .modules
            .remove(&number(old))
            .map(drop)
            .ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(
    out: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    driver_call("cuModuleGetFunction", Needs::Context, |state| {
        let ptx = state.modules.get(&number(module)).ok_or(INVALID_HANDLE)?;
        // SAFETY: the name is a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let index = KERNELS.iter().position(|(kernel, _)| *kernel == name);
        let index = index.filter(|_| ptx.contains(&format!(".entry {name}(")));
        write_out(
            out,
            std::ptr::without_provenance_mut(KERNEL_HANDLE_BASE + index.ok_or(NOT_FOUND)?),
        )
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
    driver_call("cuLaunchKernel", Needs::Context, |state| {
        let stream = check_stream(state, in_stream)?;
        let index = kernel.addr().wrapping_sub(KERNEL_HANDLE_BASE);
        let flat = [blocks_y, blocks_z, threads_y, threads_z]
            .iter()
            .all(|n| *n == 1);
        let known = KERNELS
            .get(index)
            .filter(|_| flat && blocks > 0 && threads == 256);
        let (_, lengths) = known.ok_or(INVALID_VALUE)?;
        let value = |(i, len): (usize, &usize)| {
            let mut value = 0;
            let to = (&raw mut value).cast::<u8>();
            // SAFETY: the caller has a pointer for each argument.
            let from = unsafe { arguments.wrapping_add(i).read() };
            // SAFETY: it is to a value of that length, which `value` has room for.
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), to, *len) };
            value
        };
        let kernel = Work::Kernel {
            index: index as c_int,
            blocks,
            threads,
            arguments: lengths.iter().enumerate().map(value).collect(),
        };
        state.enqueue(stream, kernel)
    })
}
