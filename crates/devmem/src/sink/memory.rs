//! CPU access to the dmabufs that frags lie in.

use std::sync::Arc;

use dmabuf::{Access, CpuAccess, Mapping};

use super::SinkError;
use crate::segment::{DmabufId, Received, Segment};

/// Mappings of the dmabufs that frags may lie in, by the id that the dmabuf's binding was given.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    regions: Vec<(DmabufId, Arc<Mapping>)>,
}

impl Memory {
    /// Creates an empty list of dmabufs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the mapping of a dmabuf. One dmabuf bound twice is added twice. The mapping is touched
    /// ([`Mapping::touch`]), so that the first frag does not pay for its page tables.
    #[must_use]
    pub fn with(mut self, dmabuf: DmabufId, mapping: Arc<Mapping>) -> Self {
        if let Err(error) = mapping.touch() {
            // A later read reports the error.
            tracing::debug!(%error, %dmabuf, "first access");
        }
        self.regions.push((dmabuf, mapping));
        self
    }

    /// Begins a CPU access that reads frags, with the first frag read, until [`Reading::end`].
    pub fn read(&self) -> Reading<'_> {
        Reading {
            memory: self,
            open: None,
        }
    }

    /// Hands each segment of `received` to `visit`, in stream order, and gives the frags back.
    ///
    /// # Errors
    /// The first of `visit`; [`SinkError::ForeignDmabuf`] and [`SinkError::Memory`] as
    /// [`Reading::of`].
    #[inline]
    pub fn read_all(
        &self,
        received: &mut Received<'_>,
        mut visit: impl FnMut(Part<'_>) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let mut reading = self.read();
        while let Some(segment) = received.next() {
            match segment {
                Segment::Inline(bytes) => visit(Part::Inline(bytes))?,
                Segment::Frag(frag) => {
                    if let Some(next) = received.next_frag() {
                        reading.prefetch(next);
                    }
                    let visited = reading.of(frag.dmabuf).and_then(|access| {
                        visit(Part::Frag {
                            access,
                            offset: frag.offset,
                            len: frag.len as usize,
                        })
                    });
                    received.give_back(frag.token);
                    visited?;
                }
            }
        }
        reading.end()
    }
}

/// A segment of the stream, to be read where it lies.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Bytes of the stream in host memory.
    Inline(&'a [u8]),
    /// Bytes of the stream in a dmabuf.
    Frag {
        /// CPU access that reads the dmabuf.
        access: &'a CpuAccess<'a>,
        /// Offset in bytes of the segment's first byte in the dmabuf.
        offset: u64,
        /// Length of the segment in bytes.
        len: usize,
    },
}

impl Part<'_> {
    /// Length of the segment in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no part is empty")]
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Part::Inline(bytes) => bytes.len(),
            Part::Frag { len, .. } => *len,
        }
    }

    /// Copies `out.len()` bytes of the segment, from its byte `from` on.
    ///
    /// # Errors
    /// [`SinkError::Memory`], of a frag.
    ///
    /// # Panics
    /// If it has fewer, as a slice does.
    #[inline]
    pub fn copy_to(&self, from: usize, out: &mut [u8]) -> Result<(), SinkError> {
        assert!(
            from.checked_add(out.len())
                .is_some_and(|end| end <= self.len()),
            "{} bytes at {from} of a part of {}",
            out.len(),
            self.len()
        );
        match self {
            Part::Inline(bytes) => out.copy_from_slice(&bytes[from..from + out.len()]),
            Part::Frag { access, offset, .. } => {
                access.copy_to(offset.saturating_add(from as u64), out)?;
            }
        }
        Ok(())
    }

    /// Hands the segment's bytes to `visit`, in order: those of a frag in copies of up to 4 KiB
    /// ([`CpuAccess::read_with`]).
    ///
    /// # Errors
    /// [`SinkError::Memory`], of a frag.
    #[inline]
    pub fn read_with(&self, mut visit: impl FnMut(&[u8])) -> Result<(), SinkError> {
        match self {
            Part::Inline(bytes) => visit(bytes),
            Part::Frag {
                access,
                offset,
                len,
            } => access.read_with(*offset, *len, visit)?,
        }
        Ok(())
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
    /// Returns the CPU access to `dmabuf`, and begins it if it is not open.
    ///
    /// # Errors
    /// [`SinkError::ForeignDmabuf`] for one that the [`Memory`] doesn't have; [`SinkError::Memory`]
    /// if the access can't begin, or the one before it can't end.
    #[inline]
    pub fn of(&mut self, dmabuf: DmabufId) -> Result<&CpuAccess<'a>, SinkError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != dmabuf) {
            self.open(dmabuf)?;
        }
        match &self.open {
            Some((_, access)) => Ok(access),
            None => Err(SinkError::ForeignDmabuf(dmabuf)),
        }
    }

    /// Prefetches the first bytes of the frag that is read next, if a CPU access to its dmabuf is
    /// open.
    #[inline]
    fn prefetch(&self, (dmabuf, offset): (DmabufId, u64)) {
        if let Some((open, access)) = &self.open {
            if *open == dmabuf {
                access.prefetch(offset);
            }
        }
    }

    #[cold]
    fn open(&mut self, dmabuf: DmabufId) -> Result<(), SinkError> {
        self.close()?;
        let region = self.memory.regions.iter().find(|(id, _)| *id == dmabuf);
        let (_, mapping) = region.ok_or(SinkError::ForeignDmabuf(dmabuf))?;
        self.open = Some((dmabuf, mapping.begin_access(Access::Read)?));
        Ok(())
    }

    /// Ends the CPU access, if one is open.
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
