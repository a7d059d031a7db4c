//! IPv4 and IPv6 routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::{Attrs, MessageSpec, Request, Result};
use serde::Serialize;

use super::Link;
use super::addr::{family, family_byte, octets, parse_ip};
use crate::parse::{Parsed, attributes};
use crate::{Ifindex, ParseError, Prefix};

attributes! {
    /// Attributes: `RTA_*`.
    mod rta {
        DST = 1, address("dst");
        OIF = 4, number("oif");
        GATEWAY = 5, address("gateway");
        PRIORITY = 6, number("priority");
        PREFSRC = 7, address("prefsrc");
        TABLE = 15, number("table");
    }
}

/// Netlink format of messages about routes.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER,
    attrs: rta::ALL,
};

/// Length of a `struct rtmsg`.
const HEADER: usize = 12;

/// A unicast route: `ip route add 10.0.1.0/24 via 10.0.0.2 dev eth0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network of the route; a length of 0 is the default route.
    pub dst: Prefix,
    /// Next router, of the same address family; `None` means that the destination is on the link.
    pub via: Option<IpAddr>,
    /// Outgoing link; without one the kernel finds it by the router.
    pub oif: Option<Ifindex>,
    /// Source address of packets whose socket has none.
    pub src: Option<IpAddr>,
    /// Routing table; `None` is the main one.
    pub table: Option<u32>,
}

impl Route {
    /// Creates a route to a destination on the link `oif`.
    pub fn on_link(dst: Prefix, oif: Ifindex) -> Self {
        Self {
            dst,
            via: None,
            oif: Some(oif),
            src: None,
            table: None,
        }
    }

    /// Creates a route over the router `via`.
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
        let mut header = [0; HEADER];
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

/// An existing route, as the kernel lists it (`fib_dump_info`, `rt6_fill_node`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RouteInfo {
    /// Destination network of the route; a length of 0 is the default route.
    pub dst: Prefix,
    /// Next router; `None` also for a route with several next hops.
    pub via: Option<IpAddr>,
    /// Outgoing link of the route; `None` also for a route with several next hops.
    pub oif: Option<Ifindex>,
    /// Source address of packets whose socket has none.
    pub src: Option<IpAddr>,
    /// Routing table: 254 is the main one, 255 that of the host's own addresses.
    pub table: u32,
    /// Origin of the route (`RTPROT_*`): 2 the kernel, 4 an administrator, 9 a router's
    /// advertisement.
    pub protocol: u8,
    /// Type of the route (`RTN_*`): 1 unicast, 2 an address of this host.
    pub kind: u8,
    /// Metric of the route: of several routes to one destination the one with the lowest metric is
    /// used.
    pub priority: Option<u32>,
}

impl RouteInfo {
    /// Parses a route; `None` for families other than IPv4 and IPv6.
    pub(super) fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Option<Self>> {
        let &[family, len, _, _, table, protocol, _, kind, ..] = header else {
            return Err(ParseError::Header { left: header.len() });
        };
        let any: IpAddr = match libc::c_int::from(family) {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return Ok(None),
        };
        let mut route = Self {
            dst: Prefix { addr: any, len },
            via: None,
            oif: None,
            src: None,
            table: table.into(),
            protocol,
            kind,
            priority: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                rta::DST => route.dst.addr = parse_ip(&attr)?,
                rta::GATEWAY => route.via = Some(parse_ip(&attr)?),
                rta::OIF => route.oif = Some(Ifindex::new(attr.u32()?)),
                rta::PREFSRC => route.src = Some(parse_ip(&attr)?),
                rta::TABLE => route.table = attr.u32()?,
                rta::PRIORITY => route.priority = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(Some(route))
    }
}

impl Link {
    /// Lists all IPv4 and IPv6 routes, of all tables (`inet_dump_fib`, `inet6_dump_fib`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes(&mut self) -> Result<Vec<RouteInfo>> {
        let request = Request::new(libc::RTM_GETROUTE, &[0; HEADER], "route-get", "");
        let routes = self.dump(&request, HEADER, RouteInfo::parse)?;
        Ok(routes.into_iter().flatten().collect())
    }

    /// Adds a route (`inet_rtm_newroute`, `inet6_rtm_newroute`).
    ///
    /// # Errors
    /// `EEXIST` where such a route exists, `ENETUNREACH` for a router that can't be reached,
    /// `ENETDOWN` for a link that is down.
    #[doc(alias = "RTM_NEWROUTE")]
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

    /// Deletes a route (`inet_rtm_delroute`, `inet6_rtm_delroute`).
    ///
    /// # Errors
    /// `ESRCH` where no such route exists.
    #[doc(alias = "RTM_DELROUTE")]
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.socket
            .tell(&route.encode(libc::RTM_DELROUTE, "route-delete"))
    }
}
