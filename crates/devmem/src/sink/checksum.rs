use super::{Memory, Sink, SinkError};
use crate::segment::Received;

/// Sink that computes the CRC-32 of the stream: that of zlib, gzip and Ethernet, `cksum -a crc32b`.
/// Frags are copied piece by piece, and the sum is computed from the copies.
#[derive(Debug, Clone)]
pub struct Checksum {
    hasher: crc32fast::Hasher,
    memory: Memory,
    bytes: u64,
}

impl Checksum {
    /// Makes a checksum of an empty stream, with frags in the dmabufs of `memory`.
    pub fn new(memory: Memory) -> Self {
        Self {
            hasher: crc32fast::Hasher::new(),
            memory,
            bytes: 0,
        }
    }

    /// CRC-32 of the stream so far; 0 of no bytes.
    pub fn crc32(&self) -> u32 {
        self.hasher.clone().finalize()
    }

    /// Number of bytes of the stream that the checksum covers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Sink for Checksum {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            hasher,
            memory,
            bytes,
        } = self;
        memory.read_all(received, |part| {
            // Counted piece by piece: of a part that can't be read to its end, the sum is of what was.
            part.read_with(|piece| {
                hasher.update(piece);
                *bytes += piece.len() as u64;
            })
        })
    }
}
