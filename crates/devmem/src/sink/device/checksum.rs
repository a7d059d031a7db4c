use payload::crc;

use super::{Batcher, Devices, Order, Run};
use crate::segment::Received;
use crate::sink::{Sink, SinkError};

/// Sink whose devices compute the CRC-32 of the stream, the same as [`crate::sink::Checksum`].
#[derive(Debug, Clone)]
pub struct Checksum {
    batcher: Batcher,
    crc32: u32,
    bytes: u64,
}

impl Checksum {
    /// Makes a checksum of an empty stream, with frags in the dmabufs of `devices`.
    pub fn new(devices: Devices) -> Self {
        Self {
            batcher: Batcher::new(devices, Order::Stream),
            crc32: 0,
            bytes: 0,
        }
    }

    /// CRC-32 of the stream so far; 0 of no bytes.
    pub fn crc32(&self) -> u32 {
        self.crc32
    }

    /// Number of bytes of the stream that the checksum covers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Sink for Checksum {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            batcher,
            crc32,
            bytes: total,
        } = self;
        batcher.run_all(received, |run| {
            let (sum, len) = match run {
                Run::Inline { bytes, .. } => (crc32fast::hash(bytes), bytes.len() as u64),
                Run::Frags { device, batch } => (device.lock().crc32(batch)?, batch.bytes()),
            };
            *crc32 = crc::combine(*crc32, sum, len);
            *total += len;
            Ok(())
        })
    }
}
