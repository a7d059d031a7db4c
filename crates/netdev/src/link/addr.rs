//! IP addresses of links, and permanent neighbours.

use std::net::IpAddr;

use netlink::{Attr, Attrs, MessageSpec, Request, Result};
use serde::Serialize;

use super::Link;
use crate::parse::{Parsed, attributes, required};
use crate::{Ifindex, MacAddr, ParseError, Prefix};

attributes! {
    /// Attributes of an address: `IFA_*`.
    mod ifa {
        ADDRESS = 1, address("address");
        LOCAL = 2, address("local");
        FLAGS = 8, number("flags");
    }
}

attributes! {
    /// Attributes of a neighbour: `NDA_*`.
    mod nda {
        DST = 1, address("dst");
        LLADDR = 2, address("lladdr");
    }
}

/// Netlink format of messages about IP addresses.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER,
    attrs: ifa::ALL,
};

/// Netlink format of messages about neighbours.
pub(super) const NEIGHBOUR_MESSAGE: MessageSpec = MessageSpec {
    header: 12,
    attrs: nda::ALL,
};

/// Length of a `struct ifaddrmsg`.
const HEADER: usize = 8;

/// Options for adding an IP address to a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// Whether to use an IPv6 address at once, without duplicate address detection (`IFA_F_NODAD`).
    #[doc(alias = "IFA_F_NODAD")]
    pub nodad: bool,
}

/// IP address of a link (`inet_fill_ifaddr`, `inet6_fill_ifaddr`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Address {
    /// Number of the link that has the address.
    pub ifindex: Ifindex,
    /// IP address, and the prefix length of its network.
    pub prefix: Prefix,
    /// Scope of the address (`RT_SCOPE_*`): 0 everywhere, 253 on the link, 254 on this host.
    pub scope: u8,
    /// Flags of the address: bits `IFA_F_*`.
    pub flags: u32,
}

impl Address {
    /// Whether the address can't be used yet, because duplicate address detection goes on.
    #[doc(alias = "IFA_F_TENTATIVE")]
    pub fn is_tentative(&self) -> bool {
        self.flags & libc::IFA_F_TENTATIVE != 0
    }

    pub(super) fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Self> {
        let &[_, len, flags, scope, i0, i1, i2, i3] = header else {
            return Err(ParseError::Header { left: header.len() });
        };
        let ifindex = Ifindex::new(u32::from_ne_bytes([i0, i1, i2, i3]));
        let (mut address, mut local, mut flags) = (None, None, u32::from(flags));
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                ifa::ADDRESS => address = Some(parse_ip(&attr)?),
                ifa::LOCAL => local = Some(parse_ip(&attr)?),
                ifa::FLAGS => flags = attr.u32()?,
                _ => {}
            }
        }
        // On a point-to-point link, IFA_ADDRESS is the peer's.
        let addr = required(local.or(address), ifa::ADDRESS)?;
        Ok(Self {
            ifindex,
            prefix: Prefix { addr, len },
            scope,
            flags,
        })
    }
}

impl Link {
    /// Lists the IP addresses of one link or of all (`inet_dump_ifaddr`, `inet6_dump_ifaddr`).
    ///
    /// # Errors
    /// `ENODEV` without such a link.
    #[doc(alias = "RTM_GETADDR")]
    pub fn addresses(&mut self, of: Option<Ifindex>) -> Result<Vec<Address>> {
        let object = of.map(|ifindex| self.device(ifindex)).unwrap_or_default();
        let index = of.map_or(0, Ifindex::get);
        let header = header(libc::AF_UNSPEC, 0, index);
        let request = Request::new(libc::RTM_GETADDR, &header, "addr-get", object);
        self.dump(&request, HEADER, Address::parse)
    }

    /// Adds an IP address to a link (`inet_rtm_newaddr`, `inet6_rtm_newaddr`).
    ///
    /// # Errors
    /// `EEXIST` where the link has the address.
    #[doc(alias = "RTM_NEWADDR")]
    pub fn add_address(
        &mut self,
        ifindex: Ifindex,
        prefix: Prefix,
        options: AddressOptions,
    ) -> Result<()> {
        let object = format!("{} {prefix}", self.device(ifindex));
        self.socket.tell(&add(ifindex, prefix, options, object))
    }

    /// Removes an IP address from a link (`inet_rtm_deladdr`, `inet6_rtm_deladdr`).
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` where the link does not have the address.
    #[doc(alias = "RTM_DELADDR")]
    pub fn delete_address(&mut self, ifindex: Ifindex, prefix: Prefix) -> Result<()> {
        let object = format!("{} {prefix}", self.device(ifindex));
        let header = header(family(prefix.addr), prefix.len, ifindex.get());
        let mut request = Request::new(libc::RTM_DELADDR, &header, "addr-delete", object);
        request.attrs().put(ifa::LOCAL, &octets(prefix.addr));
        self.socket.tell(&request)
    }

    /// Adds or replaces a permanent neighbour entry, so that the neighbour is not asked for its
    /// Ethernet address (`neigh_add`).
    ///
    /// # Errors
    /// `EINVAL` for a link without Ethernet addresses.
    #[doc(alias = "RTM_NEWNEIGH")]
    pub fn add_neighbour(&mut self, ifindex: Ifindex, addr: IpAddr, mac: MacAddr) -> Result<()> {
        let object = format!("{} {addr}", self.device(ifindex));
        self.socket.tell(&neighbour(ifindex, addr, mac, object))
    }
}

pub(super) fn add(
    ifindex: Ifindex,
    prefix: Prefix,
    options: AddressOptions,
    object: String,
) -> Request {
    let header = header(family(prefix.addr), prefix.len, ifindex.get());
    let mut request = Request::new(libc::RTM_NEWADDR, &header, "addr-add", object)
        .flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    let octets = octets(prefix.addr);
    request
        .attrs()
        .put(ifa::LOCAL, &octets)
        .put(ifa::ADDRESS, &octets);
    if options.nodad {
        request.attrs().u32(ifa::FLAGS, libc::IFA_F_NODAD);
    }
    request
}

pub(super) fn neighbour(ifindex: Ifindex, addr: IpAddr, mac: MacAddr, object: String) -> Request {
    // struct ndmsg: family, padding, ifindex, state, flags, type.
    let [i0, i1, i2, i3] = ifindex.get().to_ne_bytes();
    let [s0, s1] = libc::NUD_PERMANENT.to_ne_bytes();
    let header = [
        family_byte(family(addr)),
        0,
        0,
        0,
        i0,
        i1,
        i2,
        i3,
        s0,
        s1,
        0,
        0,
    ];
    let mut request = Request::new(libc::RTM_NEWNEIGH, &header, "neigh-add", object)
        .flags(libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
    request
        .attrs()
        .put(nda::DST, &octets(addr))
        .put(nda::LLADDR, &mac.0);
    request
}

/// Encodes a `struct ifaddrmsg` of an address with scope 0 (everywhere).
fn header(family: libc::c_int, len: u8, ifindex: u32) -> [u8; HEADER] {
    let [i0, i1, i2, i3] = ifindex.to_ne_bytes();
    [family_byte(family), len, 0, 0, i0, i1, i2, i3]
}

/// Address family of an IP address.
pub(super) fn family(addr: IpAddr) -> libc::c_int {
    if addr.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// Address family as the byte that rtnetlink's headers have.
pub(super) fn family_byte(family: libc::c_int) -> u8 {
    u8::try_from(family).unwrap_or(0)
}

/// Bytes of an IP address in network byte order.
pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Parses an IPv4 or IPv6 address.
pub(super) fn parse_ip(attr: &Attr<'_>) -> Parsed<IpAddr> {
    let v4 = attr.array::<4>().map(IpAddr::from);
    v4.or_else(|_| attr.array::<16>().map(IpAddr::from))
}
