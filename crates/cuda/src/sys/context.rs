//! A GPU's primary context, and its end.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use super::api::{Api, Device, Handle, Result32};
use super::device::Driver;
use crate::error::{DriverError, Error, UNKNOWN};

/// The primary context of a GPU, which the CUDA runtime of the same process uses too: memory is
/// shared with it.
pub(crate) struct Context {
    pub(super) api: Arc<Api>,
    pub(super) device: Device,
    ordinal: u32,
    handle: Handle,
    /// What the driver said when it was lost.
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

    /// Makes it this thread's current context until the guard is dropped, and gives the thread back
    /// the one it had.
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

    /// The error of a call in this context; one after which there is none is remembered.
    pub(super) fn check(
        &self,
        code: Result32,
        operation: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let source = self.api.words(code);
        if source.is_lost() {
            let first = self.lost.get_or_init(|| source);
            return Err(self.lost(first));
        }
        Err(self.refused(operation(), source))
    }

    /// The same, of a call that asks the kernel's side of the driver for something and starts nothing
    /// on the GPU: 999 (UNKNOWN) is what it passes on there for a refusal that it has no code for,
    /// and no end of the context. If the context has ended, the next call says so.
    pub(super) fn check_request(
        &self,
        code: Result32,
        operation: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match code {
            UNKNOWN => Err(self.refused(operation(), self.api.words(code))),
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

    /// Gives something back, which can't be refused: with the context lost it is gone already, and
    /// the driver is not asked.
    pub(super) fn give_back(&self, operation: &'static str, call: impl FnOnce(&Api) -> Result32) {
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
            let error = self.api.words(code);
            tracing::warn!(%error, "cuDevicePrimaryCtxRelease");
        }
    }
}

/// A context that is current in this thread.
pub(super) struct Entered<'a> {
    context: &'a Context,
    /// Current in this thread, and no other.
    _thread: PhantomData<*mut ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, for which there is room; pops what `enter` pushed.
        let code = unsafe { (self.context.api.context_pop)(&raw mut handle) };
        // It is popped in any case. What it has to tell is an error of earlier work.
        if let Err(error) = self.context.check(code, || "cuCtxPopCurrent".into()) {
            tracing::warn!(%error, "leave a GPU's context");
        }
    }
}
