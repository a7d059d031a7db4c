//! Sampling of the niovs in use in a receiver's dmabufs, with warnings before none is left.
//!
//! A page pool's `inflight` (`page_pool_inflight`) counts the niovs that it took from the dmabuf
//! and did not give back: also those in the pool's own ring and cache, which are as good as free.
//! Where the kernel counts these (`CONFIG_PAGE_POOL_STATS`), they are subtracted.

mod nic;
mod state;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use devmem::engine::{ConnectionSnapshot, Monitor, Snapshot};
use dmabuf::Dmabuf;
use receiver::RxDevice;
use tracing::subscriber::{NoSubscriber, with_default};

use super::sinks::Ready;
use nic::Nic;
use state::SECOND;
pub(super) use state::{Pool, State};

/// Longest wait for the engine's snapshot of its connections.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// Time without a failed allocation after which the next one is warned of again.
const EPISODE: Duration = Duration::from_secs(10);

/// Sampler of the niovs in use in a receiver's dmabufs, which warns when few are left.
pub(super) struct Watcher {
    device: String,
    nic: Option<Nic>,
    niov: u64,
    /// Remedy text that says how to get a larger dmabuf.
    larger: &'static str,
    monitor: Monitor,
    state: State,
    own_at: Option<Instant>,
    failing: Option<Instant>,
}

impl Watcher {
    /// Makes a watcher of a receiver's dmabufs, whose niovs have `niov` bytes each.
    pub(super) fn new(ready: &Ready<'_>, niov: u64, larger: &'static str) -> Self {
        let RxDevice { link, nic, .. } = ready.device();
        let nic = nic.as_ref();
        let niov = niov.max(1);
        let pools = ready.bindings().map(|(binding, memory)| Pool {
            dmabuf: binding.id(),
            niovs: memory.len() / niov,
            inflight: None,
            peak_inflight: None,
            in_use: None,
            peak_in_use: None,
            starving: false,
        });
        let mut state = State {
            pools: pools.collect(),
            ..State::default()
        };
        Self {
            device: nic.map_or(&link.name, |nic| &nic.device).to_owned(),
            nic: nic.and_then(|nic| Nic::open(nic, &mut state)),
            niov,
            larger,
            monitor: ready.monitor(),
            state,
            own_at: None,
            failing: None,
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Samples the dmabufs and the NIC's counters. Returns warnings. Called a few times a second.
    pub(super) fn tick(&mut self) -> Vec<String> {
        let failed = self.state.alloc_fail.unwrap_or(0);
        // What is asked for a few times a second is not worth a line each time in the log.
        with_default(NoSubscriber::new(), || self.look());
        let mut warnings = self.near_the_end();
        warnings.extend(self.failures(failed));
        self.state.warnings += warnings.len() as u32;
        warnings
    }

    /// Reads the NIC's drop counters a last time. Returns the final state and possibly a warning.
    pub(super) fn end(mut self) -> (State, Option<String>) {
        let failed = self.state.alloc_fail.unwrap_or(0);
        if let Some(nic) = &mut self.nic {
            with_default(NoSubscriber::new(), || nic.count_drops(&mut self.state));
        }
        let warning = self.failures(failed);
        self.state.warnings += u32::from(warning.is_some());
        (self.state, warning)
    }

    fn look(&mut self) {
        match &mut self.nic {
            Some(nic) => {
                if !nic.look(&mut self.state) {
                    self.nic = None;
                }
            }
            None => self.look_at_our_own(),
        }
        for pool in &mut self.state.pools {
            pool.peak_inflight = pool.peak_inflight.max(pool.inflight);
            pool.peak_in_use = pool.peak_in_use.max(pool.in_use);
        }
    }

    /// Estimates the niovs in use where the NIC is out of reach: by tokens and sockets' receive
    /// queues. Only for a single dmabuf: these counts are sums over all dmabufs.
    fn look_at_our_own(&mut self) {
        if self.own_at.is_some_and(|at| at.elapsed() < SECOND) {
            return;
        }
        self.own_at = Some(Instant::now());
        let [pool] = &mut self.state.pools[..] else {
            return;
        };
        if let Some(snapshot) = self.monitor.snapshot(PATIENCE) {
            let holders = Holders::of(&snapshot, self.niov);
            let ours = holders.queued + holders.held + holders.kept;
            pool.in_use = Some(ours.min(pool.niovs));
        }
    }

    /// Returns a warning for each dmabuf with seven eighths of its niovs in use. A dmabuf is warned
    /// of again only after more than a quarter of its niovs were free.
    fn near_the_end(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        let several = self.state.pools.len() > 1;
        for pool in &mut self.state.pools {
            let Some(in_use) = pool.in_use else { continue };
            let starving = in_use * 8 >= pool.niovs * 7;
            if starving && !pool.starving {
                let snapshot = self.monitor.snapshot(PATIENCE);
                let holders = snapshot.as_ref().map(|all| Holders {
                    several,
                    ..Holders::of(all, self.niov)
                });
                warnings.push(starved(&self.device, pool, in_use, self.larger, holders));
                pool.starving = true;
            } else if in_use * 4 < pool.niovs * 3 {
                pool.starving = false;
            }
        }
        warnings
    }

    /// Warns if the NIC's failed allocations rise above `before`, for the first time in 10 s.
    fn failures(&mut self, before: u64) -> Option<String> {
        let now = self.state.alloc_fail?;
        if now <= before {
            return None;
        }
        let first = self.failing.is_none_or(|at| at.elapsed() >= EPISODE);
        self.failing = Some(Instant::now());
        let drops = match self.state.hw_drops {
            Some(drops) => format!(" and dropped {drops} packets"),
            None => String::new(),
        };
        first.then(|| {
            format!(
                "recv {}: the NIC found no memory to receive into {now} times{drops}: peers send \
                 again what was lost\n  give it more: {}; or fewer peers at a time",
                self.device, self.larger
            )
        })
    }
}

/// Estimated numbers of niovs in receive queues, kept by sinks, and waiting to be given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Holders {
    /// Number of niovs in the sockets' receive queues.
    queued: u64,
    /// Number of frags that sinks gave back, and whose tokens wait for the next flush.
    held: u64,
    /// Number of frags that sinks have not given back.
    kept: u64,
    /// Number of connections that are not read because their sinks keep too many frags.
    paused: usize,
    /// Number of engines that did not answer in time.
    missing: usize,
    /// Address of the peer that has the most niovs, and their number.
    most: Option<(String, u64)>,
    /// Whether there are several dmabufs: the numbers are then sums over all of them.
    several: bool,
}

impl Holders {
    fn of(snapshot: &Snapshot, niov: u64) -> Self {
        let of_one =
            |one: &ConnectionSnapshot| one.queued / niov + u64::from(one.held) + one.kept.frags;
        let most = snapshot.connections.iter().max_by_key(|look| of_one(look));
        let paused = snapshot.connections.iter();
        Self {
            queued: snapshot.queued() / niov,
            held: snapshot.held(),
            kept: snapshot.kept(),
            paused: paused.filter(|look| look.paused.is_some()).count(),
            missing: snapshot.missing,
            most: most.map(|look| (look.peer.address.to_string(), of_one(look))),
            several: false,
        }
    }
}

/// Remedy for a receiver that does not answer, because a sink is busy or a processor is missing.
const BUSY: &str = "\n  give it a faster sink, more processors (--thread-per-queue, --pin), or fewer peers at a time";

/// Makes the warning that few niovs of a dmabuf are left, with a remedy on a second line.
fn starved(
    device: &str,
    pool: &Pool,
    in_use: u64,
    larger: &str,
    holders: Option<Holders>,
) -> String {
    let Pool { dmabuf, niovs, .. } = pool;
    let mut text = format!(
        "recv {device}: {in_use} of the {niovs} niovs of dmabuf {dmabuf} are taken; the NIC will soon \
         have nothing to receive into: "
    );
    let Some(holders) = holders else {
        text += "the receiver does not answer, so the sockets' receive queues fill up";
        return text + BUSY;
    };
    let Holders {
        queued, held, kept, ..
    } = holders;
    let ring = match holders.several {
        true => 0,
        false => in_use.saturating_sub(queued + held + kept),
    };
    let of_all = if holders.several {
        "of all dmabufs, "
    } else {
        ""
    };
    let _infallible = write!(
        text,
        "{of_all}about {queued} are in the sockets' receive queues, {kept} with sinks, {held} about to \
         be given back"
    );
    if !holders.several {
        let _infallible = write!(text, ", {ring} in the NIC's ring or on their way back");
    }
    if let Some((peer, most)) = &holders.most {
        let all = queued + held + kept + ring;
        let percent = most * 100 / all.max(1);
        let _infallible = write!(
            text,
            "; the most by one peer are {most} ({percent} %), from {peer}"
        );
    }
    if holders.missing > 0 {
        let _infallible = write!(
            text,
            "; {} of the threads did not answer, so the receive queues of their sockets fill up",
            holders.missing
        );
        return text + BUSY;
    }
    text += &match queued.max(held).max(kept).max(ring) {
        most if most == ring => {
            format!(
                "\n  the dmabuf is small for the NIC's ring: {larger}; or a smaller ring: ethtool -G IF rx N"
            )
        }
        most if most == queued && holders.paused == 0 => format!(
            "\n  the receiver does not keep up: {larger}, --thread-per-queue for more processors, or fewer \
             peers at a time"
        ),
        _ => format!(
            "\n  the sink keeps more than the dmabuf can spare: {larger}, or a sink that gives back sooner"
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use netdev::DmabufId;

    use super::*;

    const LARGER: &str = "a larger one";

    fn pool() -> Pool {
        Pool {
            dmabuf: DmabufId::new(3),
            niovs: 512,
            inflight: Some(512),
            peak_inflight: None,
            in_use: None,
            peak_in_use: None,
            starving: false,
        }
    }

    fn said(queued: u64, kept: u64, held: u64) -> String {
        let holders = Holders {
            queued,
            held,
            kept,
            most: Some(("192.0.2.1:7".to_owned(), 300)),
            ..Holders::default()
        };
        starved("eth1", &pool(), 450, LARGER, Some(holders))
    }

    #[test]
    fn who_has_it_is_named_with_a_remedy() {
        let queues = said(400, 20, 0);
        assert!(queues.starts_with("recv eth1: 450 of the 512 niovs of dmabuf 3 are taken"));
        assert!(queues.contains("about 400 are in the sockets' receive queues, 20 with sinks"));
        assert!(queues.contains(
            " 30 in the NIC's ring or on their way back; the most by one peer are 300 (66 %), from \
             192.0.2.1:7\n"
        ));
        assert!(queues.contains("--thread-per-queue"));
        let sink = said(10, 400, 5);
        assert!(sink.contains("the sink keeps") && sink.contains(": a larger one, or a sink"));
        assert!(said(10, 10, 5).contains("ethtool -G"));
        let one = Holders {
            missing: 1,
            ..Holders::default()
        };
        let one = starved("eth1", &pool(), 450, LARGER, Some(one));
        assert!(
            one.contains("1 of the threads did not answer")
                && !one.contains("ethtool")
                && one.ends_with(BUSY)
        );
        let both = Holders {
            queued: 400,
            several: true,
            ..Holders::default()
        };
        let both = starved("eth1", &pool(), 450, LARGER, Some(both));
        assert!(both.contains("of all dmabufs, about 400 are in") && !both.contains("ring"));
        let busy = starved("eth1", &pool(), 450, LARGER, None);
        assert!(busy.contains("does not answer") && busy.lines().count() == 2);
        assert!(
            !busy.contains("a sink and"),
            "no sink need be at fault: {busy}"
        );
    }
}
