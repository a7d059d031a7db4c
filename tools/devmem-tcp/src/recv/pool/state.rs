//! Use of a receiver's dmabufs, and what the NIC dropped for lack of memory.

use std::time::Duration;

use netdev::{DmabufId, QueueId};
use serde::Serialize;

/// Time between two reads of the NIC's drop counters, or two estimates if the NIC is out of reach.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Use of a receiver's dmabufs, with the failed allocations and drops of its rx queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    /// Numbers of niovs in use, for each bound dmabuf.
    pub(crate) pools: Vec<Pool>,
    /// Number of failed receive buffer allocations since the receiver began; `None` if not counted.
    pub(crate) alloc_fail: Option<u64>,
    /// Number of packets dropped by the NIC since the receiver began; `None` if not counted.
    pub(crate) hw_drops: Option<u64>,
    /// Number of warnings given about the dmabufs.
    pub(crate) warnings: u32,
    /// Rx queues of the physical NIC that the receiver uses.
    #[serde(skip)]
    pub(crate) queues: Vec<Queue>,
}

/// Numbers of niovs in flight and in use of one dmabuf, with their peaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pool {
    pub(crate) dmabuf: DmabufId,
    pub(crate) niovs: u64,
    /// Number of the dmabuf's niovs that page pools have; `None` if the NIC is out of reach.
    pub(crate) inflight: Option<u64>,
    /// Greatest number of niovs in flight, of five samples a second.
    pub(crate) peak_inflight: Option<u64>,
    /// Number of niovs in flight that are not in a page pool's own ring or cache. An estimate where
    /// the NIC is out of reach.
    pub(crate) in_use: Option<u64>,
    /// Greatest number of niovs in use, of 1 sample a second; of 5 if over half are in flight.
    pub(crate) peak_in_use: Option<u64>,
    #[serde(skip)]
    pub(super) starving: bool,
}

#[cfg(test)]
impl Pool {
    /// Makes a dmabuf with 15/16 of its niovs in use and in flight, after a peak of all of them.
    pub(crate) fn of(dmabuf: DmabufId, niovs: u64) -> Self {
        let taken = niovs / 16 * 15;
        Self {
            dmabuf,
            niovs,
            inflight: Some(taken),
            peak_inflight: Some(niovs),
            in_use: Some(taken),
            peak_in_use: Some(niovs),
            starving: false,
        }
    }
}

/// Rx queue of the physical NIC, with its NAPI id, failed allocations and drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) napi: Option<u32>,
    pub(crate) alloc_fail: Option<u64>,
    pub(crate) hw_drops: Option<u64>,
}
