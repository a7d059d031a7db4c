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

/// Sets a variable of the environment's, as `FAKECUDA_` and `name`; 1 if there is no such or the
/// value is none for it.
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

/// Forgets faults, settings and counts. What is held stays.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_reset() {
    state().reset();
}

/// Forgets what is held, contexts apart: what could not be given back because it was told to fail.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_forget() {
    state().forget();
}

/// Calls since the last reset.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_calls() -> u64 {
    state().calls
}

/// The flags that `cuMemGetHandleForAddressRange` was called with last.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_flags() -> u64 {
    state().flags
}

/// The function that failed as it was told to, or null.
#[unsafe(no_mangle)]
pub extern "C" fn fakecuda_failed() -> *const c_char {
    state()
        .failed
        .as_ref()
        .map_or(std::ptr::null(), |name| name.as_ptr())
}

/// Writes to `out` what is held: contexts, memory, streams and so on, each with its number; nothing
/// but a NUL if all went back.
///
/// # Safety
/// `out` has room for `len` bytes, at least one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecuda_held(out: *mut c_char, len: usize) {
    let text = CString::new(state().held()).unwrap_or_default();
    let bytes = text.as_bytes();
    let fits = bytes.len().min(len - 1);
    // SAFETY: the caller's promise, and `fits` is less than `len`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, fits) };
    let end = out.wrapping_add(fits);
    // SAFETY: the byte after them is the last of `len` at most.
    unsafe { end.write(0) };
}
