//! Who works on pieces.

use crate::pattern::{Mismatch, Pattern};
use crate::{Batch, BatchError};

/// Why a device did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The batch makes no sense; nothing was done.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The memory could not be read or written by the CPU.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The device refused, or is lost; its own words are the source.
    #[error("{operation}")]
    Device {
        /// What it was to do.
        operation: &'static str,
        /// What it answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Nothing can be done with it any more: what it was doing, and its memory, are gone.
        lost: bool,
    },
}

impl DeviceError {
    /// Is the device lost, with all that its memory held?
    pub fn is_lost(&self) -> bool {
        matches!(self, DeviceError::Device { lost: true, .. })
    }
}

/// Something that reads pieces where a NIC has put them. It has a source region, the dmabuf, and may
/// have a destination region of its own, contiguous.
///
/// Each call returns when the work is done: the source's pieces may go back to the NIC then.
pub trait Device: Send {
    /// Bytes of the source region.
    fn source_len(&self) -> u64;

    /// Bytes of the destination region, 0 without one.
    fn destination_len(&self) -> u64;

    /// Copies each piece to its place in the destination region.
    ///
    /// # Errors
    /// [`DeviceError::Batch`], with nothing copied, for an empty piece, one that leaves its region,
    /// and two that overlap in the destination; what the device says.
    fn gather(&mut self, batch: &Batch) -> Result<(), DeviceError>;

    /// The first byte, in stream order, that is not the pattern's. A piece's destination is its
    /// place in the stream. Of several pieces with a wrong byte at the same place the first one's
    /// counts.
    ///
    /// # Errors
    /// As [`Device::gather`], but places may be any and may overlap.
    fn validate(
        &mut self,
        batch: &Batch,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, DeviceError>;

    /// The CRC-32 (zlib's) of the pieces, which must follow each other: each begins where the one
    /// before ends. 0 of none.
    ///
    /// # Errors
    /// As [`Device::gather`], and [`BatchError::Gap`].
    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError>;

    /// Copies `out.len()` bytes at `offset` of the destination region to host memory.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] with [`dmabuf::Error::OutOfBounds`]; what the device says.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies `bytes` from host memory to `offset` of the destination region: what of a stream came
    /// beside the source.
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
