//! Reading attributes: bytes from the kernel are parsed, never trusted.

use thiserror::Error;

/// Length of an attribute's header (`NLA_HDRLEN`).
pub(crate) const HEADER: usize = 4;

/// The two flag bits of an attribute's type: nested, and network byte order (`NLA_TYPE_MASK`).
const FLAGS: u16 = 0xc000;

/// Rounds `len` up to the four bytes that attributes and messages align to (`NLA_ALIGN`).
pub(crate) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Bytes that are not what a message or an attribute should look like.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// A header needs more bytes than there are.
    #[error("{left} stray bytes where a header should be")]
    Header {
        /// How many bytes were left.
        left: usize,
    },
    /// A length field that is below the header's own size or beyond the end.
    #[error("type {kind}: length {len}, with {left} bytes left")]
    Length {
        /// Type of the attribute or message.
        kind: u16,
        /// What its length field says.
        len: usize,
        /// How many bytes there are.
        left: usize,
    },
    /// An attribute's payload has not the size of its type.
    #[error("attribute {kind}: {got} bytes instead of {want}")]
    Size {
        /// Type of the attribute.
        kind: u16,
        /// The size expected.
        want: usize,
        /// The size found.
        got: usize,
    },
    /// A string without a terminating NUL, or that is not UTF-8.
    #[error("attribute {kind}: not a string")]
    Text {
        /// Type of the attribute.
        kind: u16,
    },
    /// A value outside of what the attribute can mean.
    #[error("attribute {kind}: unexpected value {value}")]
    Value {
        /// Type of the attribute.
        kind: u16,
        /// The value found.
        value: u64,
    },
    /// An answer without an attribute that it must have.
    #[error("attribute {kind} is missing")]
    Missing {
        /// Type of the attribute.
        kind: u16,
    },
    /// The kernel answered with something else than was asked for.
    #[error("{0}")]
    Answer(&'static str),
}

/// An iterator over the attributes in a buffer.
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

/// One attribute: a type and a payload whose meaning the type decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    kind: u16,
    payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// Its type, without the nested and byte order flags.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Its payload, without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload as exactly `N` bytes.
    ///
    /// # Errors
    /// [`ParseError::Size`] where it has another length.
    pub fn array<const N: usize>(&self) -> Result<[u8; N], ParseError> {
        self.payload.try_into().map_err(|_| self.size(N))
    }

    /// A `u8`.
    ///
    /// # Errors
    /// As for [`Attr::array`]; the same goes for the other numbers.
    pub fn u8(&self) -> Result<u8, ParseError> {
        self.array().map(u8::from_ne_bytes)
    }

    /// A `u16` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u16(&self) -> Result<u16, ParseError> {
        self.array().map(u16::from_ne_bytes)
    }

    /// A `u32` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u32(&self) -> Result<u32, ParseError> {
        self.array().map(u32::from_ne_bytes)
    }

    /// An `s32` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn i32(&self) -> Result<i32, ParseError> {
        self.array().map(i32::from_ne_bytes)
    }

    /// A `u64` in host byte order.
    ///
    /// # Errors
    /// [`ParseError::Size`] where the payload has another length.
    pub fn u64(&self) -> Result<u64, ParseError> {
        self.array().map(u64::from_ne_bytes)
    }

    /// A `uint`: four or eight bytes, as the value needs (`nla_put_uint`).
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

    /// A string, which ends at its first NUL (`NLA_NUL_STRING`).
    ///
    /// # Errors
    /// [`ParseError::Text`] where the NUL is missing or the text is not UTF-8.
    pub fn str(&self) -> Result<&'a str, ParseError> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.payload).ok();
        text.and_then(|text| text.to_str().ok())
            .ok_or(ParseError::Text { kind: self.kind })
    }

    /// The same of a name that may be any bytes, as those of devices: what is no UTF-8 in it is
    /// replaced (U+FFFD).
    ///
    /// # Errors
    /// [`ParseError::Text`] without an end.
    pub fn lossy_str(&self) -> Result<String, ParseError> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.payload);
        let text = text.map_err(|_| ParseError::Text { kind: self.kind })?;
        Ok(text.to_string_lossy().into_owned())
    }

    /// The attributes nested in this one.
    pub fn nested(&self) -> Attrs<'a> {
        Attrs(self.payload)
    }

    /// The error for a value that this attribute must not have.
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
