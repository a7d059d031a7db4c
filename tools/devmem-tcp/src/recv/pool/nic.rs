//! Page pools and drop counters of the physical NIC, read by netlink.

use std::time::Instant;

use netdev::queues::Scope;
use netdev::{Ifindex, Netdev, PagePoolId, QueueType};
use receiver::NicBehind;

use super::state::{Pool, Queue, SECOND, State};

/// Netlink socket and ids for reading the physical NIC's page pools and queue counters.
pub(super) struct Nic {
    netdev: Netdev,
    ifindex: Ifindex,
    device: String,
    /// Page pools that use the receiver's dmabufs, each with its dmabuf's index in `State::pools`.
    pools: Vec<(PagePoolId, usize)>,
    /// Counters `rx-alloc-fail` and `rx-hw-drops` of each queue when the receiver began.
    before: Vec<(Option<u64>, Option<u64>)>,
    drops_at: Option<Instant>,
    /// Whether the kernel counts the niovs in page pools' rings and caches.
    cached: bool,
}

impl Nic {
    pub(super) fn open(nic: &NicBehind, state: &mut State) -> Option<Self> {
        let open = || -> netdev::Result<Self> {
            Ok(Self {
                netdev: Netdev::open_in(&nic.netns)?,
                ifindex: nic.ifindex,
                device: nic.device.clone(),
                pools: Vec::new(),
                before: Vec::new(),
                drops_at: None,
                cached: true,
            })
        };
        let mut opened = match open() {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!("the page pools of {}: {error}", nic.device);
                return None;
            }
        };
        let all = opened.netdev.queues(Some(nic.ifindex)).unwrap_or_default();
        state.queues = nic
            .queues
            .iter()
            .map(|&id| {
                let queue = all.iter().find(|q| q.kind == QueueType::Rx && q.id == id);
                Queue {
                    id,
                    napi: queue.and_then(|queue| queue.napi).map(|napi| napi.get()),
                    alloc_fail: None,
                    hw_drops: None,
                }
            })
            .collect();
        opened.count_drops(state);
        Some(opened)
    }

    /// Updates the niovs and drop counters in `state`. False if the page pools can't be read.
    pub(super) fn look(&mut self, state: &mut State) -> bool {
        let due = self.drops_at.is_none_or(|at| at.elapsed() >= SECOND);
        match self.look_at_pools(state, due) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.pools.clear(),
            Err(error) => {
                tracing::debug!("the page pools of {}: {error}", self.device);
                return false;
            }
        }
        let scarce = |pool: &Pool| pool.in_use.is_some_and(|in_use| in_use * 2 > pool.niovs);
        if due || state.pools.iter().any(scarce) {
            self.count_drops(state);
        }
        true
    }

    /// Updates the niovs in flight of each dmabuf. Also updates the niovs in use, if `due` or if
    /// more than half of a dmabuf is in flight.
    fn look_at_pools(&mut self, state: &mut State, due: bool) -> netdev::Result<()> {
        if self.pools.is_empty() {
            let all = self.netdev.page_pools(Some(self.ifindex))?;
            for pool in all.iter().filter(|pool| pool.detach_time.is_none()) {
                let ours = |ours: &Pool| Some(ours.dmabuf) == pool.dmabuf;
                if let Some(index) = state.pools.iter().position(ours) {
                    self.pools.push((pool.id, index));
                }
            }
        }
        let mut inflight = vec![0; state.pools.len()];
        for &(id, index) in &self.pools {
            inflight[index] += self.netdev.page_pool(id)?.inflight.unwrap_or(0);
        }
        for (pool, inflight) in state.pools.iter_mut().zip(&inflight) {
            pool.inflight = Some(*inflight);
        }
        let scarce = |(pool, inflight): (&Pool, &u64)| inflight * 2 > pool.niovs;
        if due || state.pools.iter().zip(&inflight).any(scarce) {
            let cached = self.cached(state.pools.len());
            let taken = inflight.iter().zip(cached);
            for (pool, (inflight, cached)) in state.pools.iter_mut().zip(taken) {
                pool.in_use = Some(inflight.saturating_sub(cached));
            }
        }
        Ok(())
    }

    /// Counts the niovs in page pools' rings and caches, for each dmabuf: put in less taken out
    /// (`page_pool_put_unrefed_netmem`, `__page_pool_get_cached`).
    fn cached(&mut self, dmabufs: usize) -> Vec<u64> {
        let mut cached = vec![0; dmabufs];
        if !self.cached {
            return cached;
        }
        let all = match self.netdev.page_pool_stats(Some(self.ifindex)) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!("{error}");
                self.cached = false;
                return cached;
            }
        };
        for stats in all {
            let ours = self.pools.iter().find(|(id, _)| *id == stats.id);
            let Some(&(_, index)) = ours else { continue };
            let counters = &stats.counters;
            let sum = |counters: &[Option<u64>]| counters.iter().flatten().sum::<u64>();
            let in_it = sum(&[counters.recycle_cached, counters.recycle_ring]);
            let out = [
                counters.alloc_fast,
                counters.alloc_refill,
                counters.alloc_waive,
            ];
            cached[index] += in_it.saturating_sub(sum(&out));
        }
        cached
    }

    pub(super) fn count_drops(&mut self, state: &mut State) {
        self.drops_at = Some(Instant::now());
        let all = match self.netdev.qstats(Some(self.ifindex), Scope::Queue) {
            Ok(all) => all,
            Err(error) => {
                tracing::debug!("{error}");
                return;
            }
        };
        let now: Vec<_> = state
            .queues
            .iter()
            .map(|queue| {
                let of_queue = all.iter().find(|stats| {
                    let of = stats.queue;
                    of.is_some_and(|of| of.kind == QueueType::Rx && of.id == queue.id)
                });
                let counters = of_queue.map(|stats| &stats.counters);
                let counted = counters.map(|all| (all.rx_alloc_fail, all.rx_hw_drops));
                counted.unwrap_or_default()
            })
            .collect();
        if self.before.is_empty() {
            self.before.clone_from(&now);
        }
        // Counters of a queue may begin anew when it is set up again.
        let since = |now: Option<u64>, before: Option<u64>| {
            let (now, before) = (now?, before.unwrap_or(0));
            Some(now.checked_sub(before).unwrap_or(now))
        };
        let (mut failed, mut dropped) = (None, None);
        let before = now.iter().zip(&self.before);
        for (queue, (now, before)) in state.queues.iter_mut().zip(before) {
            queue.alloc_fail = since(now.0, before.0);
            queue.hw_drops = since(now.1, before.1);
            failed = plus(failed, queue.alloc_fail);
            dropped = plus(dropped, queue.hw_drops);
        }
        (state.alloc_fail, state.hw_drops) = (failed, dropped);
    }
}

/// Adds two counters, either of which may be unknown; `None` only if both are.
fn plus(sum: Option<u64>, more: Option<u64>) -> Option<u64> {
    match (sum, more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_does_not_count() {
        assert_eq!(plus(None, None), None);
        assert_eq!(plus(None, Some(1)), Some(1));
        assert_eq!(plus(Some(2), Some(1)), Some(3));
    }
}
