use std::io;

use payload::Batch;

use super::{Batcher, Devices, Order, Run};
use crate::segment::Received;
use crate::sink::{Sink, SinkError};

/// Sink that writes the stream to a writer, as [`crate::sink::Write`] does. The stream is gathered
/// in the devices' destination regions, and read from there.
#[derive(Debug)]
pub struct Write<W> {
    writer: W,
    batcher: Batcher,
    staged: Batch,
    bytes: Vec<u8>,
}

impl<W: io::Write> Write<W> {
    /// Makes a sink that writes to `writer`, with frags in the dmabufs of `devices`. Each device
    /// must have a destination region, best of the size that one `recvmsg` returns
    /// ([`Config::iov`](crate::engine::Config::iov)).
    pub fn new(writer: W, devices: Devices) -> Self {
        Self {
            writer,
            batcher: Batcher::new(devices, Order::Stream),
            staged: Batch::default(),
            bytes: Vec::new(),
        }
    }

    /// The writer, while the sink uses it.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Returns the writer, and ends the sink.
    pub fn into_inner(self) -> W {
        self.writer
    }
}

impl<W: io::Write> Sink for Write<W> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            writer,
            batcher,
            staged,
            bytes: host,
        } = self;
        batcher.run_all(received, |run| match run {
            Run::Inline { bytes, .. } => writer.write_all(bytes).map_err(SinkError::Write),
            Run::Frags { device, batch } => {
                let mut device = device.lock();
                in_parts(batch, device.destination_len(), staged, |part| {
                    host.resize(part.bytes() as usize, 0);
                    device.gather(part)?;
                    device.read(0, host)?;
                    writer.write_all(host).map_err(SinkError::Write)
                })
            }
        })
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.writer.flush().map_err(SinkError::Write)
    }
}

/// Hands a run to `visit` in parts of at most `capacity` bytes, the destination of each part
/// beginning at 0.
fn in_parts(
    run: &Batch,
    capacity: u64,
    part: &mut Batch,
    mut visit: impl FnMut(&Batch) -> Result<(), SinkError>,
) -> Result<(), SinkError> {
    part.clear();
    for piece in run.descriptors() {
        let (mut source, mut len) = (piece.source, u64::from(piece.len));
        while len > 0 {
            let room = capacity - part.bytes();
            let now = len.min(room);
            if now == 0 {
                if part.is_empty() {
                    return Err(SinkError::Full { capacity: 0 });
                }
                visit(part)?;
                part.clear();
                continue;
            }
            // At most the piece's length, which is a u32.
            part.push(source, now as u32, part.bytes());
            source = source.saturating_add(now);
            len -= now;
        }
    }
    if part.is_empty() { Ok(()) } else { visit(part) }
}
