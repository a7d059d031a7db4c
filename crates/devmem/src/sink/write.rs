use std::io;

use super::{Memory, Part, Sink, SinkError};
use crate::segment::Received;

/// Writes the stream out: to a file, to a pipe, to anything that blocks until it has taken it.
/// `consume` returns when the writer has the payload of the whole `recvmsg`. A writer that
/// buffers (standard output of the standard library, for one) keeps it from a peer's partner until
/// the stream ends.
#[derive(Debug)]
pub struct Write<W> {
    staging: Staging<W>,
    memory: Memory,
}

impl<W: io::Write> Write<W> {
    /// Writes to `writer`, with frags in `memory`.
    pub fn new(writer: W, memory: Memory) -> Self {
        Self {
            staging: Staging::new(writer),
            memory,
        }
    }

    /// The writer, as it is used.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.staging.writer
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.staging.writer
    }
}

impl<W: io::Write> Sink for Write<W> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self { staging, memory } = self;
        memory.read_all(received, |part| staging.stage(part))?;
        staging.write_out()
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.staging.writer.flush().map_err(SinkError::Write)
    }
}

/// Bytes on their way from the dmabuf to a writer: few large writes instead of one a frag.
#[derive(Debug)]
struct Staging<W> {
    writer: W,
    bytes: Box<[u8]>,
    filled: usize,
}

impl<W: io::Write> Staging<W> {
    const SIZE: usize = 256 << 10;

    fn new(writer: W) -> Self {
        Self {
            writer,
            bytes: vec![0; Self::SIZE].into_boxed_slice(),
            filled: 0,
        }
    }

    fn write_out(&mut self) -> Result<(), SinkError> {
        let filled = std::mem::take(&mut self.filled);
        self.writer
            .write_all(&self.bytes[..filled])
            .map_err(SinkError::Write)
    }

    fn stage(&mut self, part: Part<'_>) -> Result<(), SinkError> {
        let mut done = 0;
        while done < part.len() {
            let now = (part.len() - done).min(Self::SIZE - self.filled);
            part.copy_to(done, &mut self.bytes[self.filled..self.filled + now])?;
            self.filled += now;
            done += now;
            if self.filled == Self::SIZE {
                self.write_out()?;
            }
        }
        Ok(())
    }
}
