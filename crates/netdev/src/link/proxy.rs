//! Proxy entries: addresses of others that a link answers for.

use std::net::IpAddr;

use netlink::{Attrs, Request, Result};
use serde::Serialize;

use super::Link;
use super::addr::{family, family_byte, octets, parse_ip};
use crate::parse::{Parsed, required};
use crate::{Ifindex, ParseError};

/// Netlink attribute with a neighbour's address: `NDA_DST`.
const DST: u16 = 1;

/// Flag of a proxy entry among neighbours: `NTF_PROXY`.
const PROXY: u8 = 0x08;

/// Length of a `struct ndmsg`.
const HEADER: usize = 12;

/// Proxy entry: an address of another host that a link answers for (`pneigh_fill_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proxy {
    /// Number of the link that answers.
    pub ifindex: Ifindex,
    /// Address of another host that the link answers for.
    pub addr: IpAddr,
}

impl Proxy {
    pub(super) fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Self> {
        let &[_, _, _, _, i0, i1, i2, i3, ..] = header else {
            return Err(ParseError::Header { left: header.len() });
        };
        let mut addr = None;
        for attr in attrs {
            let attr = attr?;
            if attr.kind() == DST {
                addr = Some(parse_ip(&attr)?);
            }
        }
        Ok(Self {
            ifindex: Ifindex::new(u32::from_ne_bytes([i0, i1, i2, i3])),
            addr: required(addr, DST)?,
        })
    }
}

impl Link {
    /// Adds a proxy entry, so that the link answers ARP or neighbour solicitations for `addr`: `ip
    /// neigh add proxy` (`pneigh_create`). Succeeds if the entry exists.
    ///
    /// Answers are sent only where the link forwards packets (`arp_process`), for IPv6 also only
    /// with the link's sysctl `proxy_ndp` (`ndisc_recv_ns`). They are sent after a random delay of
    /// at most the sysctl `proxy_delay`.
    ///
    /// # Errors
    /// `ENODEV` without such a link.
    #[doc(alias = "NTF_PROXY")]
    #[doc(alias = "RTM_NEWNEIGH")]
    pub fn add_proxy(&mut self, ifindex: Ifindex, addr: IpAddr) -> Result<()> {
        let object = format!("{} {addr}", self.device(ifindex));
        let request = proxy(libc::RTM_NEWNEIGH, "neigh-add proxy", ifindex, addr, object);
        self.socket.tell(&request.flags(libc::NLM_F_CREATE))
    }

    /// Deletes a proxy entry (`pneigh_delete`).
    ///
    /// # Errors
    /// `ENOENT` where no such entry exists.
    #[doc(alias = "NTF_PROXY")]
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn delete_proxy(&mut self, ifindex: Ifindex, addr: IpAddr) -> Result<()> {
        let object = format!("{} {addr}", self.device(ifindex));
        let request = proxy(
            libc::RTM_DELNEIGH,
            "neigh-delete proxy",
            ifindex,
            addr,
            object,
        );
        self.socket.tell(&request)
    }

    /// Lists all proxy entries (`pneigh_dump_table`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "NTF_PROXY")]
    #[doc(alias = "RTM_GETNEIGH")]
    pub fn proxies(&mut self) -> Result<Vec<Proxy>> {
        let header = header(libc::AF_UNSPEC, 0);
        let request = Request::new(libc::RTM_GETNEIGH, &header, "neigh-get proxy", "");
        self.dump(&request, HEADER, Proxy::parse)
    }
}

pub(super) fn proxy(
    kind: u16,
    op: &'static str,
    ifindex: Ifindex,
    addr: IpAddr,
    object: String,
) -> Request {
    let mut request = Request::new(kind, &header(family(addr), ifindex.get()), op, object);
    request.attrs().put(DST, &octets(addr));
    request
}

/// Encodes a `struct ndmsg`: family, padding, ifindex, state, flags, type.
fn header(family: libc::c_int, ifindex: u32) -> [u8; HEADER] {
    let [i0, i1, i2, i3] = ifindex.to_ne_bytes();
    [family_byte(family), 0, 0, 0, i0, i1, i2, i3, 0, 0, PROXY, 0]
}
