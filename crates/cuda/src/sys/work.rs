//! Asynchronous work of a GPU: streams, events, kernels.
//!
//! The caller must wait for a stream before the memory that its work uses is used otherwise or
//! dropped. A stream that is dropped waits by itself, so an owner of both drops the stream first.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::api::Handle;
use super::context::Context;
use super::memory::{Memory, Pinned};
use crate::error::Error;

const STREAM_NON_BLOCKING: c_uint = 1;
const JIT_ERROR_LOG_BUFFER: c_int = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;
const FLUSH_TARGET_CURRENT_CTX: c_int = 0;
const FLUSH_TO_OWNER: c_int = 100;

macro_rules! handle {
    ($name:ident, $what:literal, $destroy:ident) => {
        // SAFETY: the driver's objects may be used by any thread with their context current, as
        // `Context::enter` makes it.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                self.before_drop();
                // SAFETY: what the driver made, once.
                let destroy = |api: &super::api::Api| unsafe { (api.$destroy)(self.handle) };
                self.context.release($what, destroy);
            }
        }
    };
}

/// A CUDA stream: a queue of work that is done in order, independent of other streams.
pub(crate) struct Stream {
    context: Arc<Context>,
    handle: Handle,
}

handle!(Stream, "cuStreamDestroy", stream_destroy);

/// Argument of a CUDA kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    Long(u64),
    Word(u32),
}

impl Stream {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let _entered = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (context.api.stream_create)(&raw mut handle, STREAM_NON_BLOCKING) };
        context.check(code, || "cuStreamCreate".into())?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    fn before_drop(&self) {
        // An error was returned when it happened, or is that of a context whose work has ended.
        let _ = self.wait();
    }

    /// Enqueues a copy of the first `len` bytes of the host's pages `from` to the beginning of the
    /// GPU's memory `to`.
    pub(crate) fn upload(&self, to: &Memory, from: &Pinned, len: usize) -> Result<(), Error> {
        let (to, from) = (to.at(0, len as u64)?, from.start(len)?);
        let _entered = self.context.enter()?;
        // SAFETY: both have `len` bytes, and stay until the stream has been waited for.
        let code = unsafe { (self.context.api.copy_in_async)(to, from, len, self.handle) };
        self.context
            .check(code, || format!("cuMemcpyHtoDAsync of {len} bytes"))
    }

    /// Enqueues a copy of the first `len` bytes of the GPU's memory `from` to the beginning of the
    /// host's pages `to`.
    pub(crate) fn download(&self, to: &mut Pinned, from: &Memory, len: usize) -> Result<(), Error> {
        let (to, from) = (to.start(len)?, from.at(0, len as u64)?);
        let _entered = self.context.enter()?;
        // SAFETY: both have `len` bytes, and stay until the stream has been waited for.
        let code = unsafe { (self.context.api.copy_out_async)(to, from, len, self.handle) };
        self.context
            .check(code, || format!("cuMemcpyDtoHAsync of {len} bytes"))
    }

    /// Enqueues a copy of `len` bytes at `offset` of `from` to the beginning of `to`, both on the
    /// GPU.
    pub(crate) fn copy(
        &self,
        to: &Memory,
        from: &Memory,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        let (to, from) = (to.at(0, len)?, from.at(offset, len)?);
        let _entered = self.context.enter()?;
        // SAFETY: both have `len` bytes, and stay until the stream has been waited for.
        let code = unsafe { (self.context.api.copy_async)(to, from, len as usize, self.handle) };
        self.context
            .check(code, || format!("cuMemcpyDtoDAsync of {len} bytes"))
    }

    /// Enqueues a fill of the GPU's memory `to` from its beginning: `words` words of 32 bits, each
    /// of them `value`.
    pub(crate) fn fill(&self, to: &Memory, value: u32, words: usize) -> Result<(), Error> {
        let to = to.at(0, 4 * words as u64)?;
        let _entered = self.context.enter()?;
        // SAFETY: it has so many words, and stays until the stream has been waited for.
        let code = unsafe { (self.context.api.fill_async)(to, value, words, self.handle) };
        self.context
            .check(code, || format!("cuMemsetD32Async of {words} words"))
    }

    /// Enqueues a CUDA kernel of [`crate::worker`] with its arguments.
    pub(crate) fn launch(
        &self,
        kernel: &Kernel,
        (blocks, threads): (u32, u32),
        arguments: &[Argument],
    ) -> Result<(), Error> {
        // A word is the first four bytes of a long: these machines are little-endian.
        let mut values: Vec<u64> = (arguments.iter())
            .map(|argument| match *argument {
                Argument::Long(long) => long,
                Argument::Word(word) => u64::from(word),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = (values.iter_mut())
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let _entered = self.context.enter()?;
        // SAFETY: the kernel is of a module that is loaded; there is a pointer for each of its
        // parameters, to a value that is long enough, and all are read before the call returns. What
        // the kernel reads and writes was checked with the batch.
        let code = unsafe {
            (self.context.api.launch)(
                kernel.handle,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                self.handle,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.context
            .check(code, || format!("cuLaunchKernel of {}", kernel.name))
    }

    /// Makes the work that is enqueued in this stream from now on wait for the event.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        // SAFETY: both live.
        let code = unsafe { (self.context.api.stream_wait_event)(self.handle, event.handle, 0) };
        self.context.check(code, || "cuStreamWaitEvent".into())
    }

    /// Waits for all work that was enqueued in the stream.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream lives.
        let code = unsafe { (self.context.api.stream_wait)(self.handle) };
        self.context.check(code, || "cuStreamSynchronize".into())
    }
}

/// A CUDA event: a mark in a stream of work.
pub(crate) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

handle!(Event, "cuEventDestroy", event_destroy);

impl Event {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let _entered = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (context.api.event_create)(&raw mut handle, 0) };
        context.check(code, || "cuEventCreate".into())?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    fn before_drop(&self) {}

    /// Enqueues the event in the stream, behind the work that is there now.
    pub(crate) fn record(&self, stream: &Stream) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        // SAFETY: both live.
        let code = unsafe { (self.context.api.event_record)(self.handle, stream.handle) };
        self.context.check(code, || "cuEventRecord".into())
    }

    /// Waits until the GPU has reached the event in its stream of work.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        // SAFETY: the event lives.
        let code = unsafe { (self.context.api.event_wait)(self.handle) };
        self.context.check(code, || "cuEventSynchronize".into())
    }

    /// Time between an earlier event and this one, by the GPU's clock; both must have been reached.
    pub(crate) fn since(&self, earlier: &Event) -> Result<Duration, Error> {
        let _entered = self.context.enter()?;
        let mut ms = 0f32;
        // SAFETY: writes one float; both events live.
        let code =
            unsafe { (self.context.api.event_elapsed)(&raw mut ms, earlier.handle, self.handle) };
        self.context.check(code, || "cuEventElapsedTime".into())?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
    }
}

/// A CUDA module: kernels, compiled by the driver for its GPU.
pub(crate) struct Module {
    context: Arc<Context>,
    handle: Handle,
}

handle!(Module, "cuModuleUnload", module_unload);

impl Module {
    /// Compiles PTX to a module for the context's GPU.
    pub(crate) fn load(context: &Arc<Context>, ptx: &CStr) -> Result<Self, Error> {
        let _entered = context.enter()?;
        let mut log = [0u8; 2048];
        let mut options = [JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [
            log.as_mut_ptr().cast::<c_void>(),
            // The interface takes the number as a pointer. One byte less, so that the text ends
            // with a NUL.
            std::ptr::without_provenance_mut(log.len() - 1),
        ];
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, and at most so many bytes of `log`; `ptx` ends with a NUL.
        let code = unsafe {
            (context.api.module_load)(
                &raw mut handle,
                ptx.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        context.check(code, || {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
            match log.to_string_lossy().trim().lines().next() {
                Some(line) => format!("cuModuleLoadDataEx ({line})"),
                None => "cuModuleLoadDataEx".into(),
            }
        })?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    fn before_drop(&self) {}

    /// Finds a CUDA kernel of the module by its name.
    pub(crate) fn kernel(self: &Arc<Self>, name: &'static CStr) -> Result<Kernel, Error> {
        let _entered = self.context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle; the name ends with a NUL.
        let code = unsafe {
            (self.context.api.module_function)(&raw mut handle, self.handle, name.as_ptr())
        };
        let name = name.to_str().unwrap_or_default();
        self.context
            .check(code, || format!("cuModuleGetFunction of {name}"))?;
        Ok(Kernel {
            handle,
            name,
            _module: Arc::clone(self),
        })
    }
}

/// A CUDA kernel of a loaded module.
pub(crate) struct Kernel {
    handle: Handle,
    name: &'static str,
    _module: Arc<Module>,
}

// SAFETY: as of the module, which it keeps.
unsafe impl Send for Kernel {}

impl Context {
    /// Makes writes of peers on PCIe visible to CUDA kernels that begin after the call.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: takes no pointers.
        let code = unsafe { (self.api.flush)(FLUSH_TARGET_CURRENT_CTX, FLUSH_TO_OWNER) };
        self.check(code, || "cuFlushGPUDirectRDMAWrites".into())
    }
}
