use super::{Batcher, Devices, Order, Run};
use crate::pattern::{Mismatch, Pattern};
use crate::segment::Received;
use crate::sink::{Sink, SinkError};

/// Sink whose devices compare the stream with a [`Pattern`], as [`crate::sink::Validate`] does on
/// the CPU.
#[derive(Debug, Clone)]
pub struct Validate {
    pattern: Pattern,
    batcher: Batcher,
    validated: u64,
}

impl Validate {
    /// Makes a sink that compares with `pattern`, with frags in the dmabufs of `devices`.
    pub fn new(pattern: Pattern, devices: Devices) -> Self {
        Self {
            pattern,
            batcher: Batcher::new(devices, Order::Any),
            validated: 0,
        }
    }

    /// Number of bytes of the stream that were compared and right, up to the first wrong one.
    pub fn validated(&self) -> u64 {
        self.validated
    }
}

impl Sink for Validate {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            pattern,
            batcher,
            validated,
        } = self;
        // Counted where they are compared: what no run brought is not validated.
        let mut compared = 0;
        // Runs come in any order: what counts is the first wrong byte of all.
        let mut first: Option<Mismatch> = None;
        batcher.run_all(received, |run| {
            let (found, len) = match run {
                Run::Inline { at, bytes } => (pattern.check(at, bytes).err(), bytes.len() as u64),
                Run::Frags { device, batch } => {
                    (device.lock().validate(batch, pattern)?, batch.bytes())
                }
            };
            compared += len;
            let earlier = |found: &Mismatch| first.is_none_or(|first| found.offset < first.offset);
            first = found.filter(earlier).or(first);
            Ok(())
        })?;
        if let Some(mismatch) = first {
            *validated = mismatch.offset;
            return Err(mismatch.into());
        }
        *validated += compared;
        Ok(())
    }
}
