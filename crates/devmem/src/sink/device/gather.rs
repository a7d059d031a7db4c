use payload::Batch;

use super::{Batcher, Devices, Order, Run, SharedDevice};
use crate::segment::{DmabufId, Received};
use crate::sink::{Sink, SinkError};

/// Sink whose device copies the stream into a part of its destination region, as
/// [`crate::sink::Gather`] does into host memory.
#[derive(Debug, Clone)]
pub struct Gather {
    device: SharedDevice,
    batcher: Batcher,
    rebased: Batch,
    start: u64,
    capacity: u64,
    filled: u64,
}

impl Gather {
    /// Makes a sink that gathers into the `capacity` bytes from `start` of the destination region
    /// of `device`, with frags in `dmabuf`, the device's source region.
    pub fn new(dmabuf: DmabufId, device: SharedDevice, start: u64, capacity: u64) -> Self {
        let devices = Devices::new().with(dmabuf, device.clone());
        Self {
            device,
            batcher: Batcher::new(devices, Order::Stream),
            rebased: Batch::default(),
            start,
            capacity,
            filled: 0,
        }
    }

    /// Number of bytes of the stream gathered so far.
    pub fn filled(&self) -> u64 {
        self.filled
    }
}

impl Sink for Gather {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            device,
            batcher,
            rebased,
            start,
            capacity,
            filled,
        } = self;
        batcher.run_all(received, |run| {
            let len = match run {
                Run::Inline { bytes, .. } => bytes.len() as u64,
                Run::Frags { batch, .. } => batch.bytes(),
            };
            let end = filled.checked_add(len).filter(|end| *end <= *capacity);
            let end = end.ok_or(SinkError::Full {
                capacity: usize::try_from(*capacity).unwrap_or(usize::MAX),
            })?;
            let to = start.saturating_add(*filled);
            match run {
                Run::Inline { bytes, .. } => device.lock().write(to, bytes)?,
                Run::Frags { batch, .. } => {
                    rebase(batch, to, rebased);
                    device.lock().gather(rebased)?;
                }
            }
            *filled = end;
            Ok(())
        })
    }
}

/// Moves the destinations of a run's pieces, so that they lie one after the other from `start` on.
fn rebase(run: &Batch, start: u64, rebased: &mut Batch) {
    rebased.clear();
    let mut to = start;
    for piece in run.descriptors() {
        rebased.push(piece.source, piece.len, to);
        to = to.saturating_add(piece.len.into());
    }
}
