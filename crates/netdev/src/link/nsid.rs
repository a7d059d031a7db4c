//! Numbers by which one network namespace knows another.

use netlink::{AttrSpec, Attrs, Error, MessageSpec, NetNs, ParseError, Request, Result};

use super::{Link, fd};

/// Attributes: `NETNSA_*`.
mod netnsa {
    pub(super) const NSID: u16 = 1;
    pub(super) const FD: u16 = 3;
}

/// How they read.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER.len(),
    attrs: &[
        AttrSpec::signed(netnsa::NSID, "nsid"),
        AttrSpec::number(netnsa::FD, "fd"),
    ],
};

/// What stands for no number, and for any (`NETNSA_NSID_NOT_ASSIGNED`).
const NOT_ASSIGNED: i32 = -1;

/// A `struct rtgenmsg` of no address family, padded.
const HEADER: [u8; 4] = [0; 4];

impl Link {
    /// The number by which this handle's network namespace knows `ns`; `None` where it knows it
    /// not (`rtnl_net_getid`).
    ///
    /// # Errors
    /// `EINVAL` for a file that is no network namespace.
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

    /// Gives `ns` a number in this handle's network namespace, or lets the kernel choose one, and
    /// returns it (`rtnl_net_newid`). It can't be taken back.
    ///
    /// # Errors
    /// `EEXIST` where it has one, or where the number is taken.
    pub fn set_nsid(&mut self, ns: &NetNs, nsid: Option<i32>) -> Result<i32> {
        self.socket.tell(&new(ns, nsid))?;
        let given = self.nsid(ns)?;
        given.ok_or_else(|| Error::invalid("nsid-new", ns.label(), "no number was given"))
    }

    /// The number by which this handle's network namespace knows `ns`, after the kernel has chosen
    /// one if it must.
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
