//! A look at a running engine, from another thread: taken by the engine itself between two turns of
//! its loop, when a monitor asks. While none does, it costs one relaxed load a turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

use super::connection::Open;
use super::report::{Connection, Peer};
use super::stop::wake;
use crate::recycler::Kept;
use crate::stats::StreamStats;
use crate::telemetry::Telemetry;

/// Asks an engine, or the engines of several threads, how it goes.
#[derive(Debug, Clone)]
pub struct Monitor {
    engines: Vec<(Arc<Shared>, Arc<Waker>)>,
}

/// Snapshot of an open connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Look {
    /// Peer of the connection; the NAPI id is the latest.
    pub peer: Peer,
    /// Counters of the payload and of its tokens.
    pub stats: StreamStats,
    /// How it was received.
    pub telemetry: Telemetry,
    /// Frags given back that wait for the next flush.
    pub held: u32,
    /// Frags that its sink has, or had at some time and never gave back.
    pub kept: Kept,
    /// For how long it has not been served, because its sink keeps too much.
    pub paused: Option<Duration>,
    /// Bytes of memory, whole niovs among it, that its receive queue takes (`SO_MEMINFO`,
    /// `SK_MEMINFO_RMEM_ALLOC`): in order or not, never read yet. 0 where the kernel does not say.
    pub queued: u64,
}

/// The sum over several connections, those that have ended included.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Group {
    /// Connections at work.
    pub working: usize,
    /// Connections that have ended.
    pub ended: usize,
    /// Counters of the payload.
    pub stats: StreamStats,
    /// How it was received.
    pub telemetry: Telemetry,
}

/// How an engine was doing at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// When the look was taken; of several engines, the latest look.
    pub taken: Instant,
    /// The connections at work, in order of arrival.
    pub connections: Vec<Look>,
    /// Connections grouped by the NAPI instance, and so the rx queue, that their packets arrive through; those of
    /// which the kernel does not say it are under `None`.
    pub by_napi: BTreeMap<Option<u32>, Group>,
    /// Engines that did not answer in time: one whose sink is busy, for example. Their part is as of
    /// their last answer.
    pub missing: usize,
}

impl Monitor {
    pub(super) fn new(shared: &Seen, waker: Arc<Waker>) -> Self {
        let engines = vec![(Arc::clone(&shared.0), waker)];
        Self { engines }
    }

    /// Monitor that asks the engines of all the given monitors.
    pub fn of_all(monitors: impl IntoIterator<Item = Monitor>) -> Self {
        let engines = monitors.into_iter().flat_map(|monitor| monitor.engines);
        Self {
            engines: engines.collect(),
        }
    }

    /// Wakes the engines and waits for their looks, at most so long. The part of an engine that has
    /// ended is what it ended with; that of one that does not answer in time is as of its last
    /// answer. `None` if none has ended or answered.
    pub fn snapshot(&self, timeout: Duration) -> Option<Snapshot> {
        let deadline = Instant::now().checked_add(timeout);
        let asked: Vec<_> = self
            .engines
            .iter()
            .map(|(shared, waker)| shared.ask(waker))
            .collect();
        let mut whole: Option<Snapshot> = None;
        let mut missing = 0;
        for ((shared, _), asked) in self.engines.iter().zip(asked) {
            let in_time = asked.is_none_or(|asked| shared.wait(asked, deadline));
            missing += usize::from(!in_time);
            match (shared.last(), &mut whole) {
                (Some(last), Some(whole)) => whole.merge(last),
                (last @ Some(_), None) => whole = last,
                (None, _) => {}
            }
        }
        if missing == self.engines.len() {
            return None;
        }
        let mut whole = whole.unwrap_or_else(Snapshot::new);
        whole.missing = missing;
        Some(whole)
    }
}

impl Snapshot {
    pub(super) fn new() -> Self {
        Self {
            taken: Instant::now(),
            connections: Vec::new(),
            by_napi: BTreeMap::new(),
            missing: 0,
        }
    }

    /// Adds a connection at work.
    pub(super) fn add_working<S>(&mut self, open: &Open<S>) {
        let stream = &open.stream;
        let mut peer = open.peer;
        if let Ok(Some(id)) = stream.incoming_napi_id() {
            peer.napi_id = Some(id);
        }
        let look = Look {
            peer,
            stats: stream.stats(),
            telemetry: stream.telemetry().clone(),
            held: stream.held(),
            kept: stream.kept(),
            paused: open
                .paused
                .map(|since| self.taken.saturating_duration_since(since)),
            queued: stream.receive_memory().unwrap_or(0),
        };
        let group = self.by_napi.entry(peer.napi_id).or_default();
        group.working += 1;
        group.stats += look.stats;
        group.telemetry += &look.telemetry;
        self.connections.push(look);
    }

    /// Adds one that has ended.
    pub(super) fn add_ended<S>(&mut self, ended: &Connection<S>) {
        let group = self.by_napi.entry(ended.peer.napi_id).or_default();
        group.ended += 1;
        group.stats += ended.stats;
        group.telemetry += &ended.telemetry;
    }

    /// Takes in what another engine told at about the same time.
    pub fn merge(&mut self, other: Snapshot) {
        self.taken = self.taken.max(other.taken);
        self.connections.extend(other.connections);
        self.connections.sort_by_key(|look| look.peer.index);
        for (napi, group) in other.by_napi {
            self.by_napi.entry(napi).or_default().add(&group);
        }
        self.missing += other.missing;
    }

    /// The sum over all connections.
    pub fn total(&self) -> Group {
        let mut total = Group::default();
        self.by_napi.values().for_each(|group| total.add(group));
        total
    }

    /// Frags that wait for the next flush, over all connections.
    pub fn held(&self) -> u64 {
        self.connections
            .iter()
            .map(|look| u64::from(look.held))
            .sum()
    }

    /// Frags that sinks keep, over all connections.
    pub fn kept(&self) -> u64 {
        self.connections.iter().map(|look| look.kept.frags).sum()
    }

    /// Memory of all receive queues, in bytes.
    pub fn queued(&self) -> u64 {
        self.connections.iter().map(|look| look.queued).sum()
    }
}

impl Group {
    fn add(&mut self, other: &Self) {
        self.working += other.working;
        self.ended += other.ended;
        self.stats += other.stats;
        self.telemetry += &other.telemetry;
    }
}

/// Between those who ask and the engine.
#[derive(Debug, Default)]
struct Shared {
    wanted: AtomicBool,
    answer: Mutex<Answer>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Answer {
    /// Looks taken so far.
    number: u64,
    /// The last one.
    snapshot: Option<Snapshot>,
    /// There will be no more.
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a look: the number of the last one before it, or none if the engine has ended.
    fn ask(&self, waker: &Waker) -> Option<u64> {
        let answer = self.lock();
        if answer.over {
            return None;
        }
        self.wanted.store(true, Ordering::Release);
        wake(waker);
        Some(answer.number)
    }

    /// Waits for the look that was asked for, or the engine's end; false if neither came in time.
    fn wait(&self, asked: u64, deadline: Option<Instant>) -> bool {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let timeout = deadline.map_or(Duration::MAX, left);
        let pending = |answer: &mut Answer| answer.number == asked && !answer.over;
        let waited = self
            .answered
            .wait_timeout_while(self.lock(), timeout, pending);
        let (mut answer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !pending(&mut answer)
    }

    fn last(&self) -> Option<Snapshot> {
        self.lock().snapshot.clone()
    }

    fn put(&self, snapshot: Snapshot) -> MutexGuard<'_, Answer> {
        let mut answer = self.lock();
        self.wanted.store(false, Ordering::Relaxed);
        answer.number += 1;
        answer.snapshot = Some(snapshot);
        self.answered.notify_all();
        answer
    }
}

/// The engine's side.
#[derive(Debug, Default)]
pub(super) struct Seen(Arc<Shared>);

impl Seen {
    /// Whether a monitor waits for a snapshot.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// Hands a look to all who wait.
    pub(super) fn tell(&self, snapshot: Snapshot) {
        drop(self.0.put(snapshot));
    }

    /// The last look: what the engine ended with, for all who ask later.
    pub(super) fn end(&self, snapshot: Snapshot) {
        self.0.put(snapshot).over = true;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.answered.notify_all();
    }
}

#[cfg(test)]
mod tests;
