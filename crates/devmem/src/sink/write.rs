use std::io;

use super::{Memory, Part, Sink, SinkError};
use crate::segment::Received;

/// Sink that writes the stream to a file, a pipe, or anything that blocks until it has taken the
/// bytes. `consume` returns when the writer has the payload of the whole `recvmsg`. A writer that
/// buffers, such as the standard library's standard output, may hold bytes back until the stream
/// ends.
#[derive(Debug)]
pub struct Write<W> {
    staging: Staging<W>,
    memory: Memory,
}

impl<W: io::Write> Write<W> {
    /// Makes a sink that writes to `writer`, with frags in `memory`.
    pub fn new(writer: W, memory: Memory) -> Self {
        Self {
            staging: Staging::new(writer),
            memory,
        }
    }

    /// The writer, while the sink uses it.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.staging.writer
    }

    /// Returns the writer, and ends the sink.
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

/// Buffer between a dmabuf and a writer: few large writes instead of one for each frag.
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
