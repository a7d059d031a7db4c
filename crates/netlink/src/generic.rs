//! Generic netlink: families are looked up by name, commands and groups belong to them.

use netlink_packet_core::{Emitable, NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlHeader, GenlMessage};

use crate::{AttrSpec, MessageSpec, ParseError, Request, Result, Socket};

/// How the control family's messages read: `CTRL_ATTR_*`.
const ATTRS: &[AttrSpec] = &[
    AttrSpec::number(1, "family-id"),
    AttrSpec::text(2, "family-name"),
    AttrSpec::number(3, "version"),
];

/// The control family's vocabulary, until the socket speaks another one.
pub(crate) fn message_spec(_: u16, _: u8) -> MessageSpec {
    MessageSpec {
        header: 4,
        attrs: ATTRS,
    }
}

/// A generic netlink family as the running kernel numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    name: &'static str,
    id: u16,
    version: u8,
    groups: Vec<(String, u32)>,
}

impl Family {
    /// The message type of its messages.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// A request with command `cmd`, which errors call `op` on `object`.
    pub fn request(&self, cmd: u8, op: &'static str, object: impl Into<String>) -> Request {
        let header = GenlHeader {
            cmd,
            version: self.version,
        };
        let mut bytes = vec![0; header.buffer_len()];
        header.emit(&mut bytes);
        Request::new(self.id, &bytes, op, object)
    }

    /// The number of one of its multicast groups, to be joined by [`Socket::listen`].
    ///
    /// # Errors
    /// A group that this kernel's family does not have.
    pub fn group(&self, name: &str) -> Result<u32> {
        let found = self.groups.iter().find(|(known, _)| known == name);
        found.map(|(_, id)| *id).ok_or_else(|| {
            let object = format!("{} {name}", self.name);
            crate::Error::invalid("listen", object, "this kernel has no such multicast group")
        })
    }

    /// A family with a made-up number, for tests of what is written with it.
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
    /// Looks a generic netlink family up (`CTRL_CMD_GETFAMILY`, `ctrl_getfamily`).
    ///
    /// # Errors
    /// `ENOENT` where this kernel has no such family.
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

/// A group's name and number.
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
