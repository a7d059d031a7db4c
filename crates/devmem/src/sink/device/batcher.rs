use payload::Batch;

use super::{Devices, SharedDevice};
use crate::segment::{DmabufId, Frag, Received, Segment};
use crate::sink::SinkError;
use crate::token::Token;

/// Consecutive segments of the stream that a device or the CPU handles in one go.
#[derive(Debug, Clone, Copy)]
pub enum Run<'a> {
    /// Bytes of the stream in host memory.
    Inline {
        /// Offset of the first byte in the stream.
        at: u64,
        /// The bytes in host memory.
        bytes: &'a [u8],
    },
    /// Frags of one dmabuf, as a batch of pieces; their destinations are their offsets in the
    /// stream.
    Frags {
        /// Device that reads the frags' dmabuf.
        device: &'a SharedDevice,
        /// Pieces of the dmabuf that the frags are: at least one.
        batch: &'a Batch,
    },
}

/// Order in which the segments of one `recvmsg` are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In the order of the stream: a run ends where bytes in host memory begin, or frags of another
    /// dmabuf.
    Stream,
    /// In any order: one run for each dmabuf, after all bytes in host memory.
    Any,
}

/// Sorts received segments into batches of frags for devices.
#[derive(Debug, Clone)]
pub struct Batcher {
    devices: Devices,
    /// Batches, one for each device, empty between calls.
    batches: Vec<Batch>,
    tokens: Tokens,
    order: Order,
}

/// Tokens of frags that the devices work on. Empty between calls.
#[derive(Debug, Default)]
struct Tokens(Vec<Token>);

impl Clone for Tokens {
    /// Makes an empty list: a token can't be copied.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Batcher {
    /// Makes a batcher for frags in the dmabufs of `devices`.
    pub fn new(devices: Devices, order: Order) -> Self {
        Self {
            batches: vec![Batch::default(); devices.devices.len()],
            devices,
            tokens: Tokens::default(),
            order,
        }
    }

    /// Hands all of `received` to `visit`, in runs, and gives the frags back when `visit` has
    /// returned.
    ///
    /// # Errors
    /// The first of `visit`; [`SinkError::ForeignDmabuf`] for a frag in a dmabuf without a device.
    pub fn run_all(
        &mut self,
        received: &mut Received<'_>,
        mut visit: impl FnMut(Run<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let done = self.run(received, &mut visit);
        self.batches.iter_mut().for_each(Batch::clear);
        for token in self.tokens.0.drain(..) {
            received.give_back(token);
        }
        done
    }

    fn run(
        &mut self,
        received: &mut Received<'_>,
        visit: &mut impl FnMut(Run<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let mut at = received.stream_offset();
        let mut last = None;
        for segment in received.by_ref() {
            match segment {
                Segment::Inline(bytes) => {
                    if self.order == Order::Stream {
                        self.flush(visit)?;
                    }
                    visit(Run::Inline { at, bytes })?;
                    at += bytes.len() as u64;
                }
                Segment::Frag(frag) => {
                    let Frag {
                        offset,
                        len,
                        dmabuf,
                        token,
                    } = frag;
                    self.tokens.0.push(token);
                    if self.order == Order::Stream && last.is_some_and(|last| last != dmabuf) {
                        self.flush(visit)?;
                    }
                    last = Some(dmabuf);
                    self.batch(dmabuf)?.push(offset, len, at);
                    at += u64::from(len);
                }
            }
        }
        self.flush(visit)
    }

    #[inline]
    fn batch(&mut self, dmabuf: DmabufId) -> Result<&mut Batch, SinkError> {
        let devices = self.devices.devices.iter();
        let mut ids = devices
            .zip(&mut self.batches)
            .map(|((id, _), batch)| (id, batch));
        let (_, batch) = ids
            .find(|(id, _)| **id == dmabuf)
            .ok_or(SinkError::ForeignDmabuf(dmabuf))?;
        Ok(batch)
    }

    fn flush(
        &mut self,
        visit: &mut impl FnMut(Run<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        for ((_, device), batch) in self.devices.devices.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                visit(Run::Frags { device, batch })?;
                batch.clear();
            }
        }
        Ok(())
    }
}
