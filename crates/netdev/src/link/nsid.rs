//! Ids of network namespaces: a number in one namespace that stands for another.

use netlink::{Attrs, Error, MessageSpec, NetNs, ParseError, Request, Result, SeenNetNs};

use super::{Link, LinkInfo, fd_payload};
use crate::parse::attributes;
use crate::{Ifindex, NsId};

attributes! {
    /// Attributes: `NETNSA_*`.
    mod netnsa {
        NSID = 1, signed("nsid");
        FD = 3, number("fd");
    }
}

/// Netlink format of messages about namespace ids.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER.len(),
    attrs: netnsa::ALL,
};

/// Value for a namespace without an id, and for any id (`NETNSA_NSID_NOT_ASSIGNED`).
const NOT_ASSIGNED: i32 = -1;

/// Header of messages about namespace ids: a `struct rtgenmsg` of no address family, padded.
const HEADER: [u8; 4] = [0; 4];

impl Link {
    /// Id of the namespace `ns` in this handle's network namespace; `None` where it has none
    /// (`rtnl_net_getid`).
    ///
    /// # Errors
    /// `EINVAL` for a file that is not a network namespace.
    #[doc(alias = "RTM_GETNSID")]
    pub fn nsid(&mut self, ns: &NetNs) -> Result<Option<NsId>> {
        let mut request = Request::new(libc::RTM_GETNSID, &HEADER, "nsid-get", ns.label());
        request.attrs().put(netnsa::FD, &fd_payload(ns));
        let answer = self.socket.ask(&request)?;
        let nsid = answer
            .split(HEADER.len())
            .and_then(|(_, attrs)| parse(attrs));
        let nsid = nsid.map_err(|e| request.malformed(e))?;
        Ok((nsid != NOT_ASSIGNED).then_some(NsId::new(nsid)))
    }

    /// Assigns an id to the namespace `ns` in this handle's network namespace and returns it;
    /// `None` lets the kernel choose (`rtnl_net_newid`). An id can't be removed.
    ///
    /// # Errors
    /// `EEXIST` where `ns` has an id, or where the id is taken.
    #[doc(alias = "RTM_NEWNSID")]
    pub fn set_nsid(&mut self, ns: &NetNs, nsid: Option<NsId>) -> Result<NsId> {
        self.socket.tell(&new(ns, nsid))?;
        let given = self.nsid(ns)?;
        given.ok_or_else(|| Error::invalid("nsid-new", ns.label(), "no number was given"))
    }

    /// Id of the namespace `ns` in this handle's network namespace. Where it has none the kernel
    /// chooses one.
    ///
    /// # Errors
    /// As for [`Link::nsid`] and [`Link::set_nsid`].
    pub fn nsid_or_assign(&mut self, ns: &NetNs) -> Result<NsId> {
        match self.nsid(ns)? {
            Some(nsid) => Ok(nsid),
            None => self.set_nsid(ns, None),
        }
    }

    /// Finds, among the given namespaces, the one with this id in this handle's namespace; `None`
    /// if none of them has it. Namespaces that have ended or can't be entered are passed over.
    ///
    /// # Errors
    /// As for [`Link::nsid`].
    pub fn find_namespace<'a>(
        &mut self,
        id: NsId,
        among: impl IntoIterator<Item = &'a SeenNetNs>,
    ) -> Result<Option<NetNs>> {
        for seen in among {
            let Ok(ns) = seen.open() else { continue };
            if self.nsid(&ns)? == Some(id) {
                return Ok(Some(ns));
            }
        }
        Ok(None)
    }

    /// Finds the device that the link `link` is tied to, of a netkit pair the other end: its
    /// namespace and number. `None` if there is none, or if its namespace can't be seen. This
    /// handle is in `here`, the namespace of `link`.
    ///
    /// # Errors
    /// As for [`Link::nsid`] and [`NetNs::visible`].
    pub fn other_end(&mut self, here: &NetNs, link: &LinkInfo) -> Result<Option<(NetNs, Ifindex)>> {
        let Some(other) = link.link else {
            return Ok(None);
        };
        let netns = match link.link_netns_id {
            None => Some(here.clone()),
            Some(id) => self.find_namespace(id, &NetNs::visible()?.namespaces)?,
        };
        Ok(netns.map(|netns| (netns, other)))
    }
}

pub(super) fn new(ns: &NetNs, nsid: Option<NsId>) -> Request {
    let mut request = Request::new(libc::RTM_NEWNSID, &HEADER, "nsid-new", ns.label());
    let attrs = request
        .attrs()
        .i32(netnsa::NSID, nsid.map_or(NOT_ASSIGNED, NsId::get));
    attrs.put(netnsa::FD, &fd_payload(ns));
    request
}

pub(super) fn parse(attrs: Attrs<'_>) -> crate::parse::Parsed<i32> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind() == netnsa::NSID {
            return attr.i32();
        }
    }
    Err(ParseError::Missing { kind: netnsa::NSID })
}
