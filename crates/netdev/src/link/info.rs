//! Description of a link by the kernel.

use netlink::{Attr, Attrs};
use serde::Serialize;

use super::{NetkitInfo, ifla, info_attr};
use crate::parse::{Parsed, required};
use crate::{Ifindex, MacAddr, NsId, ParseError};

/// Description of a link (`rtnl_fill_ifinfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkInfo {
    /// Number of the link in this network namespace.
    pub ifindex: Ifindex,
    /// Name of the link.
    pub name: String,
    /// Alternative names of the link (`IFLA_ALT_IFNAME`).
    #[serde(skip)]
    pub alt_names: Vec<String>,
    /// Kind of a virtual link: `netkit`, `veth`; `None` for most others.
    pub kind: Option<String>,
    /// Flags of the link: bits `IFF_*`.
    pub flags: u32,
    /// Whether the link is administratively up.
    pub up: bool,
    /// Whether the link has a carrier and is ready to send.
    pub running: bool,
    /// Mtu of the link: size of the largest packet, in bytes.
    pub mtu: u32,
    /// Least mtu that the link can have.
    pub min_mtu: Option<u32>,
    /// Greatest mtu that the link can have.
    pub max_mtu: Option<u32>,
    /// Ethernet address of the link.
    pub mac: Option<MacAddr>,
    /// Permanent Ethernet address, which the link was made with, where it has one.
    pub permanent_mac: Option<MacAddr>,
    /// Name of the link's port on its device, where the driver has one.
    pub port: Option<String>,
    /// Name of the device on a bus that the link belongs to: a NIC has one, a virtual link has
    /// none.
    pub parent: Option<String>,
    /// Bus of the device that the link belongs to.
    pub parent_bus: Option<String>,
    /// Number of rx queues that the link could have.
    pub rx_queues: u32,
    /// Number of tx queues that the link could have.
    pub tx_queues: u32,
    /// Number of the link that this link is tied to: of a netkit pair the other end.
    pub link: Option<Ifindex>,
    /// Number of the link that this link is a part of: a bond, a team, a bridge.
    #[serde(skip)]
    pub master: Option<Ifindex>,
    /// Id of the network namespace of [`LinkInfo::link`]; `None` is this namespace.
    pub link_netns_id: Option<NsId>,
    /// Attributes of a netkit.
    pub netkit: Option<NetkitInfo>,
    /// XDP program that is attached to the link.
    pub xdp: Option<Xdp>,
}

impl LinkInfo {
    /// Whether the link belongs to a device on a bus. The kernel tells physical from virtual in the
    /// same way when it leases a queue (`netif_is_queue_leasee`, `netdev_can_lease_queue`).
    pub fn is_physical(&self) -> bool {
        self.parent.is_some()
    }

    /// Whether `name` is the link's name or one of its alternative names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alt_names.iter().any(|other| other == name)
    }

    /// Whether the link has no device behind it.
    pub fn is_virtual(&self) -> bool {
        !self.is_physical()
    }

    /// Parses a `struct ifinfomsg` and the attributes behind it.
    pub(super) fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Self> {
        let short = ParseError::Header { left: header.len() };
        let field = |at: usize| -> Parsed<[u8; 4]> {
            let bytes = header
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or(short.clone())
        };
        let flags = u32::from_ne_bytes(field(8)?);
        let mut link = Self {
            ifindex: Ifindex::new(u32::from_ne_bytes(field(4)?)),
            name: String::new(),
            alt_names: Vec::new(),
            kind: None,
            flags,
            up: has(flags, libc::IFF_UP),
            running: has(flags, libc::IFF_RUNNING),
            mtu: 0,
            min_mtu: None,
            max_mtu: None,
            mac: None,
            permanent_mac: None,
            port: None,
            parent: None,
            parent_bus: None,
            rx_queues: 0,
            tx_queues: 0,
            link: None,
            master: None,
            link_netns_id: None,
            netkit: None,
            xdp: None,
        };
        let mut name = None;
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                ifla::IFNAME => name = Some(attr.lossy_str()?),
                _ => link.take(&attr)?,
            }
        }
        link.name = required(name, ifla::IFNAME)?;
        Ok(link)
    }

    fn take(&mut self, attr: &Attr<'_>) -> Parsed<()> {
        match attr.kind() {
            // Links without Ethernet have addresses of other lengths, or none.
            ifla::ADDRESS => self.mac = attr.array().map(MacAddr).ok(),
            ifla::PERM_ADDRESS => self.permanent_mac = attr.array().map(MacAddr).ok(),
            ifla::PHYS_PORT_NAME => self.port = Some(attr.lossy_str()?),
            ifla::MTU => self.mtu = attr.u32()?,
            ifla::MIN_MTU => self.min_mtu = Some(attr.u32()?),
            ifla::MAX_MTU => self.max_mtu = Some(attr.u32()?).filter(|&mtu| mtu != 0),
            ifla::LINK => self.link = Some(Ifindex::new(attr.u32()?)).filter(|l| l.get() != 0),
            ifla::MASTER => self.master = Some(Ifindex::new(attr.u32()?)),
            ifla::PROP_LIST => self.set_names(attr)?,
            ifla::LINK_NETNSID => self.link_netns_id = Some(NsId::new(attr.i32()?)),
            ifla::NUM_RX_QUEUES => self.rx_queues = attr.u32()?,
            ifla::NUM_TX_QUEUES => self.tx_queues = attr.u32()?,
            ifla::PARENT_DEV_NAME => self.parent = Some(attr.str()?.to_owned()),
            ifla::PARENT_DEV_BUS_NAME => self.parent_bus = Some(attr.str()?.to_owned()),
            ifla::LINKINFO => self.set_kind_info(attr)?,
            ifla::XDP => self.xdp = Xdp::parse(attr)?,
            _ => {}
        }
        Ok(())
    }

    fn set_names(&mut self, nest: &Attr<'_>) -> Parsed<()> {
        for attr in nest.nested() {
            let attr = attr?;
            if attr.kind() == ifla::ALT_IFNAME {
                self.alt_names.push(attr.str()?.to_owned());
            }
        }
        Ok(())
    }

    fn set_kind_info(&mut self, nest: &Attr<'_>) -> Parsed<()> {
        let mut data = None;
        for attr in nest.nested() {
            let attr = attr?;
            match attr.kind() {
                info_attr::KIND => self.kind = Some(attr.str()?.to_owned()),
                info_attr::DATA => data = Some(attr),
                _ => {}
            }
        }
        if self.kind.as_deref() == Some("netkit") {
            self.netkit = data.map(|data| NetkitInfo::parse(&data)).transpose()?;
        }
        Ok(())
    }
}

fn has(flags: u32, flag: libc::c_int) -> bool {
    u32::try_from(flag).is_ok_and(|flag| flags & flag != 0)
}

/// Hook of a link that an XDP program is attached to (`XDP_ATTACHED_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// The driver's XDP hook.
    Driver,
    /// The generic XDP hook: on socket buffers, before the stack.
    Generic,
    /// The device itself, to which the program was offloaded.
    Hardware,
    /// More than one XDP hook.
    Multiple,
}

/// An XDP program attached to a link (`rtnl_xdp_fill`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Xdp {
    /// Hook of the link that the program is attached to.
    pub mode: XdpMode,
    /// Number of the BPF program; `None` where there are several.
    pub prog_id: Option<u32>,
}

impl Xdp {
    fn parse(nest: &Attr<'_>) -> Parsed<Option<Self>> {
        /// Netlink attribute with the mode of an XDP program: `IFLA_XDP_ATTACHED`.
        const ATTACHED: u16 = 2;
        /// Netlink attribute with the number of an XDP program: `IFLA_XDP_PROG_ID`.
        const PROG_ID: u16 = 4;
        let (mut mode, mut prog_id) = (None, None);
        for attr in nest.nested() {
            let attr = attr?;
            match attr.kind() {
                ATTACHED => {
                    mode = match attr.u8()? {
                        0 => None,
                        1 => Some(XdpMode::Driver),
                        2 => Some(XdpMode::Generic),
                        3 => Some(XdpMode::Hardware),
                        4 => Some(XdpMode::Multiple),
                        other => return Err(attr.unexpected(other)),
                    };
                }
                PROG_ID => prog_id = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(mode.map(|mode| Self { mode, prog_id }))
    }
}
