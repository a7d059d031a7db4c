//! Devices that work on pieces.

use crate::pattern::{Mismatch, Pattern};
use crate::{Batch, BatchError};

/// Error of a device's work on payload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The batch is malformed; nothing was done.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The CPU could not read or write the memory.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The device refused, or is lost. The device's error is the source.
    #[error("{operation}")]
    Device {
        /// Operation that the device failed in.
        operation: &'static str,
        /// Error of the device's driver.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether the device is lost, with its work and its memory.
        lost: bool,
    },
}

impl DeviceError {
    /// Whether the device is lost, with all contents of its memory.
    pub fn is_lost(&self) -> bool {
        matches!(self, DeviceError::Device { lost: true, .. })
    }
}

/// A device that works on pieces of payload where a NIC has put them. It has a source region, the
/// dmabuf, and may have a contiguous destination region of its own.
///
/// Each call returns when the work is done. Then the pieces of the source may go back to the NIC.
pub trait Device: Send {
    /// Length of the source region in bytes.
    fn source_len(&self) -> u64;

    /// Length of the destination region in bytes, 0 without one.
    fn destination_len(&self) -> u64;

    /// Copies each piece of the batch to its offset in the destination region.
    ///
    /// # Errors
    /// [`DeviceError::Batch`], with nothing copied, for an empty piece, a piece outside of its
    /// region, and two that overlap in the destination; those of the device.
    fn gather(&mut self, batch: &Batch) -> Result<(), DeviceError>;

    /// Compares pieces with a pattern, and returns the first byte, in stream order, that differs. A
    /// piece's destination is its position in the stream. If several pieces have a wrong byte at
    /// the same position, that of the first piece is returned.
    ///
    /// # Errors
    /// As [`Device::gather`], but positions are arbitrary and may overlap.
    fn validate(
        &mut self,
        batch: &Batch,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, DeviceError>;

    /// Computes the CRC-32 (zlib's) of the pieces, each of which must begin where the one before
    /// ends; 0 of no pieces.
    ///
    /// # Errors
    /// As [`Device::gather`], and [`BatchError::Gap`].
    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError>;

    /// Copies `out.len()` bytes at `offset` of the destination region to host memory.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] with [`dmabuf::Error::OutOfBounds`]; those of the device.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies `bytes` from host memory to `offset` of the destination region: for payload that is
    /// not in the source region.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError>;
}

impl<T: Device + ?Sized> Device for Box<T> {
    fn source_len(&self) -> u64 {
        (**self).source_len()
    }

    fn destination_len(&self) -> u64 {
        (**self).destination_len()
    }

    fn gather(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        (**self).gather(batch)
    }

    fn validate(
        &mut self,
        batch: &Batch,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, DeviceError> {
        (**self).validate(batch, pattern)
    }

    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError> {
        (**self).crc32(batch)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        (**self).read(offset, out)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        (**self).write(offset, bytes)
    }
}
