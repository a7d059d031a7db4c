//! Flow rules, and their encoding in `struct ethtool_rxnfc`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink::ParseError;
use serde::{Deserialize, Serialize};

use crate::sys::{FlowSpec, RxNfc};
use crate::{QueueId, RssContextId};

/// Flag of a flow rule whose packets go to an RSS context instead of a queue (`FLOW_RSS`).
const FLOW_RSS: u32 = 0x2000_0000;
/// Action of a flow rule that drops packets (`RX_CLS_FLOW_DISC`).
const DROP: u64 = u64::MAX;
/// Location of a flow rule that the driver chooses (`RX_CLS_LOC_ANY`).
const ANY_LOCATION: u32 = u32::MAX;

/// Protocol of the packets that a rule matches (`TCP_V4_FLOW` and so on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// TCP packets over IPv4.
    Tcp4,
    /// TCP packets over IPv6.
    Tcp6,
    /// UDP packets over IPv4.
    Udp4,
    /// UDP packets over IPv6.
    Udp6,
}

impl Flow {
    fn raw(self) -> u32 {
        match self {
            Self::Tcp4 => 0x01,
            Self::Udp4 => 0x02,
            Self::Tcp6 => 0x05,
            Self::Udp6 => 0x06,
        }
    }

    fn of(raw: u32) -> Option<Self> {
        [Self::Tcp4, Self::Udp4, Self::Tcp6, Self::Udp6]
            .into_iter()
            .find(|flow| flow.raw() == raw)
    }

    /// Length of the protocol's addresses in bytes.
    fn address_len(self) -> usize {
        match self {
            Self::Tcp4 | Self::Udp4 => 4,
            Self::Tcp6 | Self::Udp6 => 16,
        }
    }
}

/// Action of a flow rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Deliver the packets to this rx queue.
    Queue(QueueId),
    /// Spread the packets over queues by this RSS context.
    Context(RssContextId),
    /// Drop the packets.
    Drop,
}

/// Location of a flow rule in the NIC's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    /// A location that the driver chooses, if it can choose (`RX_CLS_LOC_ANY`).
    #[doc(alias = "RX_CLS_LOC_ANY")]
    Any,
    /// This location. A rule that is at the location is replaced.
    At(u32),
}

/// An address and a mask: addresses match that agree in all bits of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpMatch {
    /// IP address that packets are compared with.
    pub addr: IpAddr,
    /// Mask of the address bits that are compared, of the same family as the address.
    pub mask: IpAddr,
}

impl IpMatch {
    /// Creates a match of this IP address alone.
    pub fn host(addr: IpAddr) -> Self {
        let mask = match addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        };
        Self { addr, mask }
    }
}

/// A port and a mask: ports match that agree in all bits of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMatch {
    /// Port that packets are compared with.
    pub port: u16,
    /// Mask of the port's bits that are compared.
    pub mask: u16,
}

impl PortMatch {
    /// Creates a match of this port alone.
    pub fn exact(port: u16) -> Self {
        Self {
            port,
            mask: u16::MAX,
        }
    }
}

/// A class of service and a mask: classes match that agree in all bits of the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TosMatch {
    /// Class of service that packets are compared with: type of service of IPv4, or traffic class
    /// of IPv6.
    pub tos: u8,
    /// Mask of the class's bits that are compared.
    pub mask: u8,
}

/// A flow rule: `ethtool -N eth0 flow-type tcp4 dst-ip 10.0.0.1 dst-port 5201 action 15`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRule {
    /// Protocol of the packets that the rule matches.
    pub flow: Flow,
    /// Source address that the rule matches; `None` matches any.
    pub src: Option<IpMatch>,
    /// Destination address that the rule matches; `None` matches any.
    pub dst: Option<IpMatch>,
    /// Source port that the rule matches; `None` matches any.
    pub src_port: Option<PortMatch>,
    /// Destination port that the rule matches; `None` matches any.
    pub dst_port: Option<PortMatch>,
    /// Class of service that the rule matches; `None` matches any.
    #[serde(default)]
    pub tos: Option<TosMatch>,
    /// Action of the rule on packets that match.
    pub action: Action,
    /// Location of the rule in the table.
    pub location: Location,
}

impl FlowRule {
    /// Creates a flow rule for the TCP packets to `dst`. An unspecified address and port 0 match
    /// any. An IPv4 address mapped into IPv6 is taken as IPv4, as the packets are.
    pub fn tcp_to(dst: SocketAddr, action: Action) -> Self {
        let addr = dst.ip().to_canonical();
        Self {
            flow: if addr.is_ipv4() {
                Flow::Tcp4
            } else {
                Flow::Tcp6
            },
            src: None,
            dst: (!addr.is_unspecified()).then(|| IpMatch::host(addr)),
            src_port: None,
            dst_port: (dst.port() != 0).then(|| PortMatch::exact(dst.port())),
            tos: None,
            action,
            location: Location::Any,
        }
    }

    /// Creates flow rules for all TCP packets to a socket that listens on `at`, or only for those
    /// from the address `from`. There are two rules for `[::]`, whose socket takes IPv4, too
    /// (`IPV6_V6ONLY` is off), and none where the addresses are of different families. Port 0
    /// matches any.
    pub fn tcp_to_listener(at: SocketAddr, from: Option<IpAddr>, action: Action) -> Vec<Self> {
        let mut to = vec![at];
        if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            to.push((Ipv4Addr::UNSPECIFIED, at.port()).into());
        }
        let from = from.map(|from| from.to_canonical());
        let rules = to.into_iter().map(|to| Self {
            src: from.map(IpMatch::host),
            ..Self::tcp_to(to, action)
        });
        let meet =
            |rule: &Self| from.is_none_or(|from| from.is_ipv4() == (rule.flow == Flow::Tcp4));
        rules.filter(meet).collect()
    }

    /// Encodes the flow rule for the kernel. Fails for an address of the wrong family.
    pub(crate) fn encode(&self, cmd: u32) -> Result<RxNfc, &'static str> {
        let mut nfc = RxNfc::new(cmd);
        let len = self.flow.address_len();
        for (at, matched) in [(0, self.src), (len, self.dst)] {
            if let Some(matched) = matched {
                put_ip(&mut nfc.fs.value, at, len, matched.addr)?;
                put_ip(&mut nfc.fs.mask, at, len, matched.mask)?;
            }
        }
        for (at, matched) in [(2 * len, self.src_port), (2 * len + 2, self.dst_port)] {
            if let Some(matched) = matched {
                put(&mut nfc.fs.value, at, &matched.port.to_be_bytes());
                put(&mut nfc.fs.mask, at, &matched.mask.to_be_bytes());
            }
        }
        if let Some(matched) = self.tos {
            put(&mut nfc.fs.value, 2 * len + 4, &[matched.tos]);
            put(&mut nfc.fs.mask, 2 * len + 4, &[matched.mask]);
        }
        nfc.fs.flow_type = self.flow.raw();
        match self.action {
            Action::Queue(queue) => nfc.fs.ring_cookie = queue.get().into(),
            Action::Drop => nfc.fs.ring_cookie = DROP,
            // The context's table has the queues; a queue in the rule would be added to them.
            Action::Context(context) => {
                nfc.fs.flow_type |= FLOW_RSS;
                nfc.count_or_context = context.get();
            }
        }
        nfc.fs.location = match self.location {
            Location::Any => ANY_LOCATION,
            Location::At(location) => location,
        };
        Ok(nfc)
    }

    /// Decodes a flow rule of the kernel. Fails for kinds of rules that this crate does not know.
    pub(crate) fn decode(nfc: &RxNfc) -> Result<Self, ParseError> {
        let fs: &FlowSpec = &nfc.fs;
        let unknown = ParseError::Answer("a flow rule of another kind");
        let flow = Flow::of(fs.flow_type & !FLOW_RSS).ok_or(unknown.clone())?;
        let len = flow.address_len();
        let action = match fs.ring_cookie {
            _ if fs.flow_type & FLOW_RSS != 0 => match fs.ring_cookie {
                0 => Action::Context(RssContextId::new(nfc.count_or_context)),
                // An offset to the queues of the context's table, or a drop.
                _ => return Err(unknown),
            },
            DROP => Action::Drop,
            // The upper half may name a virtual function.
            queue => Action::Queue(QueueId::new(u32::try_from(queue).map_err(|_| unknown)?)),
        };
        Ok(Self {
            flow,
            src: get_ip(fs, 0, len),
            dst: get_ip(fs, len, len),
            src_port: get_port(fs, 2 * len),
            dst_port: get_port(fs, 2 * len + 2),
            tos: get_tos(fs, 2 * len + 4),
            action,
            location: Location::At(fs.location),
        })
    }
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in to.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn put_ip(to: &mut [u8], at: usize, len: usize, addr: IpAddr) -> Result<(), &'static str> {
    let octets = match &addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    if octets.len() != len {
        return Err("an address of another family than the flow's");
    }
    put(to, at, &octets);
    Ok(())
}

/// Reads an address and its mask from a flow rule; `None` if the mask is empty.
fn get_ip(fs: &FlowSpec, at: usize, len: usize) -> Option<IpMatch> {
    let read = |from: &[u8; 52]| -> Option<IpAddr> {
        let bytes = from.get(at..at + len)?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    };
    let (addr, mask) = (read(&fs.value)?, read(&fs.mask)?);
    (!mask.is_unspecified()).then_some(IpMatch { addr, mask })
}

/// Reads a port and its mask from a flow rule; `None` if the mask is empty.
fn get_port(fs: &FlowSpec, at: usize) -> Option<PortMatch> {
    let read = |from: &[u8; 52]| -> Option<u16> {
        Some(u16::from_be_bytes(from.get(at..at + 2)?.try_into().ok()?))
    };
    let (port, mask) = (read(&fs.value)?, read(&fs.mask)?);
    (mask != 0).then_some(PortMatch { port, mask })
}

/// Reads a class of service and its mask from a flow rule; `None` if the mask is empty.
fn get_tos(fs: &FlowSpec, at: usize) -> Option<TosMatch> {
    let (tos, mask) = (*fs.value.get(at)?, *fs.mask.get(at)?);
    (mask != 0).then_some(TosMatch { tos, mask })
}
