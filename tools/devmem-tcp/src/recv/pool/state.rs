//! What is known of the memory that is received into.

use std::time::Duration;

use netdev::{DmabufId, QueueId};
use serde::Serialize;

/// Between two looks at the counters of drops, and at our own where the NIC is out of reach.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What is known of the memory that is received into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    /// Each dmabuf.
    pub(crate) pools: Vec<Pool>,
    /// Times that a queue of ours found no buffer, since we began; `None` where the NIC does not count.
    pub(crate) alloc_fail: Option<u64>,
    /// Packets that got lost in the NIC on the way to a queue of ours, since we began.
    pub(crate) hw_drops: Option<u64>,
    /// Warnings given.
    pub(crate) warnings: u32,
    /// The NIC's queues that are received on.
    #[serde(skip)]
    pub(crate) queues: Vec<Queue>,
}

/// A dmabuf and how much of it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pool {
    pub(crate) dmabuf: DmabufId,
    pub(crate) niovs: u64,
    /// Niovs that the page pools have; `None` where the NIC is out of reach.
    pub(crate) inflight: Option<u64>,
    /// The most seen at a look, five times a second.
    pub(crate) peak_inflight: Option<u64>,
    /// Of these, the ones that are not in the pools' own ring and cache.
    pub(crate) in_use: Option<u64>,
    /// The most seen at a look: once a second, or as `peak_inflight` while more than half is in flight.
    pub(crate) peak_in_use: Option<u64>,
    #[serde(skip)]
    pub(super) starving: bool,
}

#[cfg(test)]
impl Pool {
    /// A dmabuf that is taken but for a sixteenth, and was all taken.
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

/// A queue of the NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) napi: Option<u32>,
    pub(crate) alloc_fail: Option<u64>,
    pub(crate) hw_drops: Option<u64>,
}
