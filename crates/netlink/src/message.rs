//! Messages: requests to the kernel, and the messages in a datagram from the kernel.

use netlink_packet_core::{Emitable, NetlinkBuffer, NetlinkHeader, Parseable};

use crate::attr::align;
use crate::{Attrs, Error, ParseError, Writer};

/// Length of a netlink message's header in bytes (`NLMSG_HDRLEN`).
pub(crate) const HEADER: usize = 16;

/// Length in bytes of the generic netlink header, which follows the message header (`GENL_HDRLEN`).
const GENERIC_HEADER: usize = 4;

/// A request to the kernel, and the operation and object that errors about it name.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) op: &'static str,
    pub(crate) object: String,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    body: Writer,
}

impl Request {
    /// Creates a netlink request of message type `kind`, which errors call `op` on `object`.
    ///
    /// The body begins with `header`, the family's fixed part.
    pub fn new(kind: u16, header: &[u8], op: &'static str, object: impl Into<String>) -> Self {
        let mut body = Writer::new();
        body.raw(header);
        Self {
            op,
            object: object.into(),
            kind,
            flags: 0,
            body,
        }
    }

    /// Adds message flags, such as `NLM_F_CREATE`. The socket sets the flags for a request, an
    /// acknowledgement or a dump.
    #[must_use]
    pub fn flags(mut self, flags: i32) -> Self {
        self.flags |= u16::try_from(flags).unwrap_or_default();
        self
    }

    /// Writer that appends attributes to the request.
    pub fn attrs(&mut self) -> &mut Writer {
        &mut self.body
    }

    /// Encoded family header and attributes of the request.
    pub fn body(&self) -> &[u8] {
        self.body.bytes()
    }

    /// Encodes the whole netlink message.
    pub(crate) fn encode(&self, flags: u16, seq: u32, port: u32) -> Result<Vec<u8>, Error> {
        if self.body.is_too_long() {
            return Err(self.invalid("the request is too long for a netlink message"));
        }
        let body = self.body.bytes();
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(HEADER + body.len())
            .map_err(|_| self.invalid("the request is too long for a netlink message"))?;
        header.message_type = self.kind;
        header.flags = self.flags | flags;
        header.sequence_number = seq;
        header.port_number = port;
        let mut bytes = vec![0; HEADER];
        header.emit(&mut bytes);
        bytes.extend_from_slice(body);
        Ok(bytes)
    }

    /// Error of a request that makes no sense.
    pub fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(self.op, &self.object, why)
    }

    /// Error of an answer to this request that can't be parsed.
    pub fn malformed(&self, source: ParseError) -> Error {
        Error::malformed(self.op, &self.object, source)
    }
}

/// A message from the kernel: an answer, a part of a dump, or a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) header: NetlinkHeader,
    payload: Vec<u8>,
}

impl Message {
    /// Message type: an `RTM_` number, or the id of a generic netlink family.
    pub fn kind(&self) -> u16 {
        self.header.message_type
    }

    /// Payload of the message: the bytes behind the netlink header.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Splits the payload into the family's fixed header of `len` bytes and the attributes.
    ///
    /// # Errors
    /// [`ParseError::Header`] where the message is shorter than the header.
    pub fn split(&self, len: usize) -> Result<(&[u8], Attrs<'_>), ParseError> {
        let payload = &self.payload;
        let header = payload.get(..len).ok_or(ParseError::Header {
            left: payload.len(),
        })?;
        let rest = payload.get(align(len)..).unwrap_or_default();
        Ok((header, Attrs::new(rest)))
    }

    /// Command and attributes of a generic netlink message.
    ///
    /// # Errors
    /// As for [`Message::split`].
    pub fn generic(&self) -> Result<(u8, Attrs<'_>), ParseError> {
        let (header, attrs) = self.split(GENERIC_HEADER)?;
        Ok((header.first().copied().unwrap_or_default(), attrs))
    }
}

/// An iterator over the messages of a datagram (`nlmsg_for_each_msg`).
#[derive(Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl Messages<'_> {
    fn split(&mut self) -> Result<Message, ParseError> {
        let bytes = std::mem::take(&mut self.0);
        let stray = ParseError::Header { left: bytes.len() };
        let head = bytes.get(..HEADER).ok_or_else(|| stray.clone())?;
        let header = NetlinkHeader::parse(&NetlinkBuffer::new(&head)).map_err(|_| stray)?;
        let len = usize::try_from(header.length).unwrap_or(usize::MAX);
        let payload = bytes.get(HEADER..len).ok_or(ParseError::Length {
            kind: header.message_type,
            len,
            left: bytes.len(),
        })?;
        self.0 = bytes.get(align(len)..).unwrap_or_default();
        Ok(Message {
            header,
            payload: payload.to_vec(),
        })
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.split())
    }
}
