//! Parsing of attributes. Bytes from the kernel are checked, never trusted.

use thiserror::Error;

/// Length of a netlink attribute's header in bytes (`NLA_HDRLEN`).
pub(crate) const HEADER: usize = 4;

/// Mask of the two flag bits of an attribute's type: nested, and network byte order
/// (`NLA_TYPE_MASK`).
const FLAGS: u16 = 0xc000;

/// Rounds `len` up to the four bytes that attributes and messages align to (`NLA_ALIGN`).
pub(crate) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Error of a netlink message or attribute that is malformed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The header of a message or attribute is cut off.
    #[error("{left} stray bytes where a header should be")]
    Header {
        /// Number of bytes left.
        left: usize,
    },
    /// The length field of a message or attribute is below the header's size or beyond the end.
    #[error("type {kind}: length {len}, with {left} bytes left")]
    Length {
        /// Type of the attribute or message.
        kind: u16,
        /// Value of the length field.
        len: usize,
        /// Number of bytes left.
        left: usize,
    },
    /// The payload's size is not that of the attribute's type.
    #[error("attribute {kind}: {got} bytes instead of {want}")]
    Size {
        /// Type of the attribute.
        kind: u16,
        /// Expected size in bytes.
        want: usize,
        /// Found size in bytes.
        got: usize,
    },
    /// The string has no terminating NUL, or is not UTF-8.
    #[error("attribute {kind}: not a string")]
    Text {
        /// Type of the attribute.
        kind: u16,
    },
    /// The attribute has a value that it can't have.
    #[error("attribute {kind}: unexpected value {value}")]
    Value {
        /// Type of the attribute.
        kind: u16,
        /// Value that was found.
        value: u64,
    },
    /// The answer lacks an attribute that it must have.
    #[error("attribute {kind} is missing")]
    Missing {
        /// Type of the attribute.
        kind: u16,
    },
    /// The answer is of another kind than the request has.
    #[error("{0}")]
    Answer(&'static str),
}

/// An iterator over the netlink attributes in a buffer.
///
/// It ends after the first error. Mirrors `nla_for_each_attr`, but stray bytes at the end are an
/// error here, where the kernel only logs them.
#[derive(Debug, Clone)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Reads the attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn split(&mut self) -> Result<Attr<'a>, ParseError> {
        let bytes = std::mem::take(&mut self.0);
        let [l0, l1, k0, k1, ..] = *bytes else {
            return Err(ParseError::Header { left: bytes.len() });
        };
        let (len, kind) = (u16::from_ne_bytes([l0, l1]), u16::from_ne_bytes([k0, k1]));
        let (len, kind) = (usize::from(len), kind & !FLAGS);
        let payload = bytes.get(HEADER..len).ok_or(ParseError::Length {
            kind,
            len,
            left: bytes.len(),
        })?;
        // The last attribute's padding may be left out.
        self.0 = bytes.get(align(len)..).unwrap_or_default();
        Ok(Attr { kind, payload })
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.split())
    }
}

/// A netlink attribute: a type, and a payload whose meaning the type decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    kind: u16,
    payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// Type of the attribute, without the nested and byte order flags.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Payload of the attribute, without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// Payload of the attribute as exactly `N` bytes.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn array<const N: usize>(&self) -> Result<[u8; N], ParseError> {
        self.payload.try_into().map_err(|_| self.size(N))
    }

    /// Payload of the attribute as a `u8`.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u8(&self) -> Result<u8, ParseError> {
        self.array().map(u8::from_ne_bytes)
    }

    /// Payload of the attribute as a `u16` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u16(&self) -> Result<u16, ParseError> {
        self.array().map(u16::from_ne_bytes)
    }

    /// Payload of the attribute as a `u32` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u32(&self) -> Result<u32, ParseError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// Payload of the attribute as an `s32` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn i32(&self) -> Result<i32, ParseError> {
        self.array().map(i32::from_ne_bytes)
    }

    /// Payload of the attribute as a `u64` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u64(&self) -> Result<u64, ParseError> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Payload as a `uint`: four or eight bytes, as the value needs (`nla_put_uint`).
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn uint(&self) -> Result<u64, ParseError> {
        if self.payload.len() == 4 {
            self.u32().map(u64::from)
        } else {
            self.u64()
        }
    }

    /// Payload as a string that ends at its first NUL (`NLA_NUL_STRING`).
    ///
    /// # Errors
    /// [`ParseError::Text`] where the NUL is missing or the text is not UTF-8.
    #[doc(alias = "NLA_NUL_STRING")]
    pub fn str(&self) -> Result<&'a str, ParseError> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.payload).ok();
        text.and_then(|text| text.to_str().ok())
            .ok_or(ParseError::Text { kind: self.kind })
    }

    /// Payload as a name that may hold any bytes, as device names do. Bytes that are not UTF-8 are
    /// replaced (U+FFFD).
    ///
    /// # Errors
    /// [`ParseError::Text`] where the NUL is missing.
    pub fn lossy_str(&self) -> Result<String, ParseError> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.payload);
        let text = text.map_err(|_| ParseError::Text { kind: self.kind })?;
        Ok(text.to_string_lossy().into_owned())
    }

    /// Attributes nested in this attribute.
    #[doc(alias = "NLA_F_NESTED")]
    pub fn nested(&self) -> Attrs<'a> {
        Attrs(self.payload)
    }

    /// Error for a value that this attribute can't have.
    pub fn unexpected(&self, value: impl Into<u64>) -> ParseError {
        ParseError::Value {
            kind: self.kind,
            value: value.into(),
        }
    }

    fn size(&self, want: usize) -> ParseError {
        ParseError::Size {
            kind: self.kind,
            want,
            got: self.payload.len(),
        }
    }
}
