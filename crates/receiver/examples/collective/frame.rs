//! What a connection carries: parts of tensors, each after a header of 24 bytes, little-endian.
//!
//! ```text
//! 0  "part"          a word that payload cut in the wrong place hardly has
//! 4  tensor   u32    its number, from 0
//! 8  offset   u64    the part's first byte in the tensor
//! 16 len      u64    bytes of the part: they follow
//! ```

/// Length in bytes of the header before each part of a tensor.
pub(crate) const HEADER: usize = 24;
const WORD: [u8; 4] = *b"part";

/// Header of a part of a tensor, in which a peer says what it sends. No field is trusted before
/// [`Ring::expect`](crate::ring::Ring::expect) has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tensor: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Header {
    /// Parses a part's header; `None` for bytes that are no header.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let (word, rest) = bytes.split_first_chunk::<4>()?;
        let (tensor, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let len = rest.first_chunk()?;
        (*word == WORD).then_some(Self {
            tensor: u32::from_le_bytes(*tensor),
            offset: u64::from_le_bytes(*offset),
            len: u64::from_le_bytes(*len),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_is_written_down() {
        let mut bytes = *b"part\x04\x03\x02\x01\x01\0\0\0\0\0\0\x80\x02\0\0\0\0\0\0\x40";
        let header = Header {
            tensor: 0x0102_0304,
            offset: 1 << 63 | 1,
            len: 1 << 62 | 2,
        };
        assert_eq!(Header::parse(&bytes), Some(header));
        bytes[3] ^= 1;
        assert_eq!(Header::parse(&bytes), None);
    }
}
