//! rtnetlink: links, their addresses, routes and namespaces.

mod addr;
mod events;
mod info;
mod netkit;
mod nsid;
mod proxy;
mod route;
mod rule;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, AsRawFd};

use netlink::{Attrs, Error, MessageSpec, NetNs, Request, Result, Socket};

pub use addr::{Address, AddressOptions};
pub use events::{LinkEvent, LinkEvents};
pub use info::{LinkInfo, Xdp, XdpMode};
pub use netkit::{
    NetkitEnds, NetkitInfo, NetkitMode, NetkitPair, NetkitPolicy, NetkitScrub, NetkitSingle,
    Pairing,
};
pub use proxy::Proxy;
pub use route::{Route, RouteInfo};
pub use rule::{Rule, RuleAction};

use crate::parse::{Parsed, attributes};
use crate::{Ifindex, sys};

attributes! {
    /// Attributes of a link: `IFLA_*`.
    mod ifla {
        ADDRESS = 1, address("address");
        IFNAME = 3, text("ifname");
        MTU = 4, number("mtu");
        LINK = 5, number("link");
        MASTER = 10, number("master");
        LINKINFO = 18, nest("linkinfo", info_attr::ALL);
        NET_NS_FD = 28, number("net-ns-fd");
        NUM_TX_QUEUES = 31, number("num-tx-queues");
        NUM_RX_QUEUES = 32, number("num-rx-queues");
        LINK_NETNSID = 37, signed("link-netnsid");
        PHYS_PORT_NAME = 38, text("phys-port-name");
        XDP = 43, bytes("xdp");
        NEW_NETNSID = 45, signed("new-netnsid");
        NEW_IFINDEX = 49, number("new-ifindex");
        MIN_MTU = 50, number("min-mtu");
        MAX_MTU = 51, number("max-mtu");
        PROP_LIST = 52, bytes("prop-list");
        ALT_IFNAME = 53, text("alt-ifname");
        PERM_ADDRESS = 54, address("perm-address");
        PARENT_DEV_NAME = 56, text("parent-dev-name");
        PARENT_DEV_BUS_NAME = 57, text("parent-dev-bus-name");
    }
}

attributes! {
    /// Attributes of a link's kind: `IFLA_INFO_*`. Netkit is the only kind that is made here.
    mod info_attr {
        KIND = 1, text("kind");
        DATA = 2, nest("data", netkit::attr::ALL);
    }
}

/// Netlink format of messages about links.
const MESSAGE: MessageSpec = MessageSpec {
    header: IfInfo::LEN,
    attrs: ifla::ALL,
};

/// Format of the requests and answers of each message type.
fn message_spec(kind: u16, _: u8) -> MessageSpec {
    match kind {
        libc::RTM_NEWADDR..=libc::RTM_GETADDR => addr::MESSAGE,
        libc::RTM_NEWROUTE..=libc::RTM_GETROUTE => route::MESSAGE,
        libc::RTM_NEWNEIGH..=libc::RTM_GETNEIGH => addr::NEIGHBOUR_MESSAGE,
        libc::RTM_NEWRULE..=libc::RTM_GETRULE => rule::MESSAGE,
        libc::RTM_NEWNSID..=libc::RTM_GETNSID => nsid::MESSAGE,
        _ => MESSAGE,
    }
}

/// `struct ifinfomsg`, which each message about a link begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct IfInfo {
    index: i32,
    flags: u32,
    change: u32,
}

impl IfInfo {
    const LEN: usize = 16;

    fn of(ifindex: Ifindex) -> Self {
        // The kernel refuses negative numbers; 0 would mean "by name".
        Self {
            index: i32::try_from(ifindex.get()).unwrap_or(-1),
            ..Self::default()
        }
    }

    fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields = [[0; 4], self.index.to_ne_bytes(), self.flags.to_ne_bytes()];
        let fields = fields
            .into_iter()
            .chain([self.change.to_ne_bytes()])
            .flatten();
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }
}

/// Handle to rtnetlink: links, netkit, addresses, routes, ids of namespaces.
///
/// The handle acts in the network namespace in which it was opened. Changes need `CAP_NET_ADMIN`
/// there.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
}

impl Link {
    /// Opens an rtnetlink handle in the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of a socket.
    pub fn open() -> Result<Self> {
        Ok(Self::over(Socket::route()?))
    }

    /// Opens an rtnetlink handle in the network namespace `ns`.
    ///
    /// # Errors
    /// As for [`Link::open`] and [`NetNs::run`].
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        Ok(Self::over(Socket::route_in(ns)?))
    }

    fn over(mut socket: Socket) -> Self {
        socket.set_message_specs(message_spec);
        Self { socket }
    }

    /// Cookie of the network namespace that this handle acts in: a number that is not used again
    /// while the machine runs, unlike an inode's number ([`NetNs::identity`]).
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 5.14.
    #[doc(alias = "SO_NETNS_COOKIE")]
    pub fn netns_cookie(&self) -> Result<u64> {
        let cookie = sys::netns_cookie(&self.socket);
        cookie.map_err(|e| Error::from_io("netns-cookie", "", &e))
    }

    /// Reads a link by its number (`rtnl_getlink`).
    ///
    /// # Errors
    /// `ENODEV` where no link has that number.
    #[doc(alias = "RTM_GETLINK")]
    pub fn get(&mut self, ifindex: Ifindex) -> Result<LinkInfo> {
        let request = self.about(libc::RTM_GETLINK, "link-get", ifindex, IfInfo::of(ifindex));
        self.ask(&request, LinkInfo::parse)
    }

    /// Reads a link by its name, or by an alternative name, which may be longer (`rtnl_dev_get`).
    ///
    /// # Errors
    /// `ENODEV` where no link has that name: `eth9: no such device (ENODEV)`.
    #[doc(alias = "RTM_GETLINK")]
    pub fn by_name(&mut self, name: &str) -> Result<LinkInfo> {
        /// Length in bytes of an alternative name, without the byte that ends it: `ALTIFNAMSIZ`
        /// less 1.
        const MAX_ALT_NAME: usize = 127;
        if name.is_empty() || name.len() > MAX_ALT_NAME || name.contains('\0') {
            return Err(not_a_name(name));
        }
        self.ask(&by_name(name), LinkInfo::parse)
    }

    /// Lists all links (`rtnl_dump_ifinfo`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "RTM_GETLINK")]
    pub fn list(&mut self) -> Result<Vec<LinkInfo>> {
        let header = IfInfo::default().encode();
        let request = Request::new(libc::RTM_GETLINK, &header, "link-get", "");
        self.dump(&request, IfInfo::LEN, LinkInfo::parse)
    }

    /// Deletes a link, of a netkit pair both ends (`rtnl_dellink`). The leases of a netkit end.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a link that can't be deleted, such as that of a NIC.
    #[doc(alias = "RTM_DELLINK")]
    pub fn delete(&mut self, ifindex: Ifindex) -> Result<()> {
        let request = self.about(
            libc::RTM_DELLINK,
            "link-delete",
            ifindex,
            IfInfo::of(ifindex),
        );
        self.socket.tell(&request)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// Those of the driver.
    #[doc(alias = "IFF_UP")]
    pub fn set_up(&mut self, ifindex: Ifindex) -> Result<()> {
        self.set_flags(ifindex, "link-up", IFF_UP)
    }

    /// Sets a link down. The link loses its IPv6 addresses and its routes.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn set_down(&mut self, ifindex: Ifindex) -> Result<()> {
        self.set_flags(ifindex, "link-down", 0)
    }

    fn set_flags(&mut self, ifindex: Ifindex, op: &'static str, flags: u32) -> Result<()> {
        let header = IfInfo {
            flags,
            change: IFF_UP,
            ..IfInfo::of(ifindex)
        };
        let request = self.about(libc::RTM_SETLINK, op, ifindex, header);
        self.socket.tell(&request)
    }

    /// Sets a link's mtu, the size of the largest packet in bytes.
    ///
    /// # Errors
    /// `EINVAL` outside the limits of the link.
    #[doc(alias = "IFLA_MTU")]
    pub fn set_mtu(&mut self, ifindex: Ifindex, mtu: u32) -> Result<()> {
        let mut request = self.setting("link-mtu", ifindex);
        request.attrs().u32(ifla::MTU, mtu);
        self.socket.tell(&request)
    }

    /// Renames a link.
    ///
    /// # Errors
    /// `EEXIST` for a name that is taken.
    #[doc(alias = "IFLA_IFNAME")]
    pub fn set_name(&mut self, ifindex: Ifindex, name: &str) -> Result<()> {
        check_name(name)?;
        let mut request = self.setting("link-name", ifindex);
        request.attrs().str(ifla::IFNAME, name);
        self.socket.tell(&request)
    }

    /// Moves a link to another network namespace, where its ifindex may change (`do_setlink`). The
    /// link is set down and loses its addresses.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` in the other namespace, `EEXIST` where the name is taken
    /// there.
    #[doc(alias = "IFLA_NET_NS_FD")]
    pub fn set_netns(&mut self, ifindex: Ifindex, ns: &NetNs) -> Result<()> {
        let object = format!("{} to {}", self.device(ifindex), ns.label());
        let header = IfInfo::of(ifindex).encode();
        let mut request = Request::new(libc::RTM_SETLINK, &header, "link-netns", object);
        request.attrs().put(ifla::NET_NS_FD, &fd_payload(ns));
        self.socket.tell(&request)
    }

    fn setting(&self, op: &'static str, ifindex: Ifindex) -> Request {
        self.about(libc::RTM_SETLINK, op, ifindex, IfInfo::of(ifindex))
    }

    fn about(&self, kind: u16, op: &'static str, ifindex: Ifindex, header: IfInfo) -> Request {
        Request::new(kind, &header.encode(), op, self.device(ifindex))
    }

    /// Name of a device for errors: its name, or its number if it has none.
    fn device(&self, ifindex: Ifindex) -> String {
        sys::device_name(&self.socket, ifindex)
    }

    fn ask<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(&[u8], Attrs<'_>) -> Parsed<T>,
    ) -> Result<T> {
        let answer = self.socket.ask(request)?;
        let parsed = answer
            .split(IfInfo::LEN)
            .and_then(|(header, attrs)| parse(header, attrs));
        parsed.map_err(|e| request.malformed(e))
    }

    /// Requests a list of entries that begin with a fixed header of `len` bytes.
    fn dump<T>(
        &mut self,
        request: &Request,
        len: usize,
        parse: impl Fn(&[u8], Attrs<'_>) -> Parsed<T>,
    ) -> Result<Vec<T>> {
        let answers = self.socket.dump(request)?;
        let parsed = answers.iter().map(|answer| {
            let (header, attrs) = answer.split(len)?;
            parse(header, attrs)
        });
        parsed
            .collect::<Parsed<_>>()
            .map_err(|e| request.malformed(e))
    }
}

/// Flag of a link that is up (`IFF_UP`), in the width of the message's field.
const IFF_UP: u32 = libc::IFF_UP as u32;

fn by_name(name: &str) -> Request {
    let mut request = Request::new(libc::RTM_GETLINK, &IfInfo::default().encode(), "", name);
    request.attrs().str(ifla::ALT_IFNAME, name);
    request
}

fn not_a_name(name: &str) -> Error {
    Error::invalid("", format!("'{name}'"), "not the name of a network device")
}

/// Refuses names that no link can have (`dev_valid_name`).
fn check_name(name: &str) -> Result<()> {
    let room = libc::IFNAMSIZ - 1;
    let odd = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | ':' | '\0' | '\x0b');
    if name.is_empty() || name.len() > room || matches!(name, "." | "..") || name.contains(odd) {
        return Err(not_a_name(name));
    }
    Ok(())
}

/// Descriptor of a namespace as the payload of an attribute.
fn fd_payload(ns: &NetNs) -> [u8; 4] {
    ns.as_fd().as_raw_fd().to_ne_bytes()
}
