//! Batches of pieces, in the layout that a device reads.

/// Descriptor of a piece of payload: its bytes in the source region, and their destination. 24
/// bytes, little-endian, as `struct descriptor` of the CUDA kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Descriptor {
    /// Offset of the piece's first byte in the source region.
    pub source: u64,
    /// Offset of the piece's first byte in the destination region, or in the stream.
    pub destination: u64,
    /// Length of the piece in bytes, not 0.
    pub len: u32,
    /// Padding of the descriptor, always 0.
    pub reserved: u32,
}

/// Error of a malformed batch of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A piece has no bytes.
    #[error("piece {piece} has no bytes")]
    Empty {
        /// Number of the piece, from 0.
        piece: usize,
    },
    /// A piece ends behind the source region.
    #[error("piece {piece}: {len} bytes at {at} leave the source of {size} bytes")]
    Source {
        /// Number of the piece, from 0.
        piece: usize,
        /// Offset of the piece in the source region.
        at: u64,
        /// Length of the piece in bytes.
        len: u32,
        /// Length of the source region in bytes.
        size: u64,
    },
    /// A piece ends behind the destination region.
    #[error("piece {piece}: {len} bytes at {at} leave the destination of {size} bytes")]
    Destination {
        /// Number of the piece, from 0.
        piece: usize,
        /// Offset of the piece in the destination region.
        at: u64,
        /// Length of the piece in bytes.
        len: u32,
        /// Length of the destination region in bytes.
        size: u64,
    },
    /// Two pieces overlap in the destination region.
    #[error("pieces {first} and {second} overlap in the destination")]
    Overlap {
        /// Number of the piece that begins first.
        first: usize,
        /// Number of the other piece.
        second: usize,
    },
    /// A piece does not begin where the one before it ends, as a checksum requires.
    #[error("piece {piece} does not begin where the one before it ends")]
    Gap {
        /// Number of the piece, from 0.
        piece: usize,
    },
}

/// A batch of pieces of payload that are gathered, validated or checksummed in one call.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pieces: Vec<Descriptor>,
    bytes: u64,
    longest: u32,
}

impl Batch {
    /// Creates an empty batch with room for `capacity` pieces.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(capacity),
            ..Self::default()
        }
    }

    /// Adds a piece of `len` bytes at offset `source` of the source region, with its destination
    /// offset.
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

    /// Removes all pieces from the batch, and keeps its capacity.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.longest = 0;
    }

    /// Descriptors of the pieces in the batch.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.pieces
    }

    /// Number of pieces in the batch.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether the batch has no pieces.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Total length of the batch's pieces in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length of the batch's longest piece in bytes.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Checks that the pieces can be copied from a source of `source` bytes to a destination of
    /// `destination` bytes.
    ///
    /// # Errors
    /// [`BatchError::Empty`], [`BatchError::Source`], [`BatchError::Destination`] of the first
    /// wrong piece; then [`BatchError::Overlap`].
    pub fn check_gather(&self, source: u64, destination: u64) -> Result<(), BatchError> {
        self.check(source, destination)?;
        self.check_overlap()
    }

    /// Checks that the pieces can be compared with a pattern. Their positions in the stream are
    /// arbitrary and may overlap.
    ///
    /// # Errors
    /// [`BatchError::Empty`], [`BatchError::Source`]; [`BatchError::Destination`] for a position
    /// that no stream has, at its 2⁶⁴th byte.
    pub fn check_validate(&self, source: u64) -> Result<(), BatchError> {
        self.check(source, u64::MAX)
    }

    /// Checks that the pieces can be checksummed: each must begin where the one before ends.
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

    /// Checks that no two pieces overlap in the destination. Pieces of a stream are in order, which
    /// one pass finds; others are sorted.
    fn check_overlap(&self) -> Result<(), BatchError> {
        let apart = |before: &Descriptor, after: &Descriptor| before.end() <= after.destination;
        if self.pieces.windows(2).all(|pair| apart(&pair[0], &pair[1])) {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.pieces.len()).collect();
        order.sort_unstable_by_key(|&piece| (self.pieces[piece].destination, piece));
        // In that order a piece that overlaps any piece before it overlaps its neighbour, or makes
        // two others overlap.
        let mut neighbours = order.windows(2);
        let overlap = neighbours.find(|pair| !apart(&self.pieces[pair[0]], &self.pieces[pair[1]]));
        overlap.map_or(Ok(()), |pair| {
            let (first, second) = (pair[0], pair[1]);
            Err(BatchError::Overlap { first, second })
        })
    }
}

impl Descriptor {
    /// Offset in the destination at which the next piece would begin; only of a piece that was
    /// checked.
    fn end(&self) -> u64 {
        self.destination + u64::from(self.len)
    }
}

#[cfg(test)]
mod tests;
