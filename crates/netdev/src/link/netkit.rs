//! netkit: the virtual device that leases queues.

use std::fmt;

use netlink::{Attr, AttrSpec, NetNs, Request, Result, Writer};
use serde::Serialize;

use super::{IfInfo, Link, LinkInfo, check_name, fd, ifla};
use crate::Ifindex;
use crate::parse::{Parsed, required};

/// Attributes: `IFLA_NETKIT_*`.
mod attr {
    pub(super) const PEER_INFO: u16 = 1;
    pub(super) const PRIMARY: u16 = 2;
    pub(super) const POLICY: u16 = 3;
    pub(super) const PEER_POLICY: u16 = 4;
    pub(super) const MODE: u16 = 5;
    pub(super) const SCRUB: u16 = 6;
    pub(super) const PEER_SCRUB: u16 = 7;
    pub(super) const HEADROOM: u16 = 8;
    pub(super) const TAILROOM: u16 = 9;
    pub(super) const PAIRING: u16 = 10;
}

/// How they read.
pub(super) const ATTRS: &[AttrSpec] = &[
    AttrSpec::message(attr::PEER_INFO, "peer-info", IfInfo::LEN, PEER_ATTRS),
    AttrSpec::number(attr::PRIMARY, "primary"),
    AttrSpec::number(attr::POLICY, "policy"),
    AttrSpec::number(attr::PEER_POLICY, "peer-policy"),
    AttrSpec::choice(attr::MODE, "mode", &["l2", "l3"]),
    AttrSpec::number(attr::SCRUB, "scrub"),
    AttrSpec::number(attr::PEER_SCRUB, "peer-scrub"),
    AttrSpec::number(attr::HEADROOM, "headroom"),
    AttrSpec::number(attr::TAILROOM, "tailroom"),
    AttrSpec::choice(attr::PAIRING, "pairing", &["pair", "single"]),
];

/// How the request for the other end reads.
const PEER_ATTRS: &[AttrSpec] = &[
    AttrSpec::text(ifla::IFNAME, "ifname"),
    AttrSpec::number(ifla::NUM_RX_QUEUES, "num-rx-queues"),
    AttrSpec::number(ifla::NET_NS_FD, "net-ns-fd"),
];

/// Defines an enum of the kernel's numbers.
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
    /// What a netkit carries (`enum netkit_mode`).
    NetkitMode {
        /// Ethernet frames.
        L2 = 0,
        /// IP packets: no MAC addresses, no ARP.
        #[default]
        L3 = 1,
    }
);

numbers!(
    /// Whether a netkit has another end (`enum netkit_pairing`).
    Pairing {
        /// It has.
        #[default]
        Pair = 0,
        /// It has none, and no data path but its leased queues.
        Single = 1,
    }
);

numbers!(
    /// What happens to packets that no BPF program decides about (`enum netkit_action`).
    NetkitPolicy {
        /// They pass.
        #[default]
        Pass = 0,
        /// They are dropped.
        Drop = 2,
    }
);

numbers!(
    /// Whether marks are taken off packets that change the namespace (`enum netkit_scrub`).
    NetkitScrub {
        /// They stay.
        None = 0,
        /// They are taken off.
        #[default]
        Default = 1,
    }
);

/// A netkit pair to be made.
#[derive(Debug, Clone)]
pub struct NetkitPair {
    /// The name of the primary end, which holds the BPF programs. It can't lease.
    pub name: String,
    /// The name of the peer, which goes into the container and can lease.
    pub peer_name: String,
    /// What it carries.
    pub mode: NetkitMode,
    /// The policy of the primary.
    pub policy: NetkitPolicy,
    /// The policy of the peer.
    pub peer_policy: NetkitPolicy,
    /// The scrubbing of the primary.
    pub scrub: NetkitScrub,
    /// The scrubbing of the peer.
    pub peer_scrub: NetkitScrub,
    /// How many rx queues the peer can have, 1 to 1024: one of its own and one for each lease.
    /// `None` is one.
    pub rx_queues: Option<u32>,
    /// The network namespace that the peer is made in; `None`: the handle's.
    pub peer_netns: Option<NetNs>,
}

impl NetkitPair {
    /// A pair as the kernel makes it unless told otherwise: layer 3, passing, without leases.
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

    /// A message within the message: what the peer shall be.
    fn peer(&self) -> Writer {
        let mut peer = Writer::new();
        peer.raw(&IfInfo::default().encode())
            .str(ifla::IFNAME, &self.peer_name);
        if let Some(queues) = self.rx_queues {
            peer.u32(ifla::NUM_RX_QUEUES, queues);
        }
        if let Some(ns) = &self.peer_netns {
            peer.put(ifla::NET_NS_FD, &fd(ns));
        }
        peer
    }
}

/// A netkit without another end to be made: since Linux 7.1, for leases alone.
#[derive(Debug, Clone)]
pub struct NetkitSingle {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub mode: NetkitMode,
    /// How many rx queues it can have, 1 to 1024: one of its own and one for each lease. `None`
    /// is one.
    pub rx_queues: Option<u32>,
}

impl NetkitSingle {
    /// A layer 3 netkit without leases.
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

/// The ends of a new pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetkitEnds {
    /// The primary, in the handle's network namespace.
    pub primary: Ifindex,
    /// The peer, in that which it was made in.
    pub peer: Ifindex,
}

impl Link {
    /// Makes a netkit pair (`netkit_new_link`). Both ends are down.
    ///
    /// # Errors
    /// `EEXIST` for a name that is taken, `EOPNOTSUPP` for a kernel without netkit.
    pub fn create_netkit(&mut self, pair: &NetkitPair) -> Result<NetkitEnds> {
        check_name(&pair.name)?;
        check_name(&pair.peer_name)?;
        let request = pair.encode();
        let primary = self.made(&request, &pair.name)?;
        let peer = required(primary.link, ifla::LINK).map_err(|e| request.malformed(e))?;
        Ok(NetkitEnds {
            primary: primary.ifindex,
            peer,
        })
    }

    /// Makes a netkit without another end (`netkit_new_link`). It is down.
    ///
    /// # Errors
    /// As for [`Link::create_netkit`]; an error without number for a kernel before 7.1.
    pub fn create_netkit_single(&mut self, single: &NetkitSingle) -> Result<Ifindex> {
        check_name(&single.name)?;
        let request = single.encode();
        let made = self.made(&request, &single.name)?;
        if made
            .netkit
            .is_some_and(|netkit| netkit.pairing == Pairing::Single)
        {
            return Ok(made.ifindex);
        }
        // An older kernel passes over the attribute, as any that it does not know.
        self.delete(made.ifindex)?;
        Err(request.invalid("this kernel makes netkits in pairs only"))
    }

    /// Makes a link, and returns it as it was then: a moment later it may have another name
    /// (`rtnl_configure_link` notifies of it).
    fn made(&mut self, request: &Request, name: &str) -> Result<LinkInfo> {
        let Some(echo) = self.socket.tell_echoed(request)? else {
            return self.by_name(name);
        };
        let parsed = echo.split(IfInfo::LEN);
        let parsed = parsed.and_then(|(header, attrs)| LinkInfo::parse(header, attrs));
        parsed.map_err(|e| request.malformed(e))
    }
}

/// A request to create a netkit.
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
        info.str(ifla::INFO_KIND, "netkit")
            .nest(ifla::INFO_DATA, data);
    });
    request
}

/// What is special to a netkit (`netkit_fill_info`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetkitInfo {
    /// Whether it is the primary end of a pair, or a single.
    pub primary: bool,
    /// What it carries.
    pub mode: NetkitMode,
    /// Whether it has another end; before Linux 7.1 all have.
    pub pairing: Pairing,
    /// Its policy.
    pub policy: Option<NetkitPolicy>,
    /// The other end's; not told for a single.
    pub peer_policy: Option<NetkitPolicy>,
    /// Its scrubbing.
    pub scrub: Option<NetkitScrub>,
    /// The other end's.
    pub peer_scrub: Option<NetkitScrub>,
    /// Room in front of each packet, in bytes.
    pub headroom: u16,
    /// Room behind each packet, in bytes.
    pub tailroom: u16,
}

impl NetkitInfo {
    /// Whether it can lease queues: a single can, and of a pair the peer
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
