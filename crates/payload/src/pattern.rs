//! The payload that tests send and check: the pattern of upstream's `ncdevmem -v N`.
//!
//! The sender is `yes $(echo -e \\x01...)`: the bytes 1 to N - 1 and a newline, repeated.
//! `validate_buffer` (`tools/testing/selftests/drivers/net/hw/ncdevmem.c`) counts in a byte, so
//! that N above 256 is 256. Unlike upstream's, this validator also reads bytes in host memory, in
//! stream order.

use std::fmt;
use std::sync::Arc;

use dmabuf::CpuAccess;

/// Number of bytes compared at once: with the table they stay in the first-level cache.
const PIECE: usize = 4096;

/// Error of a pattern with period 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern of period 0")]
pub struct PatternError;

/// The validation pattern with period N: byte `i` of the stream is `(i + 1) % N`, and a newline
/// where that is 0.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Bytes of the pattern: one period more than a piece, so that any piece at any phase is a
    /// slice of them.
    table: Arc<[u8]>,
    period: usize,
}

impl Pattern {
    /// Period that no power of two divides, so that a page at the wrong position is detected.
    pub const DEFAULT_PERIOD: usize = 251;

    /// Creates the validation pattern of `ncdevmem -v period`. A period above 256 is that of 256.
    ///
    /// # Errors
    /// [`PatternError`] for 0, with which upstream switches validation off.
    pub fn new(period: usize) -> Result<Self, PatternError> {
        let period = period.min(256);
        if period == 0 {
            return Err(PatternError);
        }
        let byte = |i| match (i + 1) % period {
            0 => b'\n',
            value => value as u8,
        };
        Ok(Self {
            table: (0..PIECE + period).map(byte).collect(),
            period,
        })
    }

    /// Number of bytes after which the pattern repeats, 1 to 256.
    pub fn period(&self) -> usize {
        self.period
    }

    /// Byte of the pattern at `offset` of the stream.
    pub fn byte(&self, offset: u64) -> u8 {
        self.expected(self.position_of(offset), 1)[0]
    }

    /// Checks that `bytes` equal the pattern from `offset` of the stream on.
    ///
    /// # Errors
    /// The first byte that differs.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        self.check_from(self.position_of(offset), bytes)?;
        Ok(())
    }

    fn check_from(&self, mut at: Position, bytes: &[u8]) -> Result<Position, Mismatch> {
        for piece in bytes.chunks(PIECE) {
            let expected = self.expected(at, piece.len());
            if piece != expected {
                return Err(first_difference(at.offset, expected, piece));
            }
            at = self.position_after(at, piece.len());
        }
        Ok(at)
    }

    /// Checks that the `len` bytes at `from` of a dmabuf equal the pattern from `offset` of the
    /// stream on. They are compared in place.
    ///
    /// # Errors
    /// The first byte that differs, or the error of the dmabuf.
    #[inline]
    pub fn check_dmabuf(
        &self,
        offset: u64,
        access: &CpuAccess<'_>,
        from: u64,
        len: usize,
    ) -> Result<(), CheckError> {
        self.check_dmabuf_from(self.position_of(offset), access, from, len)?;
        Ok(())
    }

    #[inline]
    fn check_dmabuf_from(
        &self,
        mut at: Position,
        access: &CpuAccess<'_>,
        from: u64,
        len: usize,
    ) -> Result<Position, CheckError> {
        let mut done = 0;
        while done < len {
            let now = PIECE.min(len - done);
            let from = from.saturating_add(done as u64);
            let expected = self.expected(at, now);
            if !access.equals(from, expected)? {
                return Err(difference_in(access, from, at.offset, expected));
            }
            at = self.position_after(at, now);
            done += now;
        }
        Ok(at)
    }

    /// Fills `out` with the pattern from `offset` of the stream on.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        let mut at = self.position_of(offset);
        for piece in out.chunks_mut(PIECE) {
            piece.copy_from_slice(self.expected(at, piece.len()));
            at = self.position_after(at, piece.len());
        }
    }

    fn position_of(&self, offset: u64) -> Position {
        let phase = (offset % self.period as u64) as usize;
        Position { offset, phase }
    }

    /// Position in the pattern `len` bytes after another, at most [`PIECE`].
    #[inline]
    fn position_after(&self, at: Position, len: usize) -> Position {
        // A division of 64 bits would take longer than everything else that a piece costs here.
        let phase = (at.phase + len) as u32 % self.period as u32;
        Position {
            offset: at.offset + len as u64,
            phase: phase as usize,
        }
    }

    /// The `len` bytes of the pattern at a position, at most [`PIECE`].
    #[inline]
    fn expected(&self, at: Position, len: usize) -> &[u8] {
        &self.table[at.phase..at.phase + len]
    }
}

/// Offset in the stream, and the phase of the pattern there, which is below its period.
#[derive(Debug, Clone, Copy)]
struct Position {
    offset: u64,
    phase: usize,
}

impl Default for Pattern {
    /// The pattern with the default period, [`Pattern::DEFAULT_PERIOD`].
    fn default() -> Self {
        Self::new(Self::DEFAULT_PERIOD).unwrap_or_else(|_| unreachable!("the period is not 0"))
    }
}

/// First byte of a stream that differs from the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Mismatch {
    /// Offset of the wrong byte in the stream, from 0.
    pub offset: u64,
    /// Expected byte: that of the pattern.
    pub expected: u8,
    /// Received byte.
    pub got: u8,
}

impl Mismatch {
    /// Creates the description of a wrong byte.
    pub fn new(offset: u64, expected: u8, got: u8) -> Self {
        Self {
            offset,
            expected,
            got,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            offset,
            expected,
            got,
        } = self;
        write!(
            f,
            "byte {offset} of the stream is {got:#04x}, expected {expected:#04x}"
        )
    }
}

/// Error of comparing a dmabuf with a pattern.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A byte of the dmabuf differs from the pattern.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The dmabuf could not be read.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
}

/// Compares a stream with a [`Pattern`], piece by piece, in order. A check that fails does not
/// advance the validator.
#[derive(Debug, Clone)]
pub struct Validator {
    pattern: Pattern,
    at: Position,
}

impl Validator {
    /// Creates a validator at byte 0.
    pub fn new(pattern: Pattern) -> Self {
        let at = pattern.position_of(0);
        Self { pattern, at }
    }

    /// Number of bytes of the stream that were right so far.
    pub fn offset(&self) -> u64 {
        self.at.offset
    }

    /// Checks that the next bytes of the stream equal the pattern.
    ///
    /// # Errors
    /// The first byte that differs.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        self.at = self.pattern.check_from(self.at, bytes)?;
        Ok(())
    }

    /// Checks the next `len` bytes of the stream in place, at byte `offset` of a dmabuf.
    ///
    /// # Errors
    /// The first byte that differs, or the error of the dmabuf.
    #[inline]
    pub fn check_dmabuf(
        &mut self,
        access: &CpuAccess<'_>,
        offset: u64,
        len: usize,
    ) -> Result<(), CheckError> {
        self.at = self
            .pattern
            .check_dmabuf_from(self.at, access, offset, len)?;
        Ok(())
    }
}

/// First byte at `from` of the dmabuf that differs from `expected`, at most [`PIECE`] bytes at
/// offset `at` of the stream.
#[cold]
fn difference_in(access: &CpuAccess<'_>, from: u64, at: u64, expected: &[u8]) -> CheckError {
    let mut got = [0; PIECE];
    let got = &mut got[..expected.len()];
    match access.copy_to(from, got) {
        Ok(()) => first_difference(at, expected, got).into(),
        Err(error) => error.into(),
    }
}

/// First byte of `got` that differs from `expected`. If none does, the memory changed between two
/// reads, which is a fault, too; then the first byte is returned.
fn first_difference(at: u64, expected: &[u8], got: &[u8]) -> Mismatch {
    let index = expected
        .iter()
        .zip(got)
        .position(|(expected, got)| expected != got)
        .unwrap_or(0);
    Mismatch {
        offset: at + index as u64,
        expected: expected[index],
        got: got[index],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pattern as upstream's `validate_buffer` computes it: the seed begins at 1 and counts in
    /// a byte.
    fn upstream_pattern(period: usize, len: usize) -> Vec<u8> {
        let mut seed = 1u8;
        let next = |_| {
            let byte = if seed == 0 { b'\n' } else { seed };
            seed = seed.wrapping_add(1);
            if usize::from(seed) == period {
                seed = 0;
            }
            byte
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn the_pattern_is_upstreams() {
        for period in [2, 7, 8, 251, 255, 256, 300, 4096] {
            let mut ours = vec![0; 20_000];
            Pattern::new(period).unwrap().fill(0, &mut ours);
            assert_eq!(
                ours,
                upstream_pattern(period, ours.len()),
                "period {period}"
            );
        }
        let mut ours = [0; 12];
        Pattern::new(7).unwrap().fill(0, &mut ours);
        assert_eq!(
            &ours, b"\x01\x02\x03\x04\x05\x06\n\x01\x02\x03\x04\x05",
            "yes"
        );
        Pattern::new(1).unwrap().fill(5, &mut ours);
        assert_eq!(ours, [b'\n'; 12]);
        assert_eq!(Pattern::new(0).unwrap_err(), PatternError);
    }

    proptest! {
        #[test]
        fn any_cut_validates_and_any_change_is_found(
            period in 1..300usize,
            cuts in prop::collection::vec(1..9000usize, 1..8),
            bad in any::<prop::sample::Index>(),
        ) {
            let pattern = Pattern::new(period).unwrap();
            let total: usize = cuts.iter().sum();
            let mut stream = vec![0; total];
            pattern.fill(0, &mut stream);
            let bad = bad.index(total);
            let check = |stream: &[u8]| {
                let mut validator = Validator::new(pattern.clone());
                let mut rest = stream;
                cuts.iter().try_for_each(|cut| {
                    let (now, after) = rest.split_at(*cut);
                    rest = after;
                    validator.check(now)
                })
            };
            prop_assert_eq!(check(&stream), Ok(()));
            let expected = stream[bad];
            stream[bad] ^= 0x40;
            let mismatch = Mismatch { offset: bad as u64, expected, got: stream[bad] };
            prop_assert_eq!(check(&stream), Err(mismatch));
        }

        #[test]
        fn a_part_equals_the_whole_at_its_offset(offset in 0..100_000u64, len in 0..9000usize) {
            let pattern = Pattern::default();
            let mut whole = vec![0; offset as usize + len];
            pattern.fill(0, &mut whole);
            let mut part = vec![0; len];
            pattern.fill(offset, &mut part);
            prop_assert_eq!(&part, &whole[offset as usize..]);
        }
    }
}
