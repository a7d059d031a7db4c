//! Functions of the driver's library, as `cuda.h` declares them.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;

use libloading::Library;

use crate::error::{DriverError, Error};

/// Name of the driver's library, the same in all releases.
pub(crate) const LIBRARY: &str = "libcuda.so.1";

pub(crate) type Result32 = c_int;
pub(crate) type Device = c_int;
/// Address in a GPU's memory (`CUdeviceptr`).
pub(crate) type Address = u64;
/// Pointer to an object of the driver: `CUcontext`, `CUstream` and the like.
pub(crate) type Handle = *mut c_void;

/// The driver's structure `CUmemLocation`: the device that memory is on.
#[repr(C)]
pub(crate) struct Location {
    pub(crate) kind: c_int,
    pub(crate) id: c_int,
}

/// The driver's structure `CUmemAllocationProp`: properties of memory to be allocated.
#[repr(C)]
pub(crate) struct AllocationProp {
    pub(crate) kind: c_int,
    pub(crate) handle_types: c_int,
    pub(crate) location: Location,
    pub(crate) win32: *const c_void,
    pub(crate) compression: u8,
    pub(crate) gpudirect_rdma: u8,
    pub(crate) usage: u16,
    pub(crate) reserved: [u8; 4],
}

/// The driver's structure `CUmemAccessDesc`: who may access mapped memory.
#[repr(C)]
pub(crate) struct AccessDesc {
    pub(crate) location: Location,
    pub(crate) flags: c_int,
}

macro_rules! api {
    ($($field:ident = $symbol:literal ($($arg:ty),*);)*) => {
        /// Functions of the driver's library that this crate calls. All drivers since CUDA 11.7
        /// have them.
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($arg),*) -> Result32,)*
            /// The driver's library, never unloaded: the driver has threads that run in it.
            _library: ManuallyDrop<Library>,
        }

        impl Api {
            fn of(library: Library, name: &str) -> Result<Self, Error> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the type is that of cuda.h for this function, whose signature
                        // its name stands for (a changed one gets a suffix, _v2); the library
                        // stays loaded.
                        let found = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        *found.map_err(|_| Error::Symbol {
                            library: name.into(),
                            symbol: $symbol,
                        })?
                    },)*
                    _library: ManuallyDrop::new(library),
                })
            }
        }
    };
}

api! {
    init = "cuInit"(c_uint);
    version = "cuDriverGetVersion"(*mut c_int);
    error_name = "cuGetErrorName"(Result32, *mut *const c_char);
    error_string = "cuGetErrorString"(Result32, *mut *const c_char);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device_get = "cuDeviceGet"(*mut Device, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, Device);
    device_pci = "cuDeviceGetPCIBusId"(*mut c_char, c_int, Device);
    device_memory = "cuDeviceTotalMem_v2"(*mut usize, Device);
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, Device);
    context_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, Device);
    context_release = "cuDevicePrimaryCtxRelease_v2"(Device);
    context_push = "cuCtxPushCurrent_v2"(Handle);
    context_pop = "cuCtxPopCurrent_v2"(*mut Handle);
    alloc = "cuMemAlloc_v2"(*mut Address, usize);
    free = "cuMemFree_v2"(Address);
    granularity = "cuMemGetAllocationGranularity"(*mut usize, *const AllocationProp, c_int);
    create = "cuMemCreate"(*mut u64, usize, *const AllocationProp, u64);
    release = "cuMemRelease"(u64);
    reserve = "cuMemAddressReserve"(*mut Address, usize, usize, Address, u64);
    unreserve = "cuMemAddressFree"(Address, usize);
    map = "cuMemMap"(Address, usize, usize, u64, u64);
    unmap = "cuMemUnmap"(Address, usize);
    set_access = "cuMemSetAccess"(Address, usize, *const AccessDesc, usize);
    export = "cuMemGetHandleForAddressRange"(*mut c_void, Address, usize, c_int, u64);
    host_alloc = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
    host_free = "cuMemFreeHost"(*mut c_void);
    copy_in = "cuMemcpyHtoD_v2"(Address, *const c_void, usize);
    copy_out = "cuMemcpyDtoH_v2"(*mut c_void, Address, usize);
    copy_in_async = "cuMemcpyHtoDAsync_v2"(Address, *const c_void, usize, Handle);
    copy_out_async = "cuMemcpyDtoHAsync_v2"(*mut c_void, Address, usize, Handle);
    copy_async = "cuMemcpyDtoDAsync_v2"(Address, Address, usize, Handle);
    fill_async = "cuMemsetD32Async"(Address, c_uint, usize, Handle);
    flush = "cuFlushGPUDirectRDMAWrites"(c_int, c_int);
    module_load = "cuModuleLoadDataEx"(*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_unload = "cuModuleUnload"(Handle);
    module_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    stream_create = "cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    stream_wait = "cuStreamSynchronize"(Handle);
    stream_wait_event = "cuStreamWaitEvent"(Handle, Handle, c_uint);
    event_create = "cuEventCreate"(*mut Handle, c_uint);
    event_destroy = "cuEventDestroy_v2"(Handle);
    event_record = "cuEventRecord"(Handle, Handle);
    event_wait = "cuEventSynchronize"(Handle);
    event_elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
}

impl Api {
    /// Loads the driver's library and finds its functions, without calling them.
    pub(crate) fn load(name: &str) -> Result<Self, Error> {
        if cfg!(target_feature = "crt-static") {
            return Err(Error::Static {
                library: name.into(),
            });
        }
        // SAFETY: the driver's library does nothing when it is loaded but set up itself, and is
        // never unloaded.
        let library = unsafe { Library::new(name) }.map_err(|source| Error::Library {
            library: name.into(),
            source,
        })?;
        Self::of(library, name)
    }

    /// Driver's name and text of a `CUresult` other than `CUDA_SUCCESS`.
    pub(crate) fn driver_error(&self, code: Result32) -> DriverError {
        let ask = |function: unsafe extern "C" fn(Result32, *mut *const c_char) -> Result32| {
            let mut text = std::ptr::null();
            // SAFETY: the function writes one pointer, for which `text` has room.
            let outcome = unsafe { function(code, &raw mut text) };
            if outcome != 0 || text.is_null() {
                return None;
            }
            // SAFETY: on success it is a string of the library's own, which stays loaded.
            let text = unsafe { CStr::from_ptr(text) };
            Some(text.to_string_lossy().into_owned())
        };
        DriverError::new(
            code,
            ask(self.error_name).unwrap_or_else(|| format!("CUresult {code}")),
            ask(self.error_string).unwrap_or_else(|| "an error it has no words for".into()),
        )
    }

    /// Turns the `CUresult` of a call outside of any context into an error.
    pub(crate) fn check(
        &self,
        code: Result32,
        operation: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        Err(Error::Driver {
            operation: operation(),
            source: self.driver_error(code),
        })
    }
}
