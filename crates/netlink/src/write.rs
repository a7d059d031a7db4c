//! Encoding of attributes.

use crate::attr::{HEADER, align};

/// Flag of an attribute that contains others (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// A writer of netlink attributes. Each is padded to four bytes, and nested attributes have their
/// flag.
///
/// A payload that is longer than the 16-bit length field allows is remembered, and the request is
/// refused when it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Writer {
    /// Creates an empty writer of attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the attributes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether an attribute was too long to be written.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Appends bytes that are not an attribute, such as a family's fixed header.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad()
    }

    /// Appends an attribute (`nla_put`).
    pub fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let Ok(len) = u16::try_from(HEADER + payload.len()) else {
            self.too_long = true;
            return self;
        };
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(payload)
    }

    /// Appends an attribute without payload (`nla_put_flag`).
    #[doc(alias = "NLA_FLAG")]
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.put(kind, &[])
    }

    /// Appends a `u8` attribute.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a `u16` attribute in host byte order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a `u32` attribute in host byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends an `s32` attribute in host byte order.
    pub fn i32(&mut self, kind: u16, value: i32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a `uint` attribute: four bytes where they are enough, else eight (`nla_put_uint`).
    pub fn uint(&mut self, kind: u16, value: u64) -> &mut Self {
        match u32::try_from(value) {
            Ok(small) => self.u32(kind, small),
            Err(_) => self.put(kind, &value.to_ne_bytes()),
        }
    }

    /// Appends a string attribute with its terminating NUL.
    pub fn str(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends a nested attribute with what `fill` writes (`nla_nest_start`, `nla_nest_end`).
    #[doc(alias = "NLA_F_NESTED")]
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.too_long |= inner.too_long;
        self.put(kind | NESTED, &inner.bytes)
    }

    fn pad(&mut self) -> &mut Self {
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }
}
