//! Sending of all bytes of a reader, through a dmabuf.

use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dmabuf::{Access, Mapping};

use super::error::SendError;
use super::ring::Ring;
use super::sender::{DevmemSender, MAX_RANGES, Until, with_whole_limit};

/// Parameters of [`pump`], which sends a reader's bytes from a dmabuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PumpConfig {
    /// Greatest number of bytes read and sent at once; not 0. Should be a fraction of the dmabuf,
    /// so that one piece is filled while others are in flight.
    pub piece: usize,
    /// Length in bytes of each range given to `sendmsg`; `None` is one range for a whole piece.
    pub chunk: Option<u64>,
    /// Time without a byte taken or a send completed after which [`pump`] fails.
    pub deadline: Duration,
}

impl Default for PumpConfig {
    /// The default parameters: pieces of 1 MiB, each in one range, and a deadline of 30 s.
    fn default() -> Self {
        Self {
            piece: 1 << 20,
            chunk: None,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Why [`pump`] stopped before all was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PumpError {
    /// The source could not be read.
    #[error("reading the input")]
    Source(#[source] io::Error),
    /// The dmabuf could not be written to.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The send failed.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Reads `source` to its end, into the dmabuf that `mapping` maps, and sends it from there, until
/// all sends are completed. Returns the number of bytes. What the reader gives is sent at once;
/// sends are waited for only when the dmabuf has no room left.
///
/// # Errors
/// [`PumpError`]. [`DevmemSender::stats`] then tells how much the socket took, and
/// [`DevmemSender::in_flight`] what is still the kernel's.
///
/// # Panics
/// If `mapping` is not as long as the sender's dmabuf.
pub fn pump<S: AsFd>(
    sender: &mut DevmemSender<S>,
    mapping: &Mapping,
    source: &mut impl Read,
    config: &PumpConfig,
) -> Result<u64, PumpError> {
    assert_eq!(mapping.len() as u64, sender.len(), "another dmabuf");
    let piece = config.piece.clamp(1, mapping.len());
    let mut pump = Pump {
        sender,
        ring: Ring::new(mapping.len() as u64),
        buffer: vec![0; piece],
        ranges: Vec::new(),
        config,
    };
    let mut bytes = 0;
    loop {
        let room = pump.room()?;
        let filled = pump.fill(mapping, room, source)?;
        if filled == 0 {
            break;
        }
        bytes += filled;
        pump.send()?;
    }
    pump.sender.drain(config.deadline)?;
    Ok(bytes)
}

struct Pump<'a, S: AsFd> {
    sender: &'a mut DevmemSender<S>,
    ring: Ring,
    buffer: Vec<u8>,
    /// Ranges for the next `sendmsg`, kept for their capacity.
    ranges: Vec<Range<u64>>,
    config: &'a PumpConfig,
}

impl<S: AsFd> Pump<'_, S> {
    /// Waits for free bytes in the dmabuf, and returns their range, for the next piece.
    fn room(&mut self) -> Result<Range<u64>, SendError> {
        loop {
            let room = self.ring.room(self.buffer.len() as u64);
            if !room.is_empty() {
                return Ok(room);
            }
            let freed = self.sender.wait_for_completion(self.config.deadline)?;
            self.ring.freed(freed);
        }
    }

    /// Reads from the source once into at most `room` of the dmabuf, and returns the number of
    /// bytes; 0 at the source's end.
    fn fill(
        &mut self,
        mapping: &Mapping,
        room: Range<u64>,
        source: &mut impl Read,
    ) -> Result<u64, PumpError> {
        let len = (room.end - room.start).min(self.buffer.len() as u64) as usize;
        let buffer = self.buffer.get_mut(..len).unwrap_or_default();
        let len = loop {
            match source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(PumpError::Source)?,
            }
        };
        if let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) {
            let mut access = mapping.begin_access(Access::Write)?;
            access.copy_from(room.start, bytes)?;
            access.end()?;
        }
        self.ring.filled(len as u64);
        Ok(len as u64)
    }

    /// Hands all filled bytes of the dmabuf to the socket.
    fn send(&mut self) -> Result<(), SendError> {
        let within = self.config.deadline;
        // A wake-up is no progress: only bytes that were taken or given back are.
        let mut progress = Instant::now();
        loop {
            let unsent = self.ring.unsent(u64::MAX);
            if unsent.is_empty() {
                return Ok(());
            }
            self.ranges.clear();
            cut_into_chunks(unsent, self.config.chunk, &mut self.ranges);
            let left = within.saturating_sub(progress.elapsed());
            let moved = match self.sender.send(&self.ranges) {
                Ok(taken) => {
                    self.ring.sent(taken);
                    taken
                }
                Err(SendError::WouldBlock) => {
                    let room = self.sender.wait(Until::Room, left);
                    room.map_err(with_whole_limit(within))?;
                    let freed = self.sender.completions()?;
                    self.ring.freed(freed);
                    freed
                }
                Err(SendError::TooManyInFlight(_)) if self.sender.in_flight.len() > 0 => {
                    let freed = self.sender.wait_for_completion(left);
                    let freed = freed.map_err(with_whole_limit(within))?;
                    self.ring.freed(freed);
                    freed
                }
                Err(error) => return Err(error),
            };
            if moved > 0 {
                progress = Instant::now();
            }
        }
    }
}

/// Cuts `range` into chunks of `chunk` bytes, at most as many as one call takes.
fn cut_into_chunks(range: Range<u64>, chunk: Option<u64>, into: &mut Vec<Range<u64>>) {
    let chunk = chunk.unwrap_or(u64::MAX).max(1);
    let mut start = range.start;
    while start < range.end && into.len() < MAX_RANGES {
        let end = range.end.min(start.saturating_add(chunk));
        into.push(start..end);
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one range is what is meant
    fn a_range_is_cut_into_chunks() {
        let chopped = |range, chunk| {
            let mut into = Vec::new();
            cut_into_chunks(range, chunk, &mut into);
            into
        };
        assert_eq!(chopped(5..12, Some(3)), [5..8, 8..11, 11..12]);
        assert_eq!(chopped(5..12, None), [5..12]);
        assert_eq!(chopped(0..5000, Some(1)).len(), MAX_RANGES);
    }
}
