//! The netdev family (`Documentation/netlink/specs/netdev.yaml`).

mod bind;
mod events;
mod napi;
mod page_pool;
mod qstats;
mod queue;
#[cfg(test)]
mod tests;

use netlink::{Attrs, Family, MessageSpec, NetNs, Request, Result};
use serde::Serialize;

pub use bind::{BindOptions, Binding};
pub use events::{Event, Events, Group};
pub use napi::{Napi, Threaded};
pub use page_pool::{PagePool, PagePoolStats, PoolCounters};
pub use qstats::{Qstats, QueueCounters, QueueRef, Scope};
pub use queue::{IoUring, Lease, LeaseInfo, Queue};

use crate::Ifindex;
use crate::family_socket::FamilySocket;
use crate::parse::{Parsed, attributes, required};

/// Commands of the netdev family: `NETDEV_CMD_*`.
mod cmd {
    pub(super) const DEV_GET: u8 = 1;
    pub(super) const DEV_ADD_NTF: u8 = 2;
    pub(super) const DEV_DEL_NTF: u8 = 3;
    pub(super) const DEV_CHANGE_NTF: u8 = 4;
    pub(super) const PAGE_POOL_GET: u8 = 5;
    pub(super) const PAGE_POOL_ADD_NTF: u8 = 6;
    pub(super) const PAGE_POOL_DEL_NTF: u8 = 7;
    pub(super) const PAGE_POOL_CHANGE_NTF: u8 = 8;
    pub(super) const PAGE_POOL_STATS_GET: u8 = 9;
    pub(super) const QUEUE_GET: u8 = 10;
    pub(super) const NAPI_GET: u8 = 11;
    pub(super) const QSTATS_GET: u8 = 12;
    pub(super) const BIND_RX: u8 = 13;
    pub(super) const BIND_TX: u8 = 15;
    pub(super) const QUEUE_CREATE: u8 = 16;
}

attributes! {
    /// Attributes of a device: `NETDEV_A_DEV_*`.
    mod attr {
        IFINDEX = 1, number("ifindex");
        XDP_FEATURES = 3, number("xdp-features");
        XDP_ZC_MAX_SEGS = 4, number("xdp-zc-max-segs");
        XDP_RX_METADATA_FEATURES = 5, number("xdp-rx-metadata-features");
        XSK_FEATURES = 6, number("xsk-features");
    }
}

/// Format of the requests and answers of each command.
fn message_spec(_: u16, cmd: u8) -> MessageSpec {
    let attrs = match cmd {
        cmd::PAGE_POOL_GET => page_pool::attr::ALL,
        cmd::PAGE_POOL_STATS_GET => page_pool::stats_attr::ALL,
        cmd::QUEUE_GET | cmd::QUEUE_CREATE => queue::attr::ALL,
        cmd::NAPI_GET => napi::attr::ALL,
        cmd::QSTATS_GET => qstats::attr::ALL,
        cmd::BIND_RX | cmd::BIND_TX => bind::attr::ALL,
        _ => attr::ALL,
    };
    MessageSpec { header: 4, attrs }
}

/// Handle to the netdev family of netlink: queues, leases, bindings, page pools, statistics.
///
/// The handle acts in the network namespace in which it was opened.
#[doc(alias = "NETDEV_FAMILY_NAME")]
#[derive(Debug)]
pub struct Netdev(FamilySocket);

impl Netdev {
    const NAME: &'static str = "netdev";

    /// Opens a netdev handle in the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no netdev family (before 6.3), and those of a socket.
    pub fn open() -> Result<Self> {
        FamilySocket::open(Self::NAME, message_spec).map(Self)
    }

    /// Opens a netdev handle in the network namespace `ns`.
    ///
    /// # Errors
    /// As for [`Netdev::open`] and [`NetNs::run`].
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        FamilySocket::open_in(Self::NAME, message_spec, ns).map(Self)
    }

    /// Reads the XDP capabilities of a device (`netdev_nl_dev_get_doit`).
    ///
    /// # Errors
    /// `ENODEV` without such a device.
    #[doc(alias = "NETDEV_CMD_DEV_GET")]
    pub fn dev(&mut self, ifindex: Ifindex) -> Result<Dev> {
        let object = self.0.device(ifindex);
        let mut request = self.0.family.request(cmd::DEV_GET, "dev-get", object);
        request.attrs().u32(attr::IFINDEX, ifindex.get());
        self.0.ask(&request, Dev::parse)
    }

    /// Lists the XDP capabilities of all devices (`netdev_nl_dev_get_dumpit`).
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "NETDEV_CMD_DEV_GET")]
    pub fn devs(&mut self) -> Result<Vec<Dev>> {
        let request = self.0.family.request(cmd::DEV_GET, "dev-get", "");
        self.0.dump(&request, Dev::parse)
    }

    /// Creates a request for a list, of one device or of all.
    fn listing(&self, cmd: u8, op: &'static str, key: u16, of: Option<Ifindex>) -> Request {
        let object = of.map(|ifindex| self.0.device(ifindex)).unwrap_or_default();
        listing(&self.0.family, cmd, op, key, of, object)
    }
}

fn listing(
    family: &Family,
    cmd: u8,
    op: &'static str,
    key: u16,
    of: Option<Ifindex>,
    object: String,
) -> Request {
    let mut request = family.request(cmd, op, object);
    if let Some(ifindex) = of {
        request.attrs().u32(key, ifindex.get());
    }
    request
}

/// Capabilities of a device for XDP and AF_XDP (`netdev_nl_dev_fill`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Dev {
    /// Number of the device.
    pub ifindex: Ifindex,
    /// XDP features of the device: bits of `enum netdev_xdp_act`.
    pub xdp_features: u64,
    /// Number of fragments that an AF_XDP packet may have in zero copy mode.
    pub xdp_zc_max_segs: Option<u32>,
    /// XDP metadata that the device provides: bits of `enum netdev_xdp_rx_metadata`.
    pub xdp_rx_metadata_features: u64,
    /// AF_XDP features of the device: bits of `enum netdev_xsk_flags`.
    pub xsk_features: u64,
}

impl Dev {
    fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let mut ifindex = None;
        let mut dev = Self {
            ifindex: Ifindex::new(0),
            xdp_features: 0,
            xdp_zc_max_segs: None,
            xdp_rx_metadata_features: 0,
            xsk_features: 0,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::IFINDEX => ifindex = Some(Ifindex::new(attr.u32()?)),
                attr::XDP_FEATURES => dev.xdp_features = attr.u64()?,
                attr::XDP_ZC_MAX_SEGS => dev.xdp_zc_max_segs = Some(attr.u32()?),
                attr::XDP_RX_METADATA_FEATURES => dev.xdp_rx_metadata_features = attr.u64()?,
                attr::XSK_FEATURES => dev.xsk_features = attr.u64()?,
                _ => {}
            }
        }
        dev.ifindex = required(ifindex, attr::IFINDEX)?;
        Ok(dev)
    }
}
