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

use netlink::{Family, MessageSpec, NetNs, Request, Result};

pub use channels::{Channels, ChannelsChange};
pub use driver::DriverInfo;
pub use features::Features;
pub use flow::{Action, Flow, FlowRule, IpMatch, Location, PortMatch, TosMatch};
pub use rings::{HeaderSplit, RingChanges, Rings, RingsChange};
pub use rss::{Rss, RssChange, equal_table};
pub use rules::RuleTable;

use crate::Ifindex;
use crate::family_socket::FamilySocket;
use crate::parse::attributes;

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

attributes! {
    /// Attributes of the header, which is attribute 1 of every message: `ETHTOOL_A_HEADER_*`.
    mod header {
        DEV_INDEX = 1, number("dev-index");
        DEV_NAME = 2, text("dev-name");
        FLAGS = 3, number("flags");
    }
}

attributes! {
    /// Attributes that every message of the family has.
    mod message {
        HEADER = 1, nest("header", header::ALL);
    }
}

/// `ETHTOOL_FLAG_OMIT_REPLY`: no answer besides the acknowledgement.
const OMIT_REPLY: u32 = 1 << 1;

/// Format of the requests and answers of each command.
fn message_spec(_: u16, cmd: u8) -> MessageSpec {
    let attrs = match cmd {
        cmd::FEATURES_GET | cmd::FEATURES_SET => features::attr::ALL,
        cmd::RINGS_GET | cmd::RINGS_SET => rings::attr::ALL,
        cmd::CHANNELS_GET | cmd::CHANNELS_SET => channels::attr::ALL,
        cmd::RSS_GET | cmd::RSS_SET | cmd::RSS_CREATE_ACT | cmd::RSS_DELETE_ACT => rss::attr::ALL,
        _ => message::ALL,
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
    request.attrs().nest(message::HEADER, |nest| {
        nest.u32(header::DEV_INDEX, ifindex.get());
    });
    request
}
