//! A `libcuda.so.1` without a GPU: the driver's C interface over host memory, with faults on demand.
//!
//! Memory is that of memfds: where `/dev/udmabuf` is, it is exported as true dmabufs, else as the
//! memfd itself. The kernels are the GPU's own source, compiled for the CPU (`kernels.c`). What is
//! enqueued is done as late as can be: when somebody waits for it. It checks what the true driver would: that a context is current, that
//! handles and addresses are its own, that nothing is asked of a lost device.
//!
//! Set by the environment when `cuInit` is called, or by [`fakecuda_set`]:
//!
//! | variable | |
//! |---|---|
//! | `FAKECUDA_FAIL=cuLaunchKernel:3:719` | the third call of that function (`*`: of any) answers 719 |
//! | `FAKECUDA_DEVICES=0` | so many GPUs |
//! | `FAKECUDA_VERSION=11040` | what `cuDriverGetVersion` answers |
//! | `FAKECUDA_DMABUF=0` | the driver exports no dmabufs |
//! | `FAKECUDA_PCIE=1` | it knows the flag for PCIe's mapping |
//! | `FAKECUDA_RDMA_VIRTUAL=0` | memory of `cuMemCreate` can't be told to be reached by peers |
//! | `FAKECUDA_ORDERING=0` | writes of peers must be flushed |
//!
//! After a code that ends a context, every call answers that code until the context is released.
#![allow(unsafe_code, non_snake_case)]

mod device;
mod memory;
mod queue;
mod state;
mod work;

use std::ffi::{CStr, CString, c_char, c_int};

use state::state;

/// Sets the option that the environment variable `FAKECUDA_` plus `name` sets. Returns 1 if there
/// is no such option or the value is not valid for it, else 0.
///
/// # Safety
/// Both are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_set(name: *const c_char, value: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    // SAFETY: as above.
    let value = unsafe { CStr::from_ptr(value) }.to_string_lossy();
    c_int::from(state().set(&name, &value).is_none())
}

/// Resets injected faults, options and counters of the fake CUDA driver to their defaults. Memory,
/// streams and other objects stay.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_reset() {
    state().reset();
}

/// Forgets all memory, streams and other objects except contexts: those that a test could not free
/// because an injected fault made the free fail.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_forget() {
    state().forget_objects();
}

/// Number of calls of driver functions since the last reset.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_calls() -> u64 {
    state().calls
}

/// The `flags` argument of the last call of `cuMemGetHandleForAddressRange`.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_flags() -> u64 {
    state().flags
}

/// Name of the function in which an injected fault occurred, or null.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_failed() -> *const c_char {
    state()
        .failed
        .as_ref()
        .map_or(std::ptr::null(), |name| name.as_ptr())
}

/// Writes to `out` which objects (contexts, memory, streams and so on) were not freed, with the
/// number of each; an empty C string if all were freed.
///
/// # Safety
/// `out` has room for `len` bytes, at least one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_held(out: *mut c_char, len: usize) {
    let text = CString::new(state().held_objects()).unwrap_or_default();
    let bytes = text.as_bytes();
    let fits = bytes.len().min(len - 1);
    // SAFETY: the caller's promise, and `fits` is less than `len`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, fits) };
    let end = out.wrapping_add(fits);
    // SAFETY: the byte after them is the last of `len` at most.
    unsafe { end.write(0) };
}
