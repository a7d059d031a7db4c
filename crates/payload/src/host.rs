//! The CPU as a [`Device`].

use std::sync::Arc;

use dmabuf::{Access, CpuAccess, Mapping};
use memmap2::MmapMut;

use crate::pattern::{CheckError, Mismatch, Pattern};
use crate::{Batch, Descriptor, Device, DeviceError};

/// The CPU as a device that works on payload, for memory that it can map. It is the reference for
/// all other devices.
#[derive(Debug)]
pub struct Host {
    source: Source,
    destination: MmapMut,
    /// Length of the destination region in bytes, which may be 0; a mapping is never empty.
    destination_len: usize,
}

/// Source region: the memory that has the pieces.
#[derive(Debug)]
enum Source {
    Dmabuf(Arc<Mapping>),
    Bytes(Arc<[u8]>),
}

impl Host {
    /// Creates a device for a dmabuf, with a zeroed destination of `destination_len` bytes in host
    /// memory.
    ///
    /// # Errors
    /// [`DeviceError::Device`] where that memory can't be allocated.
    pub fn new(source: Arc<Mapping>, destination_len: u64) -> Result<Self, DeviceError> {
        Self::of_source(Source::Dmabuf(source), destination_len)
    }

    /// Creates a CPU device whose source region is `bytes` of this process, to compare another
    /// device's work with.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn of_bytes(
        source: impl Into<Arc<[u8]>>,
        destination_len: u64,
    ) -> Result<Self, DeviceError> {
        Self::of_source(Source::Bytes(source.into()), destination_len)
    }

    fn of_source(source: Source, destination_len: u64) -> Result<Self, DeviceError> {
        let no_memory = |source: std::io::Error| DeviceError::Device {
            operation: "destination in host memory",
            source: source.into(),
            lost: false,
        };
        let len = usize::try_from(destination_len)
            .map_err(|_| no_memory(std::io::ErrorKind::OutOfMemory.into()))?;
        Ok(Self {
            source,
            destination: MmapMut::map_anon(len).map_err(no_memory)?,
            destination_len: len,
        })
    }

    /// Contents of the CPU's destination region.
    pub fn destination(&self) -> &[u8] {
        &self.destination[..self.destination_len]
    }

    /// The `len` bytes of the destination region at `offset`, or an error if it ends before them.
    fn destination_at(&mut self, offset: u64, len: usize) -> Result<&mut [u8], DeviceError> {
        let size = self.destination_len;
        let fits = |start: &usize| start.checked_add(len).is_some_and(|end| end <= size);
        match usize::try_from(offset).ok().filter(fits) {
            Some(start) => Ok(&mut self.destination[start..start + len]),
            None => Err(dmabuf::Error::OutOfBounds { offset, len, size }.into()),
        }
    }
}

impl Device for Host {
    fn source_len(&self) -> u64 {
        match &self.source {
            Source::Dmabuf(mapping) => mapping.len() as u64,
            Source::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn destination_len(&self) -> u64 {
        self.destination_len as u64
    }

    fn gather(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        batch.check_gather(self.source_len(), self.destination_len())?;
        let Self {
            source,
            destination,
            ..
        } = self;
        source.read(|reader| {
            for piece in batch.descriptors() {
                // The piece was checked to be inside.
                let start = piece.destination as usize;
                let room = &mut destination[start..start + piece.len as usize];
                reader.copy_to(piece, room)?;
            }
            Ok(())
        })
    }

    fn validate(
        &mut self,
        batch: &Batch,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, DeviceError> {
        batch.check_validate(self.source_len())?;
        let mut first: Option<Mismatch> = None;
        self.source.read(|reader| {
            for piece in batch.descriptors() {
                let found = reader.check(piece, pattern)?;
                let earlier =
                    |found: &Mismatch| first.is_none_or(|first| found.offset < first.offset);
                first = found.filter(earlier).or(first);
            }
            Ok(())
        })?;
        Ok(first)
    }

    fn crc32(&mut self, batch: &Batch) -> Result<u32, DeviceError> {
        batch.check_crc32(self.source_len())?;
        let mut hasher = crc32fast::Hasher::new();
        self.source.read(|reader| {
            for piece in batch.descriptors() {
                reader.visit(piece, |bytes| hasher.update(bytes))?;
            }
            Ok(())
        })?;
        Ok(hasher.finalize())
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        out.copy_from_slice(self.destination_at(offset, out.len())?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.destination_at(offset, bytes.len())?
            .copy_from_slice(bytes);
        Ok(())
    }
}

impl Source {
    /// Runs `work` in one CPU access to the source region.
    fn read(
        &self,
        work: impl FnOnce(Reader<'_>) -> Result<(), dmabuf::Error>,
    ) -> Result<(), DeviceError> {
        match self {
            Source::Bytes(bytes) => work(Reader::Bytes(bytes))?,
            Source::Dmabuf(mapping) => {
                let access = mapping.begin_access(Access::Read)?;
                let done = work(Reader::Dmabuf(&access));
                access.end()?;
                done?;
            }
        }
        Ok(())
    }
}

/// Reader of a batch's pieces, which were checked.
#[derive(Clone, Copy)]
enum Reader<'a> {
    Dmabuf(&'a CpuAccess<'a>),
    Bytes(&'a [u8]),
}

impl Reader<'_> {
    fn copy_to(self, piece: &Descriptor, out: &mut [u8]) -> Result<(), dmabuf::Error> {
        match self {
            Reader::Dmabuf(access) => access.copy_to(piece.source, out)?,
            Reader::Bytes(bytes) => out.copy_from_slice(slice(bytes, piece)),
        }
        Ok(())
    }

    fn visit(self, piece: &Descriptor, mut visit: impl FnMut(&[u8])) -> Result<(), dmabuf::Error> {
        match self {
            Reader::Dmabuf(access) => access.read_with(piece.source, piece.len as usize, visit)?,
            Reader::Bytes(bytes) => visit(slice(bytes, piece)),
        }
        Ok(())
    }

    fn check(
        self,
        piece: &Descriptor,
        pattern: &Pattern,
    ) -> Result<Option<Mismatch>, dmabuf::Error> {
        let Descriptor {
            source,
            destination,
            len,
            ..
        } = *piece;
        let checked = match self {
            Reader::Dmabuf(access) => {
                pattern.check_dmabuf(destination, access, source, len as usize)
            }
            Reader::Bytes(bytes) => pattern
                .check(destination, slice(bytes, piece))
                .map_err(CheckError::from),
        };
        match checked {
            Ok(()) => Ok(None),
            Err(CheckError::Mismatch(mismatch)) => Ok(Some(mismatch)),
            Err(CheckError::Memory(error)) => Err(error),
        }
    }
}

fn slice<'a>(bytes: &'a [u8], piece: &Descriptor) -> &'a [u8] {
    &bytes[piece.source as usize..][..piece.len as usize]
}

#[cfg(test)]
mod tests;
