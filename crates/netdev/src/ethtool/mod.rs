//! The ethtool family (`Documentation/netlink/specs/ethtool.yaml`), and ioctls for what netlink
//! lacks.

mod channels;
mod driver;
mod features;
mod flow;
#[cfg(test)]
mod flow_tests;
mod free_locations;
mod rings;
mod rss;
mod rules;
#[cfg(test)]
mod tests;

use netlink::{AttrSpec, Family, MessageSpec, NetNs, Request, Result};

pub use channels::{Channels, ChannelsChange};
pub use driver::DriverInfo;
pub use features::Features;
pub use flow::{Action, Flow, FlowRule, IpMatch, Location, PortMatch, TosMatch};
pub use rings::{HeaderSplit, RingChanges, Rings, RingsChange};
pub use rss::{Rss, RssChange, equal_table};
pub use rules::RuleTable;

use crate::Ifindex;
use crate::family_socket::FamilySocket;

/// Commands of ethtool's netlink requests: `ETHTOOL_MSG_*`.
mod cmd {
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_SET: u8 = 12;
    pub(super) const RINGS_GET: u8 = 15;
    pub(super) const RINGS_SET: u8 = 16;
    pub(super) const CHANNELS_GET: u8 = 17;
    pub(super) const CHANNELS_SET: u8 = 18;
    pub(super) const RSS_GET: u8 = 38;
    pub(super) const RSS_SET: u8 = 48;
    pub(super) const RSS_CREATE_ACT: u8 = 49;
    pub(super) const RSS_DELETE_ACT: u8 = 50;
}

/// Attributes of the request header, `ETHTOOL_A_HEADER_*`. The header is attribute 1 of every
/// message.
mod header {
    pub(super) const NEST: u16 = 1;
    pub(super) const DEV_INDEX: u16 = 1;
    pub(super) const FLAGS: u16 = 3;

    /// `ETHTOOL_FLAG_OMIT_REPLY`: no answer besides the acknowledgement.
    pub(super) const OMIT_REPLY: u32 = 1 << 1;
}

/// Netlink format of the header attribute of ethtool's messages.
const HEADER: AttrSpec = AttrSpec::nest(header::NEST, "header", HEADER_ATTRS);

/// Netlink format of the attributes in the header of ethtool's messages.
const HEADER_ATTRS: &[AttrSpec] = &[
    AttrSpec::number(header::DEV_INDEX, "dev-index"),
    // Only in answers.
    AttrSpec::text(2, "dev-name"),
    AttrSpec::number(header::FLAGS, "flags"),
];

/// Format of the requests and answers of each command.
fn message_spec(_: u16, cmd: u8) -> MessageSpec {
    let attrs = match cmd {
        cmd::FEATURES_GET | cmd::FEATURES_SET => features::ATTRS,
        cmd::RINGS_GET | cmd::RINGS_SET => rings::ATTRS,
        cmd::CHANNELS_GET | cmd::CHANNELS_SET => channels::ATTRS,
        cmd::RSS_GET | cmd::RSS_SET | cmd::RSS_CREATE_ACT | cmd::RSS_DELETE_ACT => rss::ATTRS,
        _ => &[HEADER],
    };
    MessageSpec { header: 4, attrs }
}

/// Handle to the ethtool family of netlink: rings, channels, RSS, features, flow rules.
///
/// The settings are those of physical devices, in the network namespace of the device; virtual
/// devices have few of them. Changes need `CAP_NET_ADMIN` there.
#[derive(Debug)]
pub struct Ethtool(FamilySocket);

impl Ethtool {
    const NAME: &'static str = "ethtool";

    /// Opens an ethtool handle in the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENOENT` for a kernel without `CONFIG_ETHTOOL_NETLINK`, and those of a socket.
    pub fn open() -> Result<Self> {
        FamilySocket::open(Self::NAME, message_spec).map(Self)
    }

    /// Opens an ethtool handle in the network namespace `ns`.
    ///
    /// # Errors
    /// As for [`Ethtool::open`] and [`NetNs::run`].
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        FamilySocket::open_in(Self::NAME, message_spec, ns).map(Self)
    }

    fn about(&self, cmd: u8, op: &'static str, ifindex: Ifindex) -> Request {
        about(&self.0.family, cmd, op, ifindex, self.0.device(ifindex))
    }
}

/// Creates a request about a device, which begins with the header.
fn about(family: &Family, cmd: u8, op: &'static str, ifindex: Ifindex, object: String) -> Request {
    let mut request = family.request(cmd, op, object);
    request.attrs().nest(header::NEST, |nest| {
        nest.u32(header::DEV_INDEX, ifindex.get());
    });
    request
}
