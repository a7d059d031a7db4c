//! netkit: the virtual device that leases queues.

use std::fmt;

use netlink::{Attr, NetNs, Request, Result, Writer};
use serde::Serialize;

use super::{IfInfo, Link, LinkInfo, check_name, fd_payload, ifla, info_attr};
use crate::Ifindex;
use crate::parse::{Parsed, attributes, required};

attributes! {
    /// Attributes: `IFLA_NETKIT_*`.
    pub(super) mod attr {
        PEER_INFO = 1, message("peer-info", IfInfo::LEN, peer_attr::ALL);
        PRIMARY = 2, number("primary");
        POLICY = 3, number("policy");
        PEER_POLICY = 4, number("peer-policy");
        MODE = 5, choice("mode", &["l2", "l3"]);
        SCRUB = 6, number("scrub");
        PEER_SCRUB = 7, number("peer-scrub");
        HEADROOM = 8, number("headroom");
        TAILROOM = 9, number("tailroom");
        PAIRING = 10, choice("pairing", &["pair", "single"]);
    }
}

attributes! {
    /// Attributes of the peer that a request for a pair describes: those of a link, `IFLA_*`.
    mod peer_attr {
        IFNAME = 3, text("ifname");
        NET_NS_FD = 28, number("net-ns-fd");
        NUM_RX_QUEUES = 32, number("num-rx-queues");
    }
}

/// Defines an enum whose variants have the kernel's numbers.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $raw:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            fn raw(self) -> u32 {
                match self {
                    $(Self::$variant => $raw,)*
                }
            }

            fn parse(attr: &Attr<'_>) -> Parsed<Self> {
                match attr.u32()? {
                    $($raw => Ok(Self::$variant),)*
                    other => Err(attr.unexpected(other)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&match self {
                    $(Self::$variant => stringify!($variant).to_lowercase(),)*
                })
            }
        }
    };
}

numbers!(
    /// Layer of the packets that a netkit carries (`enum netkit_mode`).
    NetkitMode {
        /// Layer 2: Ethernet frames.
        L2 = 0,
        /// Layer 3: IP packets, without MAC addresses and ARP.
        #[default]
        L3 = 1,
    }
);

numbers!(
    /// Pairing of a netkit: with or without another end (`enum netkit_pairing`).
    Pairing {
        /// A pair: two ends that pass packets to each other.
        #[default]
        Pair = 0,
        /// One end alone, whose only data path is its leased queues: no peer.
        Single = 1,
    }
);

numbers!(
    /// Policy for packets that no BPF program decides about (`enum netkit_action`).
    NetkitPolicy {
        /// Packets pass.
        #[default]
        Pass = 0,
        /// Packets are dropped.
        Drop = 2,
    }
);

numbers!(
    /// Scrubbing of packets that change the namespace: whether their marks are removed (`enum
    /// netkit_scrub`).
    NetkitScrub {
        /// The packets' marks stay.
        None = 0,
        /// The packets' marks are removed.
        #[default]
        Default = 1,
    }
);

/// Parameters of a new netkit pair.
#[derive(Debug, Clone)]
pub struct NetkitPair {
    /// Name of the primary end, which holds the BPF programs and can't lease.
    pub name: String,
    /// Name of the peer, which goes into the container and can lease.
    pub peer_name: String,
    /// Layer of the packets that the netkit carries.
    pub mode: NetkitMode,
    /// Policy of the primary end for packets that no BPF program decides about.
    pub policy: NetkitPolicy,
    /// Policy of the peer for packets that no BPF program decides about.
    pub peer_policy: NetkitPolicy,
    /// Whether the primary end removes packets' marks.
    pub scrub: NetkitScrub,
    /// Whether the peer removes packets' marks.
    pub peer_scrub: NetkitScrub,
    /// Number of rx queues that the peer can have, 1 to 1024: one of its own and one for each
    /// lease. `None` is one queue.
    pub rx_queues: Option<u32>,
    /// Network namespace in which the peer is made; `None` is the namespace of the rtnetlink
    /// handle.
    pub peer_netns: Option<NetNs>,
}

impl NetkitPair {
    /// Creates parameters with the kernel's defaults: layer 3, passing, without leases.
    pub fn new(name: impl Into<String>, peer_name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            peer_name: peer_name.into(),
            mode: NetkitMode::default(),
            policy: NetkitPolicy::default(),
            peer_policy: NetkitPolicy::default(),
            scrub: NetkitScrub::default(),
            peer_scrub: NetkitScrub::default(),
            rx_queues: None,
            peer_netns: None,
        }
    }

    pub(super) fn encode(&self) -> Request {
        let object = format!("{} {}", self.name, self.peer_name);
        create(&self.name, None, object, |data| {
            data.u32(attr::MODE, self.mode.raw());
            data.u32(attr::POLICY, self.policy.raw());
            data.u32(attr::PEER_POLICY, self.peer_policy.raw());
            data.u32(attr::SCRUB, self.scrub.raw());
            data.u32(attr::PEER_SCRUB, self.peer_scrub.raw());
            data.u32(attr::PAIRING, Pairing::Pair.raw());
            data.put(attr::PEER_INFO, self.peer().bytes());
        })
    }

    /// Encodes the attributes of the peer, a message within the message.
    fn peer(&self) -> Writer {
        let mut peer = Writer::new();
        peer.raw(&IfInfo::default().encode())
            .str(peer_attr::IFNAME, &self.peer_name);
        if let Some(queues) = self.rx_queues {
            peer.u32(peer_attr::NUM_RX_QUEUES, queues);
        }
        if let Some(ns) = &self.peer_netns {
            peer.put(peer_attr::NET_NS_FD, &fd_payload(ns));
        }
        peer
    }
}

/// Parameters of a new netkit without another end: since Linux 7.1, for leases alone.
#[derive(Debug, Clone)]
pub struct NetkitSingle {
    /// Name of the netkit.
    pub name: String,
    /// Layer of the packets that the netkit carries.
    pub mode: NetkitMode,
    /// Number of rx queues that the netkit can have, 1 to 1024: one of its own and one for each
    /// lease. `None` is one queue.
    pub rx_queues: Option<u32>,
}

impl NetkitSingle {
    /// Creates parameters with the kernel's defaults: layer 3, without leases.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mode: NetkitMode::default(),
            rx_queues: None,
        }
    }

    pub(super) fn encode(&self) -> Request {
        create(&self.name, self.rx_queues, self.name.clone(), |data| {
            data.u32(attr::MODE, self.mode.raw())
                .u32(attr::PAIRING, Pairing::Single.raw());
        })
    }
}

/// Numbers of both ends of a new netkit pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetkitEnds {
    /// Number of the primary end, in the network namespace of the rtnetlink handle.
    pub primary: Ifindex,
    /// Number of the peer, in the network namespace in which it was made.
    pub peer: Ifindex,
}

impl Link {
    /// Creates a netkit pair (`netkit_new_link`). Both ends are down.
    ///
    /// # Errors
    /// `EEXIST` for a name that is taken, `EOPNOTSUPP` for a kernel without netkit.
    #[doc(alias = "RTM_NEWLINK")]
    pub fn create_netkit(&mut self, pair: &NetkitPair) -> Result<NetkitEnds> {
        check_name(&pair.name)?;
        check_name(&pair.peer_name)?;
        let request = pair.encode();
        let primary = self.make_link(&request, &pair.name)?;
        let peer = required(primary.link, ifla::LINK).map_err(|e| request.malformed(e))?;
        Ok(NetkitEnds {
            primary: primary.ifindex,
            peer,
        })
    }

    /// Creates a netkit without another end (`netkit_new_link`). The netkit is down.
    ///
    /// # Errors
    /// As for [`Link::create_netkit`]; an error without number for a kernel before 7.1.
    #[doc(alias = "RTM_NEWLINK")]
    #[doc(alias = "IFLA_NETKIT_PAIRING")]
    pub fn create_netkit_single(&mut self, single: &NetkitSingle) -> Result<Ifindex> {
        check_name(&single.name)?;
        let request = single.encode();
        let made = self.make_link(&request, &single.name)?;
        if made
            .netkit
            .is_some_and(|netkit| netkit.pairing == Pairing::Single)
        {
            return Ok(made.ifindex);
        }
        // An older kernel ignores the attribute, as any that it does not know.
        self.delete(made.ifindex)?;
        Err(request.invalid("this kernel makes netkits in pairs only"))
    }

    /// Makes a link, and returns its description at that moment: later it may have another name
    /// (`rtnl_configure_link` notifies of it).
    fn make_link(&mut self, request: &Request, name: &str) -> Result<LinkInfo> {
        let Some(echo) = self.socket.tell_echoed(request)? else {
            return self.by_name(name);
        };
        let parsed = echo.split(IfInfo::LEN);
        let parsed = parsed.and_then(|(header, attrs)| LinkInfo::parse(header, attrs));
        parsed.map_err(|e| request.malformed(e))
    }
}

/// Creates the request for a new netkit.
fn create(
    name: &str,
    rx_queues: Option<u32>,
    object: String,
    data: impl FnOnce(&mut Writer),
) -> Request {
    let header = IfInfo::default().encode();
    let mut request = Request::new(libc::RTM_NEWLINK, &header, "netkit-create", object)
        .flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO);
    request.attrs().str(ifla::IFNAME, name);
    if let Some(queues) = rx_queues {
        request.attrs().u32(ifla::NUM_RX_QUEUES, queues);
    }
    request.attrs().nest(ifla::LINKINFO, |info| {
        info.str(info_attr::KIND, "netkit")
            .nest(info_attr::DATA, data);
    });
    request
}

/// Attributes of a netkit (`netkit_fill_info`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetkitInfo {
    /// Whether the device is the primary end of a pair, or has no peer.
    pub primary: bool,
    /// Layer of the packets that the netkit carries.
    pub mode: NetkitMode,
    /// Whether the netkit has a peer; before Linux 7.1 always a pair.
    pub pairing: Pairing,
    /// Policy of this end for packets that no BPF program decides about.
    pub policy: Option<NetkitPolicy>,
    /// Policy of the other end for packets that no BPF program decides about; not reported without
    /// a peer.
    pub peer_policy: Option<NetkitPolicy>,
    /// Whether this end removes packets' marks.
    pub scrub: Option<NetkitScrub>,
    /// Whether the other end removes packets' marks.
    pub peer_scrub: Option<NetkitScrub>,
    /// Headroom: room in front of each packet's data, in bytes.
    pub headroom: u16,
    /// Tailroom: room behind each packet's data, in bytes.
    pub tailroom: u16,
}

impl NetkitInfo {
    /// Whether the device can lease queues: the peer of a pair can, and a netkit without a peer
    /// (`netkit_queue_create`).
    pub fn can_lease(&self) -> bool {
        self.pairing == Pairing::Single || !self.primary
    }

    pub(super) fn parse(data: &Attr<'_>) -> Parsed<Self> {
        let mut primary = None;
        let mut mode = None;
        let mut info = Self {
            primary: false,
            mode: NetkitMode::default(),
            pairing: Pairing::default(),
            policy: None,
            peer_policy: None,
            scrub: None,
            peer_scrub: None,
            headroom: 0,
            tailroom: 0,
        };
        for attr in data.nested() {
            let attr = attr?;
            match attr.kind() {
                attr::PRIMARY => primary = Some(attr.u8()? != 0),
                attr::MODE => mode = Some(NetkitMode::parse(&attr)?),
                attr::PAIRING => info.pairing = Pairing::parse(&attr)?,
                attr::POLICY => info.policy = Some(NetkitPolicy::parse(&attr)?),
                attr::PEER_POLICY => info.peer_policy = Some(NetkitPolicy::parse(&attr)?),
                attr::SCRUB => info.scrub = Some(NetkitScrub::parse(&attr)?),
                attr::PEER_SCRUB => info.peer_scrub = Some(NetkitScrub::parse(&attr)?),
                attr::HEADROOM => info.headroom = attr.u16()?,
                attr::TAILROOM => info.tailroom = attr.u16()?,
                _ => {}
            }
        }
        info.primary = required(primary, attr::PRIMARY)?;
        info.mode = required(mode, attr::MODE)?;
        Ok(info)
    }
}
