//! Messages: requests on their way out, and the parts of a datagram that came in.

use netlink_packet_core::{Emitable, NetlinkBuffer, NetlinkHeader, Parseable};

use crate::attr::align;
use crate::{Attrs, Error, ParseError, Writer};

/// Length of a message's header (`NLMSG_HDRLEN`).
pub(crate) const HEADER: usize = 16;

/// Length of the generic netlink header behind it (`GENL_HDRLEN`).
const GENERIC_HEADER: usize = 4;

/// A request: what is asked of the kernel, and how an error about it reads.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) op: &'static str,
    pub(crate) object: String,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    body: Writer,
}

impl Request {
    /// A request of message type `kind`, which errors call `op` on `object`.
    ///
    /// Its body begins with `header`, the family's fixed part.
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

    /// Adds message flags, such as `NLM_F_CREATE`; those for a request, an acknowledgement or a
    /// dump are set by the socket.
    #[must_use]
    pub fn flags(mut self, flags: i32) -> Self {
        self.flags |= u16::try_from(flags).unwrap_or_default();
        self
    }

    /// Where attributes are appended.
    pub fn attrs(&mut self) -> &mut Writer {
        &mut self.body
    }

    /// The family's header and the attributes as they go out.
    pub fn body(&self) -> &[u8] {
        self.body.bytes()
    }

    /// The whole message.
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

    /// The error of a request that makes no sense.
    pub fn invalid(&self, why: impl Into<String>) -> Error {
        Error::invalid(self.op, &self.object, why)
    }

    /// The error of an answer to this request that can't be parsed.
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
    /// The message type: an `RTM_` number, or the id of a generic netlink family.
    pub fn kind(&self) -> u16 {
        self.header.message_type
    }

    /// Everything behind the message header.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The family's fixed header of `len` bytes, and the attributes behind it.
    ///
    /// # Errors
    /// [`ParseError::Header`] where the message is shorter than that.
    pub fn split(&self, len: usize) -> Result<(&[u8], Attrs<'_>), ParseError> {
        let payload = &self.payload;
        let header = payload.get(..len).ok_or(ParseError::Header {
            left: payload.len(),
        })?;
        let rest = payload.get(align(len)..).unwrap_or_default();
        Ok((header, Attrs::new(rest)))
    }

    /// A generic netlink message's command, and its attributes.
    ///
    /// # Errors
    /// As for [`Message::split`].
    pub fn generic(&self) -> Result<(u8, Attrs<'_>), ParseError> {
        let (header, attrs) = self.split(GENERIC_HEADER)?;
        Ok((header.first().copied().unwrap_or_default(), attrs))
    }
}

/// Takes a datagram apart (`nlmsg_for_each_msg`).
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
