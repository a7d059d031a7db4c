//! Where the segments go: checked, written out, or dropped.

use std::io;
use std::sync::Arc;

use dmabuf::{Access, CpuAccess, Mapping};

use crate::pattern::{CheckError, Mismatch, Pattern, Validator};
use crate::segment::{DmabufId, Received, Segment};

/// Why a sink took no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A byte of the stream is wrong.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A frag lies in a dmabuf that the sink doesn't have: its packet came through another
    /// binding's queue.
    #[error("a frag lies in {0}, which is not ours: flow steering")]
    ForeignDmabuf(DmabufId),
    /// The dmabuf could not be read.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The payload could not be written out.
    #[error("write payload")]
    Write(#[source] io::Error),
    /// Anything else, for sinks of others.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl From<CheckError> for SinkError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Mismatch(mismatch) => mismatch.into(),
            CheckError::Memory(memory) => memory.into(),
        }
    }
}

/// Takes the segments of one connection, in stream order.
pub trait Sink {
    /// Takes what one `recvmsg` brought. Frags go back through
    /// [`Received::give_back`]; those left in `received` go back by themselves. End all accesses
    /// to the dmabuf before returning: the frags go back to the NIC after that.
    ///
    /// # Errors
    /// Ends the connection.
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError>;

    /// The peer has closed its side; nothing follows.
    ///
    /// # Errors
    /// Counts as the connection's failure.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

impl<T: Sink + ?Sized> Sink for Box<T> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        (**self).consume(received)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        (**self).finish()
    }
}

/// The dmabufs that frags may lie in, by the id their binding was given.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    regions: Vec<(DmabufId, Arc<Mapping>)>,
}

impl Memory {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the mapping of a dmabuf. One dmabuf bound twice is added twice.
    #[must_use]
    pub fn with(mut self, dmabuf: DmabufId, mapping: Arc<Mapping>) -> Self {
        self.regions.push((dmabuf, mapping));
        self
    }

    /// A reading access that begins with the first frag read and ends with [`Reading::end`].
    pub fn read(&self) -> Reading<'_> {
        Reading {
            memory: self,
            open: None,
        }
    }
}

/// CPU accesses to the dmabufs of a [`Memory`], one at a time, begun when needed.
#[derive(Debug)]
#[must_use = "an access must be ended"]
pub struct Reading<'a> {
    memory: &'a Memory,
    open: Option<(DmabufId, CpuAccess<'a>)>,
}

impl<'a> Reading<'a> {
    /// The access to `dmabuf`.
    ///
    /// # Errors
    /// [`SinkError::ForeignDmabuf`] for one that the [`Memory`] doesn't have; [`SinkError::Memory`]
    /// if the access can't begin, or the one before it can't end.
    pub fn of(&mut self, dmabuf: DmabufId) -> Result<&CpuAccess<'a>, SinkError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != dmabuf) {
            self.close()?;
            let region = self.memory.regions.iter().find(|(id, _)| *id == dmabuf);
            let (_, mapping) = region.ok_or(SinkError::ForeignDmabuf(dmabuf))?;
            self.open = Some((dmabuf, mapping.begin_access(Access::Read)?));
        }
        match &self.open {
            Some((_, access)) => Ok(access),
            None => Err(SinkError::ForeignDmabuf(dmabuf)),
        }
    }

    /// Ends the access, if one is open.
    ///
    /// # Errors
    /// [`SinkError::Memory`].
    pub fn end(mut self) -> Result<(), SinkError> {
        self.close()
    }

    fn close(&mut self) -> Result<(), SinkError> {
        match self.open.take() {
            Some((_, access)) => Ok(access.end()?),
            None => Ok(()),
        }
    }
}

/// Looks at nothing and gives every frag back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    fn consume(&mut self, _received: &mut Received<'_>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Compares the stream with a [`Pattern`], in place.
#[derive(Debug, Clone)]
pub struct Validate {
    validator: Validator,
    memory: Memory,
}

impl Validate {
    /// Checks for `pattern`, with frags in `memory`.
    pub fn new(pattern: Pattern, memory: Memory) -> Self {
        Self {
            validator: Validator::new(pattern),
            memory,
        }
    }

    /// Bytes of the stream that were right so far.
    pub fn validated(&self) -> u64 {
        self.validator.offset()
    }
}

impl Sink for Validate {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let mut reading = self.memory.read();
        while let Some(segment) = received.next() {
            match segment {
                Segment::Inline(bytes) => self.validator.check(bytes)?,
                Segment::Frag(frag) => {
                    let checked = reading.of(frag.dmabuf).and_then(|access| {
                        let len = frag.len as usize;
                        Ok(self.validator.check_dmabuf(access, frag.offset, len)?)
                    });
                    received.give_back(frag.token);
                    checked?;
                }
            }
        }
        reading.end()
    }
}

/// Writes the stream out: to a file, to stdout, to anything that blocks until it has taken it.
/// What one `recvmsg` brought has been written when it has been consumed.
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

    /// The writer.
    pub fn into_inner(self) -> W {
        self.staging.writer
    }
}

impl<W: io::Write> Sink for Write<W> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self { staging, memory } = self;
        let mut reading = memory.read();
        while let Some(segment) = received.next() {
            match segment {
                Segment::Inline(bytes) => staging.stage(bytes.len(), |from, out| {
                    out.copy_from_slice(&bytes[from..from + out.len()]);
                    Ok(())
                })?,
                Segment::Frag(frag) => {
                    let staged = reading.of(frag.dmabuf).and_then(|access| {
                        staging.stage(frag.len as usize, |from, out| {
                            Ok(access.copy_to(frag.offset.saturating_add(from as u64), out)?)
                        })
                    });
                    received.give_back(frag.token);
                    staged?;
                }
            }
        }
        reading.end()?;
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

    /// Stages `len` bytes; `copy` brings as many as it is given room for, from an offset on.
    fn stage(
        &mut self,
        len: usize,
        mut copy: impl FnMut(usize, &mut [u8]) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let mut done = 0;
        while done < len {
            let now = (len - done).min(Self::SIZE - self.filled);
            copy(done, &mut self.bytes[self.filled..self.filled + now])?;
            self.filled += now;
            done += now;
            if self.filled == Self::SIZE {
                self.write_out()?;
            }
        }
        Ok(())
    }
}
