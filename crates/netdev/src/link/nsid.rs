//! Ids of network namespaces: a number in one namespace that stands for another.

use netlink::{AttrSpec, Attrs, Error, MessageSpec, NetNs, ParseError, Request, Result};

use super::{Link, fd};

/// Attributes: `NETNSA_*`.
mod netnsa {
    pub(super) const NSID: u16 = 1;
    pub(super) const FD: u16 = 3;
}

/// Format of messages about namespace ids.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER.len(),
    attrs: &[
        AttrSpec::signed(netnsa::NSID, "nsid"),
        AttrSpec::number(netnsa::FD, "fd"),
    ],
};

/// Value for no id, and for any (`NETNSA_NSID_NOT_ASSIGNED`).
const NOT_ASSIGNED: i32 = -1;

/// Header: a `struct rtgenmsg` of no address family, padded.
const HEADER: [u8; 4] = [0; 4];

impl Link {
    /// Id of `ns` in this handle's network namespace; `None` where it has none (`rtnl_net_getid`).
    ///
    /// # Errors
    /// `EINVAL` for a file that is not a network namespace.
    #[doc(alias = "RTM_GETNSID")]
    pub fn nsid(&mut self, ns: &NetNs) -> Result<Option<i32>> {
        let mut request = Request::new(libc::RTM_GETNSID, &HEADER, "nsid-get", ns.label());
        request.attrs().put(netnsa::FD, &fd(ns));
        let answer = self.socket.ask(&request)?;
        let nsid = answer
            .split(HEADER.len())
            .and_then(|(_, attrs)| parse(attrs));
        let nsid = nsid.map_err(|e| request.malformed(e))?;
        Ok((nsid != NOT_ASSIGNED).then_some(nsid))
    }

    /// Assigns an id to `ns` in this handle's network namespace and returns it; `None` lets the
    /// kernel choose (`rtnl_net_newid`). An id can't be removed.
    ///
    /// # Errors
    /// `EEXIST` where `ns` has an id, or where the id is taken.
    #[doc(alias = "RTM_NEWNSID")]
    pub fn set_nsid(&mut self, ns: &NetNs, nsid: Option<i32>) -> Result<i32> {
        self.socket.tell(&new(ns, nsid))?;
        let given = self.nsid(ns)?;
        given.ok_or_else(|| Error::invalid("nsid-new", ns.label(), "no number was given"))
    }

    /// Id of `ns` in this handle's network namespace. Where it has none the kernel chooses one.
    ///
    /// # Errors
    /// As for [`Link::nsid`] and [`Link::set_nsid`].
    pub fn nsid_or_assign(&mut self, ns: &NetNs) -> Result<i32> {
        match self.nsid(ns)? {
            Some(nsid) => Ok(nsid),
            None => self.set_nsid(ns, None),
        }
    }
}

pub(super) fn new(ns: &NetNs, nsid: Option<i32>) -> Request {
    let mut request = Request::new(libc::RTM_NEWNSID, &HEADER, "nsid-new", ns.label());
    let attrs = request
        .attrs()
        .i32(netnsa::NSID, nsid.unwrap_or(NOT_ASSIGNED));
    attrs.put(netnsa::FD, &fd(ns));
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
