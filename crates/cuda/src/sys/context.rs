//! Primary context of a GPU, and its loss.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use super::api::{Api, Device, Handle, Result32};
use super::device::Driver;
use crate::error::{DriverError, Error, UNKNOWN};

/// Primary context of a GPU. The CUDA runtime of the same process uses the context, too, so memory
/// is shared.
pub(crate) struct Context {
    pub(super) api: Arc<Api>,
    pub(super) device: Device,
    ordinal: u32,
    handle: Handle,
    /// Driver's error that ended the context.
    lost: OnceLock<DriverError>,
}

// SAFETY: a context may be used by any thread that makes it current, by several at a time (CUDA
// driver API, "Context Management"); the functions are thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn retain(driver: &Driver, device: Device, ordinal: u32) -> Result<Self, Error> {
        let api = Arc::clone(&driver.api);
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, for which `handle` has room.
        let code = unsafe { (api.context_retain)(&raw mut handle, device) };
        api.check(code, || {
            format!("cuDevicePrimaryCtxRetain of GPU {ordinal}")
        })?;
        Ok(Self {
            api,
            device,
            ordinal,
            handle,
            lost: OnceLock::new(),
        })
    }

    /// Makes the context current in this thread until the guard is dropped; then the former context
    /// is current again.
    pub(super) fn enter(&self) -> Result<Entered<'_>, Error> {
        if let Some(source) = self.lost.get() {
            return Err(self.lost(source));
        }
        // SAFETY: the handle is that of a context retained until `self` is dropped.
        let code = unsafe { (self.api.context_push)(self.handle) };
        self.check(code, || "cuCtxPushCurrent".into())?;
        Ok(Entered {
            context: self,
            _thread: PhantomData,
        })
    }

    /// Turns the `CUresult` of a call in this context into an error, and remembers an error that
    /// ends the context.
    pub(super) fn check(
        &self,
        code: Result32,
        operation: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let source = self.api.driver_error(code);
        if source.is_lost() {
            let first = self.lost.get_or_init(|| source);
            return Err(self.lost(first));
        }
        Err(self.refused(operation(), source))
    }

    /// Turns the `CUresult` of a call that requests something from the kernel's part of the driver,
    /// and starts nothing on the GPU, into an error. From such a call 999 (UNKNOWN) stands for a
    /// refusal without a code, and does not end the context. If the context has ended, the next
    /// call says so.
    pub(super) fn check_request(
        &self,
        code: Result32,
        operation: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match code {
            UNKNOWN => Err(self.refused(operation(), self.api.driver_error(code))),
            code => self.check(code, operation),
        }
    }

    fn refused(&self, operation: String, source: DriverError) -> Error {
        Error::Driver {
            operation: format!("{operation} on GPU {}", self.ordinal),
            source,
        }
    }

    fn lost(&self, source: &DriverError) -> Error {
        Error::Lost {
            ordinal: self.ordinal,
            source: source.clone(),
        }
    }

    /// Frees an object of the driver, which can't fail: in a lost context the object is gone
    /// already, and the driver is not called.
    pub(super) fn release(&self, operation: &'static str, call: impl FnOnce(&Api) -> Result32) {
        if self.lost.get().is_some() {
            return;
        }
        let outcome = self.enter().and_then(|_entered| {
            let code = call(&self.api);
            self.check(code, || operation.into())
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, operation, "give back what a GPU had");
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: releases what `retain` retained, once. Whatever was made in the context holds an
        // `Arc` of it, and is gone.
        let code = unsafe { (self.api.context_release)(self.device) };
        if code != 0 && self.lost.get().is_none() {
            let error = self.api.driver_error(code);
            tracing::warn!(%error, "cuDevicePrimaryCtxRelease");
        }
    }
}

/// Guard of a CUDA context that is current in this thread.
pub(super) struct Entered<'a> {
    context: &'a Context,
    /// Makes the guard `!Send`: the context is current in this thread only.
    _thread: PhantomData<*mut ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, for which there is room; pops what `enter` pushed.
        let code = unsafe { (self.context.api.context_pop)(&raw mut handle) };
        // The context is popped in any case; an error is that of earlier work.
        if let Err(error) = self.context.check(code, || "cuCtxPopCurrent".into()) {
            tracing::warn!(%error, "leave a GPU's context");
        }
    }
}
