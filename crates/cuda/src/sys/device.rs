//! The CUDA driver, and the properties of its GPUs.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use super::api::{Api, Device};
use crate::error::Error;

/// Properties of a GPU that this crate reads (`CUdevice_attribute`).
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(crate) enum Attribute {
    Multiprocessors = 16,
    ComputeMajor = 75,
    ComputeMinor = 76,
    RdmaVirtual = 110,
    FlushOptions = 117,
    WritesOrdering = 118,
    DmabufSupported = 124,
}

/// The CUDA driver's library, after `cuInit`.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(super) api: Arc<Api>,
}

impl Driver {
    pub(crate) fn load(library: &str) -> Result<Self, Error> {
        let api = Api::load(library)?;
        // SAFETY: takes no pointers.
        let code = unsafe { (api.init)(0) };
        api.check(code, || "cuInit".into())?;
        Ok(Self { api: Arc::new(api) })
    }

    pub(crate) fn version(&self) -> Result<i32, Error> {
        self.number(|out| {
            // SAFETY: writes one int, for which `out` has room.
            let code = unsafe { (self.api.version)(out) };
            (code, "cuDriverGetVersion".into())
        })
    }

    pub(crate) fn count(&self) -> Result<u32, Error> {
        let count = self.number(|out| {
            // SAFETY: as above.
            let code = unsafe { (self.api.device_count)(out) };
            (code, "cuDeviceGetCount".into())
        })?;
        Ok(count.max(0).unsigned_abs())
    }

    /// Handle of the GPU with the number `ordinal`, which must exist.
    pub(crate) fn device(&self, ordinal: u32) -> Result<Device, Error> {
        self.number(|out| {
            let wanted = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
            // SAFETY: as above.
            let code = unsafe { (self.api.device_get)(out, wanted) };
            (code, format!("cuDeviceGet of GPU {ordinal}"))
        })
    }

    pub(crate) fn attribute(&self, device: Device, attribute: Attribute) -> Result<i32, Error> {
        self.number(|out| {
            // SAFETY: as above.
            let code = unsafe { (self.api.device_attribute)(out, attribute as c_int, device) };
            (code, format!("cuDeviceGetAttribute of {attribute:?}"))
        })
    }

    pub(crate) fn name(&self, device: Device) -> Result<String, Error> {
        self.text(|out, len| {
            // SAFETY: writes at most `len` bytes, which `out` has.
            let code = unsafe { (self.api.device_name)(out, len, device) };
            (code, "cuDeviceGetName")
        })
    }

    pub(crate) fn pci(&self, device: Device) -> Result<String, Error> {
        self.text(|out, len| {
            // SAFETY: as above.
            let code = unsafe { (self.api.device_pci)(out, len, device) };
            (code, "cuDeviceGetPCIBusId")
        })
    }

    pub(crate) fn memory(&self, device: Device) -> Result<u64, Error> {
        let mut bytes = 0;
        // SAFETY: writes one size_t, for which `bytes` has room.
        let code = unsafe { (self.api.device_memory)(&raw mut bytes, device) };
        self.api.check(code, || "cuDeviceTotalMem".into())?;
        Ok(bytes as u64)
    }

    fn number(&self, ask: impl FnOnce(*mut c_int) -> (c_int, String)) -> Result<c_int, Error> {
        let mut number = 0;
        let (code, operation) = ask(&raw mut number);
        self.api.check(code, || operation)?;
        Ok(number)
    }

    fn text(
        &self,
        ask: impl FnOnce(*mut c_char, c_int) -> (c_int, &'static str),
    ) -> Result<String, Error> {
        let mut bytes = [0u8; 256];
        // One byte less, so that the text ends with a NUL in any case.
        let (code, operation) = ask(bytes.as_mut_ptr().cast(), 255);
        self.api.check(code, || operation.into())?;
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }
}
