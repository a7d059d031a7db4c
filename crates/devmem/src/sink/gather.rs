use super::{Memory, Sink, SinkError};
use crate::segment::Received;

/// Sink that copies the stream into one contiguous region. It fails when more comes than the region
/// has room for; the bytes up to the segment that was too much are there all the same.
#[derive(Debug, Clone)]
pub struct Gather<R = Box<[u8]>> {
    region: R,
    filled: usize,
    memory: Memory,
}

impl Gather {
    /// Makes a sink that gathers into a new region of `capacity` bytes, with frags in `memory`.
    pub fn with_capacity(capacity: usize, memory: Memory) -> Self {
        Self::new(vec![0; capacity].into_boxed_slice(), memory)
    }

    /// Returns the bytes of the stream gathered so far, and ends the sink.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.region.into_vec();
        bytes.truncate(self.filled);
        bytes
    }
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> Gather<R> {
    /// Makes a sink that gathers into `region`, from its beginning, with frags in `memory`.
    pub fn new(region: R, memory: Memory) -> Self {
        Self {
            region,
            filled: 0,
            memory,
        }
    }

    /// Bytes of the stream gathered so far.
    pub fn bytes(&self) -> &[u8] {
        &self.region.as_ref()[..self.filled]
    }

    /// Returns the region, and the number of the stream's bytes in it.
    pub fn into_inner(self) -> (R, usize) {
        (self.region, self.filled)
    }
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> Sink for Gather<R> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            region,
            filled,
            memory,
        } = self;
        let region = region.as_mut();
        let capacity = region.len();
        memory.read_all(received, |part| {
            let room = region[*filled..].get_mut(..part.len());
            let room = room.ok_or(SinkError::Full { capacity })?;
            part.copy_to(0, room)?;
            *filled += part.len();
            Ok(())
        })
    }
}
