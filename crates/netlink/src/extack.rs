//! Extended acknowledgements: the details that the kernel adds to an error number.

use crate::attr::align;
use crate::message::{HEADER, Message};
use crate::{Attrs, ParseError};

/// Flag of an acknowledgement that does not repeat the request's payload: `NLM_F_CAPPED`.
const CAPPED: u16 = libc::NLM_F_CAPPED as u16;
const ACK_TLVS: u16 = libc::NLM_F_ACK_TLVS as u16;

// enum nlmsgerr_attrs; libc has it only up to the policy.
const ATTR_MSG: u16 = 1;
const ATTR_OFFS: u16 = 2;
const ATTR_POLICY: u16 = 4;
const ATTR_MISS_TYPE: u16 = 5;
const ATTR_MISS_NEST: u16 = 6;

/// Extended acknowledgement of an error (`struct netlink_ext_ack`).
#[doc(alias = "netlink_ext_ack")]
#[doc(alias = "NETLINK_EXT_ACK")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtAck {
    message: Option<String>,
    offset: Option<u32>,
    policy: Option<Policy>,
    missing: Option<u32>,
    missing_in: Option<u32>,
}

impl ExtAck {
    /// Text of the acknowledgement, in the kernel's words.
    #[doc(alias = "NLMSGERR_ATTR_MSG")]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Position of the attribute that the kernel refused, in bytes from the request's message
    /// header.
    #[doc(alias = "NLMSGERR_ATTR_OFFS")]
    pub fn offset(&self) -> Option<u32> {
        self.offset
    }

    /// Bounds of the attribute that the kernel refused.
    #[doc(alias = "NLMSGERR_ATTR_POLICY")]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Type of a required attribute that the request lacks.
    #[doc(alias = "NLMSGERR_ATTR_MISS_TYPE")]
    pub fn missing(&self) -> Option<u32> {
        self.missing
    }

    /// Position of the nested attribute that lacks a required attribute. `None` is the request's
    /// top level.
    #[doc(alias = "NLMSGERR_ATTR_MISS_NEST")]
    pub fn missing_in(&self) -> Option<u32> {
        self.missing_in
    }

    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut ack = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                // Drivers write these texts: one that isn't UTF-8 is still worth showing.
                ATTR_MSG => {
                    let text = attr
                        .bytes()
                        .split(|&byte| byte == 0)
                        .next()
                        .unwrap_or_default();
                    let text = String::from_utf8_lossy(text).trim().to_owned();
                    ack.message = (!text.is_empty()).then_some(text);
                }
                ATTR_OFFS => ack.offset = Some(attr.u32()?),
                ATTR_POLICY => ack.policy = Some(Policy::parse(attr.nested())?),
                ATTR_MISS_TYPE => ack.missing = Some(attr.u32()?),
                ATTR_MISS_NEST => ack.missing_in = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(ack)
    }
}

/// Bounds of an attribute's value (`netlink_policy_dump_write_attr`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Least value that an unsigned number may have.
    pub min: Option<u64>,
    /// Greatest value that an unsigned number may have.
    pub max: Option<u64>,
    /// Least length of the payload in bytes.
    pub min_len: Option<u32>,
    /// Greatest length of the payload in bytes.
    pub max_len: Option<u32>,
    /// Mask of the bits that may be set.
    pub mask: Option<u64>,
}

impl Policy {
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut policy = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                // enum netlink_policy_type_attr
                4 => policy.min = Some(attr.u64()?),
                5 => policy.max = Some(attr.u64()?),
                6 => policy.min_len = Some(attr.u32()?),
                7 => policy.max_len = Some(attr.u32()?),
                12 => policy.mask = Some(attr.u64()?),
                _ => {}
            }
        }
        Ok(policy)
    }
}

/// Error number and extended acknowledgement that an `NLMSG_ERROR` or `NLMSG_DONE` message reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Error number, positive; 0 for success.
    pub(crate) errno: i32,
    pub(crate) ext_ack: ExtAck,
}

impl Verdict {
    /// Parses an acknowledgement: the error number, the request's header (with an error and without
    /// `NETLINK_CAP_ACK` the rest of the request, too), then the attributes (`netlink_ack`).
    pub(crate) fn of_ack(message: &Message) -> Result<Self, ParseError> {
        let payload = message.payload();
        let attrs = if message.header.flags & CAPPED != 0 {
            4 + HEADER
        } else {
            let echoed = payload.get(4..8).and_then(|len| len.try_into().ok());
            let echoed = echoed.ok_or(ParseError::Header {
                left: payload.len(),
            })?;
            let echoed = usize::try_from(u32::from_ne_bytes(echoed)).unwrap_or(usize::MAX);
            align(echoed.min(payload.len())) + 4
        };
        Self::parse(message, attrs)
    }

    /// Parses the end of a dump: the error number, then the attributes (`netlink_dump_done`).
    pub(crate) fn of_done(message: &Message) -> Result<Self, ParseError> {
        Self::parse(message, 4)
    }

    fn parse(message: &Message, attrs: usize) -> Result<Self, ParseError> {
        let payload = message.payload();
        let errno = payload.get(..4).and_then(|errno| errno.try_into().ok());
        let errno = errno.ok_or(ParseError::Header {
            left: payload.len(),
        })?;
        // The flag may be set although the attributes did not fit (`netlink_dump_done`).
        let rest = payload.get(attrs..).unwrap_or_default();
        let told = message.header.flags & ACK_TLVS != 0;
        let ext_ack = if told {
            ExtAck::parse(Attrs::new(rest))?
        } else {
            ExtAck::default()
        };
        // A dump may end with a positive count, which is not an error.
        let errno = i32::from_ne_bytes(errno).min(0).saturating_neg();
        Ok(Self { errno, ext_ack })
    }
}
