//! Choice of the threads that serve the connections.

use devmem::engine::Worker;
use netdev::{Netdev, QueueId, QueueType};

use crate::behind::NicBehind;
use crate::device::RxDevice;

/// Choice of the threads that serve the connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Threads {
    /// Whether each queue has a thread of its own.
    pub(crate) per_queue: bool,
    /// Processors that the threads are pinned to, in turn; any if empty.
    pub(crate) pin: Vec<usize>,
}

impl Threads {
    /// Configuration of the worker threads; empty if the caller's thread serves the connections.
    pub(crate) fn workers(&self, device: &RxDevice) -> netdev::Result<Vec<Worker>> {
        let napi_ids = match (self.per_queue, &device.nic) {
            (false, _) if self.pin.is_empty() => return Ok(Vec::new()),
            (false, _) => vec![Vec::new()],
            (true, Some(nic)) => napi_ids(nic)?,
            // Out of reach: each worker gets as many connections as the others.
            (true, None) => vec![Vec::new(); device.queues.len()],
        };
        Ok(self.pinned(napi_ids))
    }

    fn pinned(&self, napi_ids: Vec<Vec<u32>>) -> Vec<Worker> {
        let workers = napi_ids.into_iter().enumerate();
        let worker = |(number, napi_ids)| Worker {
            napi_ids,
            cpu: self.pin.get(number % self.pin.len().max(1)).copied(),
        };
        workers.map(worker).collect()
    }
}

/// Ids of the NAPI instances that serve each of a NIC's queues.
fn napi_ids(nic: &NicBehind) -> netdev::Result<Vec<Vec<u32>>> {
    let mut all = Netdev::open_in(&nic.netns)?.queues(Some(nic.ifindex))?;
    all.retain(|queue| queue.kind == QueueType::Rx);
    let of = |id: &QueueId| {
        let queue = all.iter().find(|queue| queue.id == *id);
        let napi = queue.and_then(|queue| queue.napi);
        napi.map(|napi| napi.get()).into_iter().collect()
    };
    Ok(nic.queues.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_used_in_turn() {
        let cpus = |pin: &[usize]| {
            let threads = Threads {
                per_queue: true,
                pin: pin.to_vec(),
            };
            let workers = threads.pinned(vec![vec![7], vec![8], vec![9]]);
            assert_eq!(workers[1].napi_ids, [8]);
            workers.iter().map(|worker| worker.cpu).collect::<Vec<_>>()
        };
        assert_eq!(cpus(&[]), [None; 3]);
        assert_eq!(cpus(&[4, 2]), [Some(4), Some(2), Some(4)]);
    }
}
