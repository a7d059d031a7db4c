//! Initialization, devices, contexts and error texts of the fake CUDA driver.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::state::{
    CURRENT, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, Needs, State, driver_call, state,
};

/// Writes a result through the pointer that the caller of a driver function passed.
pub(crate) fn write_out<T>(out: *mut T, value: T) -> Result<(), c_int> {
    if out.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller of the driver's function has room there for one.
    unsafe { out.write(value) };
    Ok(())
}

fn write_text(out: *mut c_char, len: c_int, text: &str) -> Result<(), c_int> {
    let room = usize::try_from(len).map_err(|_| INVALID_VALUE)?;
    for (i, byte) in text.bytes().chain([0]).enumerate().take(room) {
        write_out(out.wrapping_add(i), byte as c_char)?;
    }
    Ok(())
}

fn check_device(state: &State, device: c_int) -> Result<(), c_int> {
    if (0..state.devices).contains(&device) {
        Ok(())
    } else {
        Err(INVALID_DEVICE)
    }
}

const ERROR_NAMES: [(c_int, &CStr, &CStr); 12] = [
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (
        100,
        c"CUDA_ERROR_NO_DEVICE",
        c"no CUDA-capable device is detected",
    ),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (
        201,
        c"CUDA_ERROR_INVALID_CONTEXT",
        c"invalid device context",
    ),
    (
        214,
        c"CUDA_ERROR_ECC_UNCORRECTABLE",
        c"uncorrectable ECC error encountered",
    ),
    (
        304,
        c"CUDA_ERROR_OPERATING_SYSTEM",
        c"OS call failed or operation not supported on this OS",
    ),
    (
        700,
        c"CUDA_ERROR_ILLEGAL_ADDRESS",
        c"an illegal memory access was encountered",
    ),
    (
        719,
        c"CUDA_ERROR_LAUNCH_FAILED",
        c"unspecified launch failure",
    ),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

fn error_text(
    code: c_int,
    out: *mut *const c_char,
    which: impl Fn(&(c_int, &'static CStr, &'static CStr)) -> &'static CStr,
) -> c_int {
    let words = ERROR_NAMES.iter().find(|words| words.0 == code);
    let text = words.map_or(std::ptr::null(), |words| which(words).as_ptr());
    match write_out(out, text) {
        Ok(()) if !text.is_null() => 0,
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: c_int, out: *mut *const c_char) -> c_int {
    error_text(code, out, |words| words.1)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: c_int, out: *mut *const c_char) -> c_int {
    error_text(code, out, |words| words.2)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_int {
    driver_call("cuInit", Needs::Nothing, |state| {
        if !state.initialized {
            for (name, value) in std::env::vars() {
                if let Some(name) = name.strip_prefix("FAKECUDA_") {
                    state.set(name, &value).ok_or(INVALID_VALUE)?;
                }
            }
        }
        state.initialized = true;
        if state.devices == 0 { Err(100) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(out: *mut c_int) -> c_int {
    driver_call("cuDriverGetVersion", Needs::Nothing, |state| {
        write_out(out, state.version)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(out: *mut c_int) -> c_int {
    driver_call("cuDeviceGetCount", Needs::Driver, |state| {
        write_out(out, state.devices)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> c_int {
    driver_call("cuDeviceGet", Needs::Driver, |state| {
        check_device(state, ordinal)?;
        write_out(out, ordinal)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(out: *mut c_char, len: c_int, which: c_int) -> c_int {
    driver_call("cuDeviceGetName", Needs::Driver, |state| {
        check_device(state, which)?;
        write_text(out, len, "no GPU, but a fake")
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(out: *mut c_char, len: c_int, which: c_int) -> c_int {
    driver_call("cuDeviceGetPCIBusId", Needs::Driver, |state| {
        check_device(state, which)?;
        write_text(out, len, &format!("0000:FA:{which:02X}.0"))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(out: *mut usize, which: c_int) -> c_int {
    driver_call("cuDeviceTotalMem", Needs::Driver, |state| {
        check_device(state, which)?;
        write_out(out, 4 << 30)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(out: *mut c_int, attribute: c_int, which: c_int) -> c_int {
    driver_call("cuDeviceGetAttribute", Needs::Driver, |state| {
        check_device(state, which)?;
        let value = match attribute {
            16 => 2,                                // MULTIPROCESSOR_COUNT
            75 => 7,                                // COMPUTE_CAPABILITY_MAJOR
            76 => 5,                                // COMPUTE_CAPABILITY_MINOR
            110 => c_int::from(state.rdma_virtual), // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
            117 => 1,              // GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS: by the host
            118 => state.ordering, // GPU_DIRECT_RDMA_WRITES_ORDERING
            124 => c_int::from(state.dmabuf), // DMA_BUF_SUPPORTED
            _ => return Err(INVALID_VALUE),
        };
        write_out(out, value)
    })
}

const CONTEXT: usize = 0xc0;

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(out: *mut *mut c_void, which: c_int) -> c_int {
    driver_call("cuDevicePrimaryCtxRetain", Needs::Driver, |state| {
        check_device(state, which)?;
        write_out(out, std::ptr::without_provenance_mut(CONTEXT))?;
        state.contexts += 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(which: c_int) -> c_int {
    let code = driver_call("cuDevicePrimaryCtxRelease", Needs::Driver, |state| {
        check_device(state, which)
    });
    // It is released even with an error to tell.
    let mut state = state();
    state.contexts -= 1;
    if state.contexts == 0 {
        state.revive_if_lost();
    }
    code
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> c_int {
    driver_call("cuCtxPushCurrent", Needs::Driver, |state| {
        if context.addr() != CONTEXT || state.contexts <= 0 {
            return Err(INVALID_CONTEXT);
        }
        CURRENT.set(CURRENT.get() + 1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(out: *mut *mut c_void) -> c_int {
    let depth = CURRENT.get();
    if depth == 0 {
        return INVALID_CONTEXT;
    }
    // It is popped even with an error to tell.
    CURRENT.set(depth - 1);
    driver_call("cuCtxPopCurrent", Needs::Driver, |_| {
        write_out(out, std::ptr::without_provenance_mut(CONTEXT))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFlushGPUDirectRDMAWrites(target: c_int, scope: c_int) -> c_int {
    driver_call("cuFlushGPUDirectRDMAWrites", Needs::Context, |_| {
        if (target, scope) == (0, 100) {
            Ok(())
        } else {
            Err(INVALID_VALUE)
        }
    })
}
