//! Snapshots of a running engine for other threads.
//!
//! The engine makes a snapshot between two rounds of its loop, when a monitor asks. While no monitor
//! asks, this costs one relaxed load a round.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

use super::connection::OpenConnection;
use super::report::{Connection, Peer};
use super::stop::wake;
use crate::recycler::Kept;
use crate::stats::StreamStats;
use crate::telemetry::Telemetry;

/// Takes snapshots of an engine, or of the engines of several threads.
#[derive(Debug, Clone)]
pub struct Monitor {
    engines: Vec<Loops>,
}

/// Snapshot of an open connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionSnapshot {
    /// Peer of the connection; its NAPI id is the latest of the connection.
    pub peer: Peer,
    /// Counters of the payload and of its tokens.
    pub stats: StreamStats,
    /// Histograms of how the payload was received.
    pub telemetry: Telemetry,
    /// Number of frags given back that wait for the next flush.
    pub held: u32,
    /// Frags that the connection's sink received and has not given back.
    pub kept: Kept,
    /// For how long the connection has not been read because its sink keeps too many frags; `None`
    /// if it is read.
    pub paused: Option<Duration>,
    /// Memory of the receive queue in bytes, whole niovs included (`SO_MEMINFO`,
    /// `SK_MEMINFO_RMEM_ALLOC`): segments that have not been read, in order or not. 0 where the
    /// kernel does not say.
    pub queued: u64,
}

/// Sum over several connections, including those that have ended.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Group {
    /// Number of open connections.
    pub working: usize,
    /// Number of connections that have ended.
    pub ended: usize,
    /// Counters of the payload of all connections in the group.
    pub stats: StreamStats,
    /// Histograms of how the payload was received.
    pub telemetry: Telemetry,
}

/// State of an engine at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Time of the snapshot; of several engines, the latest of their snapshots.
    pub taken: Instant,
    /// Open connections, in order of arrival.
    pub connections: Vec<ConnectionSnapshot>,
    /// Connections grouped by the NAPI instance, and so the rx queue, that their packets arrive through;
    /// `None` groups the connections whose NAPI instance the kernel does not tell.
    pub by_napi: BTreeMap<Option<u32>, Group>,
    /// Number of engines that did not answer in time, for example because a sink is busy. Such an
    /// engine's part of the snapshot is as of their last answer.
    pub missing: usize,
}

impl Monitor {
    pub(super) fn of_engine(loops: &Loops) -> Self {
        Self {
            engines: vec![loops.clone()],
        }
    }

    /// Monitor of the engines of all the given monitors.
    pub fn of_all(monitors: impl IntoIterator<Item = Monitor>) -> Self {
        let engines = monitors.into_iter().flat_map(|monitor| monitor.engines);
        Self {
            engines: engines.collect(),
        }
    }

    /// Wakes the engines and waits at most `timeout` for their snapshots. The part of an engine that has
    /// ended is its final state; the part of an engine that does not answer in time is as of its last
    /// answer. `None` if no engine has ended or answered.
    pub fn snapshot(&self, timeout: Duration) -> Option<Snapshot> {
        let deadline = Instant::now().checked_add(timeout);
        let loops: Vec<_> = self.engines.iter().flat_map(Loops::all).collect();
        let asked: Vec<_> = loops
            .iter()
            .map(|(shared, waker)| shared.ask(waker))
            .collect();
        let mut whole: Option<Snapshot> = None;
        let mut missing = 0;
        for ((shared, _), asked) in loops.iter().zip(asked) {
            let in_time = asked.is_none_or(|asked| shared.wait(asked, deadline));
            missing += usize::from(!in_time);
            match (shared.last(), &mut whole) {
                (Some(last), Some(whole)) => whole.merge(last),
                (last @ Some(_), None) => whole = last,
                (None, _) => {}
            }
        }
        if missing == loops.len() {
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

    /// Adds an open connection to the snapshot.
    pub(super) fn add_working<S>(&mut self, open: &OpenConnection<S>) {
        let stream = &open.stream;
        let mut peer = open.peer;
        if let Ok(Some(id)) = stream.incoming_napi_id() {
            peer.napi_id = Some(id);
        }
        let connection = ConnectionSnapshot {
            peer,
            stats: stream.stats(),
            telemetry: stream.telemetry().clone(),
            held: stream.held(),
            kept: stream.kept(),
            paused: open
                .lifecycle
                .paused_since()
                .map(|since| self.taken.saturating_duration_since(since)),
            queued: stream.receive_memory().unwrap_or(0),
        };
        let group = self.by_napi.entry(peer.napi_id).or_default();
        group.working += 1;
        group.stats += connection.stats;
        group.telemetry += &connection.telemetry;
        self.connections.push(connection);
    }

    /// Adds a connection that has ended to the snapshot.
    pub(super) fn add_ended<S>(&mut self, ended: &Connection<S>) {
        let group = self.by_napi.entry(ended.peer.napi_id).or_default();
        group.ended += 1;
        group.stats += ended.stats;
        group.telemetry += &ended.telemetry;
    }

    /// Adds another engine's snapshot of about the same time.
    pub fn merge(&mut self, other: Snapshot) {
        self.taken = self.taken.max(other.taken);
        self.connections.extend(other.connections);
        self.connections
            .sort_by_key(|connection| connection.peer.index);
        for (napi, group) in other.by_napi {
            self.by_napi.entry(napi).or_default().add(&group);
        }
        self.missing += other.missing;
    }

    /// Sum over all connections.
    pub fn total(&self) -> Group {
        let mut total = Group::default();
        self.by_napi.values().for_each(|group| total.add(group));
        total
    }

    /// Number of frags that wait for the next flush, over all connections.
    pub fn held(&self) -> u64 {
        self.connections
            .iter()
            .map(|connection| u64::from(connection.held))
            .sum()
    }

    /// Number of frags that sinks keep, over all connections.
    pub fn kept(&self) -> u64 {
        let kept = self
            .connections
            .iter()
            .map(|connection| connection.kept.frags);
        kept.sum()
    }

    /// Memory of all connections' receive queues, in bytes.
    pub fn queued(&self) -> u64 {
        let queued = self.connections.iter().map(|connection| connection.queued);
        queued.sum()
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

/// Event loops of an engine, as its monitors see them. Monitors may be made before the threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Loops(Arc<Mutex<Vec<LoopEntry>>>);

/// An event loop's state for its monitors, and the waker of the loop.
type LoopEntry = (Arc<Shared>, Arc<Waker>);

impl Loops {
    /// Replaces the event loops, each given by its snapshot slot and its waker.
    pub(super) fn set<'a>(
        &self,
        loops: impl IntoIterator<Item = (&'a SnapshotSlot, &'a Arc<Waker>)>,
    ) {
        let entry = |(slot, waker): (&SnapshotSlot, &_)| (Arc::clone(&slot.0), Arc::clone(waker));
        let entries = loops.into_iter().map(entry).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    fn all(&self) -> Vec<LoopEntry> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// State shared between the monitors and an event loop.
#[derive(Debug, Default)]
struct Shared {
    wanted: AtomicBool,
    answer: Mutex<Answer>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Answer {
    /// Number of snapshots published so far.
    number: u64,
    /// Latest snapshot of the event loop.
    snapshot: Option<Snapshot>,
    /// Whether the engine has ended: no further snapshot comes.
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a snapshot and returns the number of the latest one before it, or `None` if the
    /// engine has ended.
    fn ask(&self, waker: &Waker) -> Option<u64> {
        let answer = self.lock();
        if answer.ended {
            return None;
        }
        self.wanted.store(true, Ordering::Release);
        wake(waker);
        Some(answer.number)
    }

    /// Waits for the requested snapshot or for the engine's end; false if neither came in time.
    fn wait(&self, asked: u64, deadline: Option<Instant>) -> bool {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let timeout = deadline.map_or(Duration::MAX, left);
        let pending = |answer: &mut Answer| answer.number == asked && !answer.ended;
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

/// Snapshot slot: where the engine publishes its snapshots.
#[derive(Debug, Default)]
pub(super) struct SnapshotSlot(Arc<Shared>);

impl SnapshotSlot {
    /// Whether a monitor waits for a snapshot.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// Publishes a snapshot to all waiting monitors.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        drop(self.0.put(snapshot));
    }

    /// Publishes the engine's final state, which answers all later requests.
    pub(super) fn publish_last(&self, snapshot: Snapshot) {
        self.0.put(snapshot).ended = true;
    }
}

impl Drop for SnapshotSlot {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.answered.notify_all();
    }
}

#[cfg(test)]
mod tests;
