//! Routes.

use std::net::IpAddr;

use netlink::{Request, Result};

use super::Link;
use super::addr::{family, family_byte, octets};
use crate::{Ifindex, Prefix};

/// Attributes: `RTA_*`.
mod rta {
    pub(super) const DST: u16 = 1;
    pub(super) const OIF: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const PREFSRC: u16 = 7;
    pub(super) const TABLE: u16 = 15;
}

/// A unicast route: `ip route add 10.0.1.0/24 via 10.0.0.2 dev eth0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to; a length of 0 is the default route.
    pub dst: Prefix,
    /// Over which router, of the same family; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Through which link; the kernel finds it by the router otherwise.
    pub oif: Option<Ifindex>,
    /// From which address, unless the socket has another one.
    pub src: Option<IpAddr>,
    /// In which table; `None` is the main one.
    pub table: Option<u32>,
}

impl Route {
    /// A route to what is on the link `oif`.
    pub fn on_link(dst: Prefix, oif: Ifindex) -> Self {
        Self {
            dst,
            via: None,
            oif: Some(oif),
            src: None,
            table: None,
        }
    }

    /// A route over the router `via`.
    pub fn over(dst: Prefix, via: IpAddr) -> Self {
        Self {
            dst,
            via: Some(via),
            oif: None,
            src: None,
            table: None,
        }
    }

    pub(super) fn encode(&self, kind: u16, op: &'static str) -> Request {
        // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope,
        // type, flags.
        let v4 = self.dst.addr.is_ipv4();
        let deleting = kind == libc::RTM_DELROUTE;
        let scope = match (v4, self.via) {
            _ if deleting => libc::RT_SCOPE_NOWHERE,
            (true, None) => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let family = family_byte(family(self.dst.addr));
        let protocol = if deleting { 0 } else { libc::RTPROT_STATIC };
        let len = self.dst.len;
        let mut header = [0; 12];
        let fields = [
            family,
            len,
            0,
            0,
            libc::RT_TABLE_MAIN,
            protocol,
            scope,
            libc::RTN_UNICAST,
        ];
        for (to, from) in header.iter_mut().zip(fields) {
            *to = from;
        }
        let mut request = Request::new(kind, &header, op, self.dst.to_string());
        let attrs = request.attrs();
        if len != 0 {
            attrs.put(rta::DST, &octets(self.dst.addr));
        }
        if let Some(via) = self.via {
            attrs.put(rta::GATEWAY, &octets(via));
        }
        if let Some(oif) = self.oif {
            attrs.u32(rta::OIF, oif.get());
        }
        if let Some(src) = self.src {
            attrs.put(rta::PREFSRC, &octets(src));
        }
        if let Some(table) = self.table {
            attrs.u32(rta::TABLE, table);
        }
        request
    }
}

impl Link {
    /// Adds a route (`inet_rtm_newroute`, `inet6_rtm_newroute`).
    ///
    /// # Errors
    /// `EEXIST` where there is one like it, `ENETUNREACH` for a router that can't be reached,
    /// `ENETDOWN` for a link that is down.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let request = route.encode(libc::RTM_NEWROUTE, "route-add");
        if [route.via, route.src]
            .into_iter()
            .flatten()
            .any(|addr| addr.is_ipv4() != route.dst.addr.is_ipv4())
        {
            return Err(request.invalid("an address of another family than the destination's"));
        }
        self.socket
            .tell(&request.flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL))
    }

    /// Removes a route (`inet_rtm_delroute`, `inet6_rtm_delroute`).
    ///
    /// # Errors
    /// `ESRCH` where there is none like it.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.socket
            .tell(&route.encode(libc::RTM_DELROUTE, "route-delete"))
    }
}
