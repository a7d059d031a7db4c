//! Notifications about links.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink::{Attrs, Error, Listener, Message, Result};
use serde::Serialize;

use super::{IfInfo, Link, LinkInfo, ifla};
use crate::parse::{Parsed, required};
use crate::{Ifindex, NsId, ParseError};

/// Multicast group of notifications about links: `RTNLGRP_LINK`.
const GROUP: u32 = 1;

impl Link {
    /// Listens for changes of the links in this handle's network namespace. The handle becomes the
    /// listener's. Needs no privilege.
    ///
    /// # Errors
    /// Those of `NETLINK_ADD_MEMBERSHIP`.
    #[doc(alias = "RTNLGRP_LINK")]
    pub fn events(self) -> Result<LinkEvents> {
        Ok(LinkEvents {
            listener: self.socket.listen(&[GROUP])?,
        })
    }
}

/// A listener for changes of links in a network namespace.
#[derive(Debug)]
pub struct LinkEvents {
    listener: Listener,
}

impl LinkEvents {
    /// Waits for the next event about a link until `deadline`, or without limit if there is none.
    /// `None` means that the deadline has passed.
    ///
    /// # Errors
    /// [`Error::is_overrun`] where events were lost.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<LinkEvent>> {
        while let Some(message) = self.listener.next(deadline)? {
            let event = LinkEvent::of(&message);
            if let Some(event) = event.map_err(|e| Error::malformed("listen", "links", e))? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A change of a link, as the kernel notified of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LinkEvent {
    /// The link appeared or changed (`rtmsg_ifinfo` with `RTM_NEWLINK`).
    Changed(Box<LinkInfo>),
    /// The link was deleted (`unregister_netdevice_many_notify`).
    Deleted {
        /// Number of the link in this namespace.
        ifindex: Ifindex,
        /// Name of the link.
        name: String,
    },
    /// The link was moved to another network namespace (`__dev_change_net_namespace`).
    Moved {
        /// Number of the link in this namespace.
        ifindex: Ifindex,
        /// Name of the link.
        name: String,
        /// Id of the namespace that the link was moved to, in the namespace that it left.
        to: NsId,
        /// Number of the link in the namespace that it was moved to; `None` where it stays the
        /// same.
        new_ifindex: Option<Ifindex>,
    },
}

impl LinkEvent {
    /// Parses a notification about a link. `None` if it is not about a link itself: a port that
    /// leaves a bridge is reported as `RTM_DELLINK`, too, in the family `AF_BRIDGE`.
    fn of(message: &Message) -> Parsed<Option<Self>> {
        let (header, attrs) = message.split(IfInfo::LEN)?;
        Self::parse(message.kind(), header, attrs)
    }

    pub(super) fn parse(kind: u16, header: &[u8], attrs: Attrs<'_>) -> Parsed<Option<Self>> {
        let unspec = u8::try_from(libc::AF_UNSPEC).unwrap_or_default();
        if header.first() != Some(&unspec) {
            return Ok(None);
        }
        match kind {
            libc::RTM_NEWLINK => {
                let link = LinkInfo::parse(header, attrs)?;
                Ok(Some(Self::Changed(Box::new(link))))
            }
            libc::RTM_DELLINK => Self::parse_end_of_link(header, attrs).map(Some),
            _ => Ok(None),
        }
    }

    /// Parses `RTM_DELLINK`: the link was deleted, unless the message says where it was moved.
    fn parse_end_of_link(header: &[u8], attrs: Attrs<'_>) -> Parsed<Self> {
        let ifindex = header.get(4..8).and_then(|bytes| bytes.try_into().ok());
        let ifindex = ifindex.ok_or(ParseError::Header { left: header.len() })?;
        let ifindex = Ifindex::new(u32::from_ne_bytes(ifindex));
        let (mut name, mut to, mut new_ifindex) = (None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                ifla::IFNAME => name = Some(attr.lossy_str()?),
                ifla::NEW_NETNSID => to = Some(NsId::new(attr.i32()?)),
                ifla::NEW_IFINDEX => new_ifindex = Some(Ifindex::new(attr.u32()?)),
                _ => {}
            }
        }
        let name = required(name, ifla::IFNAME)?;
        Ok(match to {
            None => Self::Deleted { ifindex, name },
            Some(to) => Self::Moved {
                ifindex,
                name,
                to,
                new_ifindex,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use netlink::Writer;
    use proptest::prelude::*;

    use super::*;

    fn header(family: u8, ifindex: u32) -> Vec<u8> {
        let mut header = IfInfo::of(Ifindex::new(ifindex)).encode();
        header[0] = family;
        header.to_vec()
    }

    fn parse(kind: u16, family: u8, attrs: &Writer) -> Parsed<Option<LinkEvent>> {
        LinkEvent::parse(kind, &header(family, 7), Attrs::new(attrs.bytes()))
    }

    fn named() -> Writer {
        let mut attrs = Writer::new();
        attrs.str(ifla::IFNAME, "eth1");
        attrs
    }

    #[test]
    fn a_deletion_and_a_move_are_distinguished() {
        let ifindex = Ifindex::new(7);
        let name = "eth1".to_owned();
        let mut attrs = named();
        let end = parse(libc::RTM_DELLINK, 0, &attrs).unwrap();
        assert_eq!(
            end,
            Some(LinkEvent::Deleted {
                ifindex,
                name: name.clone()
            })
        );
        attrs.i32(ifla::NEW_NETNSID, 3).u32(ifla::NEW_IFINDEX, 9);
        let moved = parse(libc::RTM_DELLINK, 0, &attrs).unwrap();
        let new_ifindex = Some(Ifindex::new(9));
        assert_eq!(
            moved,
            Some(LinkEvent::Moved {
                ifindex,
                name,
                to: NsId::new(3),
                new_ifindex
            })
        );
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_a_deleted_link() {
        let bridge = u8::try_from(libc::AF_BRIDGE).unwrap();
        assert_eq!(parse(libc::RTM_DELLINK, bridge, &named()), Ok(None));
    }

    #[test]
    fn other_messages_of_the_group_are_passed_over() {
        assert_eq!(parse(libc::RTM_NEWADDR, 0, &named()), Ok(None));
        assert!(matches!(
            parse(libc::RTM_NEWLINK, 0, &named()),
            Ok(Some(LinkEvent::Changed(link))) if link.name == "eth1"
        ));
        assert!(parse(libc::RTM_DELLINK, 0, &Writer::new()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_parsed_or_refused(kind in 0u16..40, header in prop::collection::vec(any::<u8>(), 0..20), attrs in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = LinkEvent::parse(kind, &header, Attrs::new(&attrs));
        }
    }
}
