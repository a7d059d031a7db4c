//! Generic netlink: families found by name, with their commands and multicast groups.

use netlink_packet_core::{Emitable, NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlHeader, GenlMessage};

use crate::{AttrSpec, MessageSpec, ParseError, Request, Result, Socket};

/// Attributes of the control family: `CTRL_ATTR_*`.
const ATTRS: &[AttrSpec] = &[
    AttrSpec::number(1, "family-id"),
    AttrSpec::text(2, "family-name"),
    AttrSpec::number(3, "version"),
];

/// Format of the control family's messages, for the time before the socket is given another
/// family's.
pub(crate) fn message_spec(_: u16, _: u8) -> MessageSpec {
    MessageSpec {
        header: 4,
        attrs: ATTRS,
    }
}

/// A generic netlink family, with the number that the running kernel gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    name: &'static str,
    id: u16,
    version: u8,
    groups: Vec<(String, u32)>,
}

impl Family {
    /// Message type of the family, the number that the kernel gave it.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Creates a generic netlink request with command `cmd`, which errors call `op` on `object`.
    pub fn request(&self, cmd: u8, op: &'static str, object: impl Into<String>) -> Request {
        let header = GenlHeader {
            cmd,
            version: self.version,
        };
        let mut bytes = vec![0; header.buffer_len()];
        header.emit(&mut bytes);
        Request::new(self.id, &bytes, op, object)
    }

    /// Number of a multicast group of the family, for [`Socket::listen`].
    ///
    /// # Errors
    /// Where this kernel's family has no such group.
    pub fn group(&self, name: &str) -> Result<u32> {
        let found = self.groups.iter().find(|(known, _)| known == name);
        found.map(|(_, id)| *id).ok_or_else(|| {
            let object = format!("{} {name}", self.name);
            crate::Error::invalid("listen", object, "this kernel has no such multicast group")
        })
    }

    /// Creates a generic netlink family with a made-up number, to test requests without a kernel.
    #[doc(hidden)]
    pub fn fake(name: &'static str, id: u16, version: u8) -> Self {
        Self {
            name,
            id,
            version,
            groups: Vec::new(),
        }
    }
}

impl Socket {
    /// Looks up a generic netlink family (`CTRL_CMD_GETFAMILY`, `ctrl_getfamily`).
    ///
    /// # Errors
    /// `ENOENT` where this kernel has no such family.
    #[doc(alias = "CTRL_CMD_GETFAMILY")]
    pub fn family(&mut self, name: &'static str) -> Result<Family> {
        let nlas = vec![GenlCtrlAttrs::FamilyName(name.to_owned())];
        let ask = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas,
        });
        let mut bytes = vec![0; Emitable::buffer_len(&ask)];
        ask.emit(&mut bytes);
        let request = Request::new(ask.message_type(), &bytes, "getfamily", name);
        let answer = self.ask(&request)?;
        let parsed = GenlMessage::<GenlCtrl>::deserialize(&answer.header, answer.payload());
        let parsed = parsed.map_err(|_| {
            request.malformed(ParseError::Answer("the family's description can't be read"))
        })?;
        let mut family = Family {
            name,
            id: 0,
            version: 0,
            groups: Vec::new(),
        };
        for attr in parsed.payload.nlas {
            match attr {
                GenlCtrlAttrs::FamilyId(id) => family.id = id,
                GenlCtrlAttrs::Version(version) => {
                    family.version = u8::try_from(version).unwrap_or_default();
                }
                GenlCtrlAttrs::McastGroups(groups) => {
                    family.groups = groups.iter().filter_map(|group| named(group)).collect();
                }
                _ => {}
            }
        }
        if family.id == 0 {
            return Err(request.malformed(ParseError::Answer("a family without a number")));
        }
        Ok(family)
    }
}

/// Name and number of a multicast group.
fn named(group: &[McastGrpAttrs]) -> Option<(String, u32)> {
    let name = group.iter().find_map(|attr| match attr {
        McastGrpAttrs::Name(name) => Some(name.clone()),
        McastGrpAttrs::Id(_) => None,
    })?;
    let id = group.iter().find_map(|attr| match attr {
        McastGrpAttrs::Id(id) => Some(*id),
        McastGrpAttrs::Name(_) => None,
    })?;
    Some((name, id))
}
