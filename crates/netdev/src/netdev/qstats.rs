//! Statistics per queue and per device.

use netlink::{AttrSpec, Attrs, Result};
use serde::Serialize;

use super::{Netdev, cmd};
use crate::parse::{Parsed, counters, required};
use crate::{Ifindex, QueueId, QueueType};

/// Attributes of a set of statistics: `NETDEV_A_QSTATS_*`.
mod attr {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const QUEUE_TYPE: u16 = 2;
    pub(super) const QUEUE_ID: u16 = 3;
    pub(super) const SCOPE: u16 = 4;
}

/// What statistics are summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole device, since it was last reset.
    Device,
    /// Each active queue, probably since the last reconfiguration.
    Queue,
}

/// How they read.
pub(super) const ATTRS: &[AttrSpec] = &[
    AttrSpec::number(attr::IFINDEX, "ifindex"),
    AttrSpec::choice(attr::QUEUE_TYPE, "queue-type", &["rx", "tx"]),
    AttrSpec::number(attr::QUEUE_ID, "queue-id"),
    AttrSpec::number(attr::SCOPE, "scope"),
];

impl Netdev {
    /// Statistics of one device or of all (`netdev_nl_qstats_get_dumpit`). Devices whose driver
    /// has none are left out.
    ///
    /// # Errors
    /// `ENODEV` without such a device, `EOPNOTSUPP` where one is named whose driver has none.
    pub fn qstats(&mut self, of: Option<Ifindex>, scope: Scope) -> Result<Vec<Qstats>> {
        let mut request = self.listing(cmd::QSTATS_GET, "qstats-get", attr::IFINDEX, of);
        if scope == Scope::Queue {
            request.attrs().uint(attr::SCOPE, 1);
        }
        self.0.dump(&request, Qstats::parse)
    }
}

/// Which queue of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct QueueRef {
    /// Which way it goes.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// Its number.
    pub id: QueueId,
}

/// Statistics of a device or of one of its queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Qstats {
    /// The device.
    pub ifindex: Ifindex,
    /// The queue; `None` for the device as a whole.
    pub queue: Option<QueueRef>,
    /// The counters; which there are is up to the driver.
    #[serde(flatten)]
    pub counters: QueueCounters,
}

counters!(
    /// Counters of a queue or a device; the kernel's netdev.yaml says what each of them means.
    QueueCounters {
        /// Packets received from the wire.
        rx_packets = 8,
        /// Bytes received from the wire.
        rx_bytes = 9,
        /// Packets sent.
        tx_packets = 10,
        /// Bytes sent.
        tx_bytes = 11,
        /// Times that no buffer could be had to receive into.
        rx_alloc_fail = 12,
        /// Packets that entered the device and never left it, for whatever reason.
        rx_hw_drops = 13,
        /// Those of them dropped for a passing lack of resources.
        rx_hw_drop_overruns = 14,
        /// Packets marked `CHECKSUM_COMPLETE`.
        rx_csum_complete = 15,
        /// Packets marked `CHECKSUM_UNNECESSARY`.
        rx_csum_unnecessary = 16,
        /// Packets whose checksum the device did not check.
        rx_csum_none = 17,
        /// Packets with a bad checksum.
        rx_csum_bad = 18,
        /// Packets that hardware GRO made.
        rx_hw_gro_packets = 19,
        /// Their bytes.
        rx_hw_gro_bytes = 20,
        /// The packets of the wire that it made them from.
        rx_hw_gro_wire_packets = 21,
        /// Their bytes.
        rx_hw_gro_wire_bytes = 22,
        /// Packets dropped by a limit on the rate.
        rx_hw_drop_ratelimits = 23,
        /// Packets that arrived at the device to be sent and never left it.
        tx_hw_drops = 24,
        /// Those of them that were malformed.
        tx_hw_drop_errors = 25,
        /// Packets sent without a checksum to calculate.
        tx_csum_none = 26,
        /// Packets whose checksum the device calculated.
        tx_needs_csum = 27,
        /// Packets that the device cut into segments.
        tx_hw_gso_packets = 28,
        /// Their bytes.
        tx_hw_gso_bytes = 29,
        /// The segments.
        tx_hw_gso_wire_packets = 30,
        /// Their bytes.
        tx_hw_gso_wire_bytes = 31,
        /// Packets dropped by a limit on the rate.
        tx_hw_drop_ratelimits = 32,
        /// Times the queue was full and the stack told to stop.
        tx_stop = 33,
        /// Times the stack was told to go on.
        tx_wake = 34,
    }
);

impl Qstats {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let (mut ifindex, mut kind, mut id) = (None, None, None);
        let mut counters = QueueCounters::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::IFINDEX => ifindex = Some(Ifindex::new(attr.u32()?)),
                attr::QUEUE_TYPE => kind = Some(QueueType::parse(&attr)?),
                attr::QUEUE_ID => id = Some(QueueId::new(attr.u32()?)),
                _ => counters.take(&attr)?,
            }
        }
        let queue = match id {
            Some(id) => Some(QueueRef {
                kind: required(kind, attr::QUEUE_TYPE)?,
                id,
            }),
            None => None,
        };
        Ok(Self {
            ifindex: required(ifindex, attr::IFINDEX)?,
            queue,
            counters,
        })
    }
}
