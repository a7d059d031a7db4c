//! Statistics per queue and per device.

use netlink::{Attrs, Result};
use serde::Serialize;

use super::{Netdev, cmd};
use crate::parse::{Parsed, attributes, counters, required};
use crate::{Ifindex, QueueId, QueueType};

attributes! {
    /// Attributes of a set of statistics: `NETDEV_A_QSTATS_*`.
    pub(super) mod attr {
        IFINDEX = 1, number("ifindex");
        QUEUE_TYPE = 2, choice("queue-type", &["rx", "tx"]);
        QUEUE_ID = 3, number("queue-id");
        SCOPE = 4, number("scope");
    }
}

/// Scope that statistics are summed over: a device or a queue.
#[doc(alias = "NETDEV_QSTATS_SCOPE_QUEUE")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole device: sums since the device was last reset.
    Device,
    /// Each active queue: sums since, probably, the last reconfiguration.
    Queue,
}

impl Netdev {
    /// Reads the packet statistics of one device or of all (`netdev_nl_qstats_get_dumpit`). Devices
    /// whose driver has none are left out.
    ///
    /// # Errors
    /// `ENODEV` without such a device, `EOPNOTSUPP` where the driver of the named device has none.
    #[doc(alias = "NETDEV_CMD_QSTATS_GET")]
    pub fn qstats(&mut self, of: Option<Ifindex>, scope: Scope) -> Result<Vec<Qstats>> {
        let mut request = self.listing(cmd::QSTATS_GET, "qstats-get", attr::IFINDEX, of);
        if scope == Scope::Queue {
            request.attrs().uint(attr::SCOPE, 1);
        }
        self.0.dump(&request, Qstats::parse)
    }
}

/// Direction and number of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct QueueRef {
    /// Direction of the queue.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// Number of the queue.
    pub id: QueueId,
}

/// Packet statistics of a device or of one of its queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Qstats {
    /// Number of the device.
    pub ifindex: Ifindex,
    /// Queue of the statistics; `None` for the device as a whole.
    pub queue: Option<QueueRef>,
    /// Counters of the device or the queue; the driver decides which there are.
    #[serde(flatten)]
    pub counters: QueueCounters,
}

counters!(
    /// Counters of a queue or a device. The kernel's netdev.yaml defines each of them.
    QueueCounters {
        /// Number of packets received from the wire.
        rx_packets = 8,
        /// Number of bytes received from the wire.
        rx_bytes = 9,
        /// Number of packets sent.
        tx_packets = 10,
        /// Number of bytes sent.
        tx_bytes = 11,
        /// Number of failed allocations of receive buffers.
        rx_alloc_fail = 12,
        /// Packets that the device received and dropped, for any reason.
        rx_hw_drops = 13,
        /// Received packets that the device dropped for a temporary lack of resources.
        rx_hw_drop_overruns = 14,
        /// Packets marked `CHECKSUM_COMPLETE`.
        rx_csum_complete = 15,
        /// Packets marked `CHECKSUM_UNNECESSARY`.
        rx_csum_unnecessary = 16,
        /// Packets whose checksum the device did not check.
        rx_csum_none = 17,
        /// Packets with a bad checksum.
        rx_csum_bad = 18,
        /// Packets that hardware GRO assembled.
        rx_hw_gro_packets = 19,
        /// Number of bytes in the packets that hardware GRO assembled.
        rx_hw_gro_bytes = 20,
        /// Number of wire packets that hardware GRO assembled.
        rx_hw_gro_wire_packets = 21,
        /// Bytes of the wire packets that hardware GRO assembled.
        rx_hw_gro_wire_bytes = 22,
        /// Number of received packets dropped by a rate limit.
        rx_hw_drop_ratelimits = 23,
        /// Packets that the device was given to send and dropped, for any reason.
        tx_hw_drops = 24,
        /// Packets that the device was given to send and dropped as malformed.
        tx_hw_drop_errors = 25,
        /// Packets sent that needed no checksum.
        tx_csum_none = 26,
        /// Packets whose checksum the device calculated.
        tx_needs_csum = 27,
        /// Packets that the device cut into segments.
        tx_hw_gso_packets = 28,
        /// Bytes of the packets that the device cut into segments.
        tx_hw_gso_bytes = 29,
        /// Number of segments that the device made of packets.
        tx_hw_gso_wire_packets = 30,
        /// Bytes of the segments that the device made of packets.
        tx_hw_gso_wire_bytes = 31,
        /// Packets to send dropped by a rate limit.
        tx_hw_drop_ratelimits = 32,
        /// Number of times that the queue was full and the stack was stopped.
        tx_stop = 33,
        /// Number of times that a stopped queue was woken.
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
