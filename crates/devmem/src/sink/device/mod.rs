//! Sinks whose work a [`Device`] does: the CPU need not read the dmabuf, nor be able to.
//!
//! The frags of one `recvmsg` become a [`Batch`](payload::Batch) of descriptors, and a call of the device for each
//! dmabuf that they lie in. They are given back when the device is done. Bytes that came in host
//! memory are the CPU's to handle.

mod batcher;
mod checksum;
mod gather;
#[cfg(test)]
mod tests;
mod validate;
mod write;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use payload::Device;

use crate::segment::DmabufId;

pub use batcher::{Batcher, Order, Run};
pub use checksum::Checksum;
pub use gather::Gather;
pub use validate::Validate;
pub use write::Write;

/// A device that several sinks use, one at a time.
#[derive(Clone)]
pub struct SharedDevice(Arc<Mutex<dyn Device>>);

impl SharedDevice {
    /// Makes a device that several sinks can use, from `device`.
    pub fn new(device: impl Device + 'static) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    /// Waits until no other sink uses the device, and returns it.
    pub fn lock(&self) -> MutexGuard<'_, dyn Device + 'static> {
        // A panic elsewhere does not make the device another: it says itself what it can't do.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedDevice").finish_non_exhaustive()
    }
}

/// Devices that read dmabufs, by the id that the dmabuf's binding was given.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    devices: Vec<(DmabufId, SharedDevice)>,
}

impl Devices {
    /// Creates an empty list of devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the device that reads a dmabuf: the device's source region is that dmabuf.
    #[must_use]
    pub fn with(mut self, dmabuf: DmabufId, device: SharedDevice) -> Self {
        self.devices.push((dmabuf, device));
        self
    }
}
