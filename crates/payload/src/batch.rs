//! Pieces, as a device reads them.

/// One piece: bytes of the source region, and where they belong. 24 bytes, little-endian, as
/// `struct descriptor` of the CUDA kernels has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Descriptor {
    /// The first byte, counted from the begin of the source region.
    pub source: u64,
    /// Where it belongs: counted from the begin of the destination region, or of the stream.
    pub destination: u64,
    /// How many bytes: not 0.
    pub len: u32,
    /// 0.
    pub reserved: u32,
}

/// What is wrong with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A piece of no bytes.
    #[error("piece {piece} has no bytes")]
    Empty {
        /// Its number, from 0.
        piece: usize,
    },
    /// A piece leaves the source region.
    #[error("piece {piece}: {len} bytes at {at} leave the source of {size} bytes")]
    Source {
        /// Its number, from 0.
        piece: usize,
        /// Its first byte in the source.
        at: u64,
        /// How many bytes.
        len: u32,
        /// Length of the source.
        size: u64,
    },
    /// A piece leaves the destination region.
    #[error("piece {piece}: {len} bytes at {at} leave the destination of {size} bytes")]
    Destination {
        /// Its number, from 0.
        piece: usize,
        /// Its first byte in the destination.
        at: u64,
        /// How many bytes.
        len: u32,
        /// Length of the destination.
        size: u64,
    },
    /// Two pieces would be written to the same bytes.
    #[error("pieces {first} and {second} overlap in the destination")]
    Overlap {
        /// The one that begins first.
        first: usize,
        /// The other.
        second: usize,
    },
    /// The pieces do not follow each other, where a sum over them is wanted.
    #[error("piece {piece} does not begin where the one before it ends")]
    Gap {
        /// Its number, from 0.
        piece: usize,
    },
}

/// Pieces that are gathered, validated or summed up in one go.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pieces: Vec<Descriptor>,
    bytes: u64,
    longest: u32,
}

impl Batch {
    /// None yet, with room for `capacity` pieces before anything is allocated.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(capacity),
            ..Self::default()
        }
    }

    /// Adds `len` bytes at `source` that belong to `destination`.
    pub fn push(&mut self, source: u64, len: u32, destination: u64) {
        self.pieces.push(Descriptor {
            source,
            destination,
            len,
            reserved: 0,
        });
        self.bytes += u64::from(len);
        self.longest = self.longest.max(len);
    }

    /// Forgets the pieces; the room stays.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.longest = 0;
    }

    /// The pieces.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.pieces
    }

    /// How many pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of all pieces together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the longest piece.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Can the pieces be copied from a source of so many bytes to a destination of so many?
    ///
    /// # Errors
    /// [`BatchError::Empty`], [`BatchError::Source`], [`BatchError::Destination`] of the first piece
    /// that is wrong; then [`BatchError::Overlap`].
    pub fn check_gather(&self, source: u64, destination: u64) -> Result<(), BatchError> {
        self.check(source, destination)?;
        self.check_overlap()
    }

    /// Can the pieces be held against a pattern? Their places may be any in a stream, and may
    /// overlap.
    ///
    /// # Errors
    /// [`BatchError::Empty`], [`BatchError::Source`]; [`BatchError::Destination`] for a place that no
    /// stream has, at its 2⁶⁴th byte.
    pub fn check_validate(&self, source: u64) -> Result<(), BatchError> {
        self.check(source, u64::MAX)
    }

    /// Can the pieces be summed up? Each must begin where the one before ends.
    ///
    /// # Errors
    /// As [`Batch::check_validate`]; then [`BatchError::Gap`].
    pub fn check_crc32(&self, source: u64) -> Result<(), BatchError> {
        self.check_validate(source)?;
        let mut follows = self.pieces.windows(2);
        let gap = follows.position(|pair| pair[0].end() != pair[1].destination);
        gap.map_or(Ok(()), |before| Err(BatchError::Gap { piece: before + 1 }))
    }

    fn check(&self, source: u64, destination: u64) -> Result<(), BatchError> {
        for (piece, descriptor) in self.pieces.iter().enumerate() {
            let len = descriptor.len;
            let outside = |at: u64, size| {
                let end = at.checked_add(len.into());
                end.is_none_or(|end| end > size)
            };
            if len == 0 {
                return Err(BatchError::Empty { piece });
            }
            let (at, size) = (descriptor.source, source);
            if outside(at, size) {
                return Err(BatchError::Source {
                    piece,
                    at,
                    len,
                    size,
                });
            }
            let (at, size) = (descriptor.destination, destination);
            if outside(at, size) {
                return Err(BatchError::Destination {
                    piece,
                    at,
                    len,
                    size,
                });
            }
        }
        Ok(())
    }

    /// Pieces of a stream come in its order, which one look settles; others are sorted.
    fn check_overlap(&self) -> Result<(), BatchError> {
        let apart = |before: &Descriptor, after: &Descriptor| before.end() <= after.destination;
        if self.pieces.windows(2).all(|pair| apart(&pair[0], &pair[1])) {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.pieces.len()).collect();
        order.sort_unstable_by_key(|&piece| (self.pieces[piece].destination, piece));
        // In that order, a piece that overlaps any before it overlaps, or makes overlap, a neighbour.
        let mut neighbours = order.windows(2);
        let overlap = neighbours.find(|pair| !apart(&self.pieces[pair[0]], &self.pieces[pair[1]]));
        overlap.map_or(Ok(()), |pair| {
            let (first, second) = (pair[0], pair[1]);
            Err(BatchError::Overlap { first, second })
        })
    }
}

impl Descriptor {
    /// Where the piece after it would begin: only of one that was checked.
    fn end(&self) -> u64 {
        self.destination + u64::from(self.len)
    }
}

#[cfg(test)]
mod tests;
