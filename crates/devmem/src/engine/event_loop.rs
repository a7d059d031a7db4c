//! Event loop of one thread: its connections, and when it sleeps.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use super::config::{Config, Until};
use super::connection::OpenConnection;
use super::lifecycle::Input;
use super::monitor::{Snapshot, SnapshotSlot};
use super::progress::Progress;
use super::report::{Connection, End, EngineError, Peer, Report, Stats, Strangers, at};
use super::schedule::Schedule;
use super::source::Source;
use super::stop::{Returned, StopHandle};
use crate::buffer::RecvBuffer;
use crate::sink::{Sink, SinkError};
use crate::sys;
use crate::telemetry::Telemetry;

/// Poll token (`mio::Token`) of the listeners. A connection's poll token is its slot.
pub(super) const LISTENER: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 1);

/// Callback that takes each connection that has ended, shared by the threads of an engine.
pub(super) type EndCallback<S> = Arc<Mutex<dyn FnMut(Connection<S>) + Send>>;

/// Entry of an event loop's list of connections.
pub(super) enum Slot<S> {
    Open(Box<OpenConnection<S>>),
    Ended(Box<Connection<S>>),
    /// No connection: the slot is free for another.
    Vacant,
}

/// Poll instance and waker of a thread, and the slot for the thread's snapshots.
pub(super) struct Base {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) snapshots: SnapshotSlot,
}

impl Base {
    pub(super) fn new() -> Result<Self, EngineError> {
        let poll = Poll::new().map_err(at("open an epoll instance"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(at("open an eventfd"))?;
        Ok(Self {
            poll,
            waker: Arc::new(waker),
            snapshots: SnapshotSlot::default(),
        })
    }

    /// Snapshot slot and waker of the event loop, for the monitors.
    pub(super) fn monitored(&self) -> (&SnapshotSlot, &Arc<Waker>) {
        (&self.snapshots, &self.waker)
    }
}

/// Settings of an event loop.
pub(super) struct Setup<S, F> {
    pub(super) config: Config,
    pub(super) open_sink: F,
    pub(super) source: Source,
    /// Number of the thread, from 0.
    pub(super) worker: usize,
    pub(super) stop: StopHandle,
    /// Waker of the accepting thread, where that waits for connections to end.
    pub(super) acceptor: Option<Arc<Waker>>,
    pub(super) progress: Progress,
    /// Callback that takes each ended connection; without a callback the report keeps them.
    pub(super) on_end: Option<EndCallback<S>>,
}

/// Event loop of one thread.
pub(super) struct EventLoop<S, F> {
    pub(super) setup: Setup<S, F>,
    pub(super) base: Base,
    pub(super) returned: Arc<Returned>,
    pub(super) buffer: RecvBuffer,
    pub(super) slots: Vec<Slot<S>>,
    pub(super) vacant: Vec<usize>,
    /// Sums over the ended connections that `on_end` has taken.
    pub(super) past: Snapshot,
    /// Number of connections accepted so far.
    pub(super) accepted: usize,
    /// Number of open connections.
    pub(super) working: usize,
    /// Number of ended connections, for the accepting thread.
    pub(super) finished: Arc<AtomicUsize>,
    /// Whether the loop takes no more connections.
    pub(super) ending: bool,
    /// Connections that get a turn, and deadlines of all connections.
    pub(super) schedule: Schedule,
    /// Number of tokens that all connections hold.
    pub(super) held: u32,
    /// Time to try again to accept, after a shortage of fds or memory.
    pub(super) accept_at: Option<Instant>,
    /// Connections may wait at the listeners for an open one to end.
    pub(super) waits_for_room: bool,
    pub(super) stats: Stats,
}

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> EventLoop<S, F> {
    pub(super) fn new(base: Base, setup: Setup<S, F>) -> Result<Self, EngineError> {
        if let Some(time) = setup.config.busy_poll {
            let set = sys::set_busy_poll(base.poll.as_raw_fd(), time);
            set.map_err(EngineError::BusyPoll)?;
        }
        setup.stop.add(&base.waker);
        Ok(Self {
            buffer: RecvBuffer::with_capacity(setup.config.iov, setup.config.frags),
            returned: Arc::new(Returned::new(Arc::clone(&base.waker))),
            setup,
            base,
            slots: Vec::new(),
            vacant: Vec::new(),
            past: Snapshot::new(),
            accepted: 0,
            working: 0,
            finished: Arc::default(),
            ending: false,
            schedule: Schedule::default(),
            held: 0,
            accept_at: None,
            waits_for_room: false,
            stats: Stats::default(),
        })
    }

    /// Receives until [`Config::until`] is reached or a stop handle is used.
    ///
    /// # Errors
    /// [`EngineError`]; the connections at work are closed and their tokens given back. What
    /// befalls a single connection is no error here but its [`End`].
    pub(super) fn run(mut self) -> Result<Report<S>, EngineError> {
        let mut outcome = self.turn_until(Self::is_done);
        self.open_handed_over();
        self.ending = true;
        for index in 0..self.slots.len() {
            self.end(index, End::Stopped);
        }
        // For frags that sinks keep.
        if outcome.is_ok() {
            outcome = self.turn_until(|engine| engine.working == 0);
        }
        for index in 0..self.slots.len() {
            self.close(index);
        }
        self.base.snapshots.publish_last(self.snapshot());
        outcome?;
        let mut report = Report {
            stats: self.stats,
            telemetry: Telemetry::default(),
            connections: Vec::new(),
            strangers: match self.setup.source {
                Source::Listeners(listeners) => listeners.strangers,
                Source::Handover(_) => Strangers::default(),
            },
        };
        let past = self.past.total();
        report.stats += past.stats;
        report.telemetry += &past.telemetry;
        for slot in self.slots {
            if let Slot::Ended(connection) = slot {
                report.stats += connection.stats;
                report.telemetry += &connection.telemetry;
                report.connections.push(*connection);
            }
        }
        Ok(report)
    }

    fn turn_until(&mut self, done: fn(&Self) -> bool) -> Result<(), EngineError> {
        let mut events = Events::with_capacity(256);
        let mut returned = Vec::new();
        while !done(self) {
            self.wait(&mut events)?;
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(now),
                    WAKER => {}
                    Token(index) => {
                        let end = event.is_error() || event.is_read_closed();
                        self.step(index, Input::Event { end }, now);
                    }
                }
            }
            self.returned.take(&mut returned);
            for index in returned.drain(..) {
                self.take_back(index, now);
            }
            self.accept(now)?;
            // Before the turns: a connection that is due gets its turn in this round.
            self.act_on_deadlines(now);
            self.serve(now);
            if self.base.snapshots.is_wanted() {
                self.base.snapshots.publish(self.snapshot());
            }
        }
        Ok(())
    }

    /// Snapshot of the connections for a [`Monitor`](super::Monitor).
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.merge(self.past.clone());
        for slot in &self.slots {
            match slot {
                Slot::Open(open) => snapshot.add_working(open),
                Slot::Ended(ended) => snapshot.add_ended(ended),
                Slot::Vacant => {}
            }
        }
        snapshot
    }

    fn is_done(&self) -> bool {
        if self.setup.stop.is_stopped() {
            return true;
        }
        let over = match (&self.setup.source, self.setup.config.until) {
            (Source::Handover(handover), _) => handover.is_finished(),
            (_, Until::Peers(peers)) => self.accepted >= peers as usize,
            (_, Until::Stopped) => false,
        };
        over && self.working == 0
    }

    /// Sleeps until an event comes or a deadline is due.
    fn wait(&mut self, events: &mut Events) -> Result<(), EngineError> {
        let deadlines = [self.schedule.next_deadline(), self.accept_at];
        let timeout = match deadlines.into_iter().flatten().min() {
            _ if self.schedule.ready_count() > 0 => Some(Duration::ZERO),
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            None => None,
        };
        self.stats.epoll_waits += 1;
        match self.base.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            done => done.map_err(at("wait for events")),
        }
    }
}
