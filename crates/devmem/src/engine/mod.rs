//! The event loop: any number of listeners and connections on one thread, on `mio`; or several such
//! loops, a thread each ([`Workers`]).
//!
//! `mio` reports edges: a connection that became readable is not reported again until it has been
//! drained. So an event puts it on a ready list, where it gets turns of a fixed number of calls,
//! one after the other with all that are ready, until `recvmsg` would block, or says by `TCP_INQ`
//! that nothing is left. `TCP_INQ` counts no reset (`tcp_inq_hint`): after an event that tells of an
//! end, only an error or the end of the stream will do. The loop sleeps only when the list is empty,
//! and not longer than a token may be held.
//!
//! A sink may keep frags and give them back later ([`ReturnHandle`](crate::ReturnHandle)). Who keeps
//! too many is not served until some came back: its own peer waits, not the others.
//!
//! ```no_run
//! use devmem::engine::{Config, Engine};
//! use devmem::listen::{SocketOptions, listen};
//! use devmem::sink::Discard;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = listen("[::]:5000".parse()?, &SocketOptions::default())?;
//! let report = Engine::new(listener, Config::default(), |_peer| Ok(Discard))?.run()?;
//! println!("{} bytes in {} frags", report.stats.stream.bytes, report.stats.stream.frags);
//! # Ok(()) }
//! ```

mod accept;
mod config;
mod connection;
mod deadlines;
mod gathering;
mod lifecycle;
mod monitor;
mod progress;
mod report;
mod schedule;
mod serve;
mod source;
mod stop;
#[cfg(test)]
mod tests;
mod window;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use crate::buffer::RecvBuffer;
use crate::sink::{Sink, SinkError};
use crate::sys;
use crate::telemetry::Telemetry;
use connection::OpenConnection;
use lifecycle::Input;
use monitor::SnapshotSlot;
use report::at;
use schedule::Schedule;
use source::{Handover, Listeners, Source};
use stop::Returned;

pub use config::{Config, Keepalive, Until, page_size};
pub use monitor::{ConnectionSnapshot, Group, Monitor, Snapshot};
pub use progress::Progress;
pub use report::{Connection, ConnectionError, End, EngineError, Peer, Report, Stats, Strangers};
pub use stop::StopHandle;
pub use workers::{Worker, Workers};

/// A connection's token is its number.
const LISTENER: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 1);

/// Entry of the list of connections.
enum Slot<S> {
    Open(Box<OpenConnection<S>>),
    Ended(Box<Connection<S>>),
    /// Free for another connection.
    Vacant,
}

/// Receiver of ended connections that several engines share.
type SharedOnEnd<S> = Arc<dyn Fn(Connection<S>) + Send + Sync>;

/// Receiver of connections that have ended.
enum OnEnd<S> {
    Owned(Box<dyn FnMut(Connection<S>) + Send>),
    Shared(SharedOnEnd<S>),
}

/// Poll instance and waker of an engine.
struct Base {
    poll: Poll,
    waker: Arc<Waker>,
    snapshots: SnapshotSlot,
}

impl Base {
    fn new() -> Result<Self, EngineError> {
        let poll = Poll::new().map_err(at("open an epoll instance"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(at("open an eventfd"))?;
        Ok(Self {
            poll,
            waker: Arc::new(waker),
            snapshots: SnapshotSlot::default(),
        })
    }

    fn monitor(&self) -> Monitor {
        Monitor::new(&self.snapshots, Arc::clone(&self.waker))
    }
}

/// Listeners and their connections; see the [module](self).
///
/// `F` makes the sink of each connection.
pub struct Engine<S, F> {
    config: Config,
    open_sink: F,
    base: Base,
    source: Source,
    /// Where the first listener listens.
    address: Option<SocketAddr>,
    worker: usize,
    stop: StopHandle,
    returned: Arc<Returned>,
    buffer: RecvBuffer,
    slots: Vec<Slot<S>>,
    vacant: Vec<usize>,
    /// Receiver of ended connections; without one, the report keeps them.
    on_end: Option<OnEnd<S>>,
    /// Sums over the connections that were handed out.
    past: Snapshot,
    /// Connections accepted so far.
    accepted: usize,
    /// Open connections.
    working: usize,
    /// Number of ended connections, for the accepting thread.
    finished: Arc<AtomicUsize>,
    /// No more connections are taken.
    ending: bool,
    /// Connections that get a turn, and deadlines of all connections.
    schedule: Schedule,
    /// Tokens that all connections hold.
    held: u32,
    /// When to try again to accept.
    accept_at: Option<Instant>,
    stats: Stats,
    progress: Progress,
}

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> Engine<S, F> {
    /// Takes a listening socket over. `open_sink` is called for each connection; its error ends
    /// that connection.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn new(
        listener: std::net::TcpListener,
        config: Config,
        open_sink: F,
    ) -> Result<Self, EngineError> {
        let source = Source::Listeners(Listeners::default());
        let base = Base::new()?;
        let mut engine = Self::with_source(base, source, 0, StopHandle::new(), config, open_sink)?;
        engine.listen_too(listener)?;
        Ok(engine)
    }

    /// Makes the engine of a worker, to which `Workers` hands connections.
    fn worker(
        base: Base,
        worker: usize,
        handover: Arc<Handover>,
        stop: StopHandle,
        config: Config,
        open_sink: F,
    ) -> Result<Self, EngineError> {
        let source = Source::Handover(handover);
        Self::with_source(base, source, worker, stop, config, open_sink)
    }

    fn with_source(
        base: Base,
        source: Source,
        worker: usize,
        stop: StopHandle,
        config: Config,
        open_sink: F,
    ) -> Result<Self, EngineError> {
        if let Some(time) = config.busy_poll {
            let set = sys::set_busy_poll(base.poll.as_raw_fd(), time);
            set.map_err(EngineError::BusyPoll)?;
        }
        stop.add(&base.waker);
        Ok(Self {
            buffer: RecvBuffer::with_capacity(config.iov, config.frags),
            open_sink,
            source,
            address: None,
            worker,
            stop,
            returned: Arc::new(Returned::new(Arc::clone(&base.waker))),
            base,
            slots: Vec::new(),
            vacant: Vec::new(),
            on_end: None,
            past: Snapshot::new(),
            accepted: 0,
            working: 0,
            finished: Arc::default(),
            ending: false,
            schedule: Schedule::default(),
            held: 0,
            accept_at: None,
            stats: Stats::default(),
            progress: Progress::default(),
            config,
        })
    }

    /// Takes another listening socket over: another address, another device.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn listen_too(&mut self, listener: std::net::TcpListener) -> Result<(), EngineError> {
        if let Source::Listeners(listeners) = &mut self.source {
            let address = listeners.add(self.base.poll.registry(), listener, LISTENER)?;
            self.address.get_or_insert(address);
        }
        Ok(())
    }

    /// Hands each connection to `take` when it is over, instead of keeping it for the report: for who
    /// receives for ever. The sums are still in the report.
    pub fn on_end(&mut self, take: impl FnMut(Connection<S>) + Send + 'static) {
        self.on_end = Some(OnEnd::Owned(Box::new(take)));
    }

    /// Makes `stop` the engine's stop handle. If it was used already, [`run`](Self::run) returns at once.
    pub fn stopped_by(mut self, stop: &StopHandle) -> Self {
        stop.add(&self.base.waker);
        self.stop = stop.clone();
        self
    }

    /// Handle that stops the engine from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Counters of the engine, readable from another thread.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Monitor of the connections, for another thread.
    pub fn monitor(&self) -> Monitor {
        self.base.monitor()
    }

    /// Where it listens; of several, the first.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Receives until [`Config::until`] is reached or a stop handle is used.
    ///
    /// # Errors
    /// [`EngineError`]; the connections at work are closed and their tokens given back. What
    /// befalls a single connection is no error here but its [`End`].
    pub fn run(mut self) -> Result<Report<S>, EngineError> {
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
            strangers: match self.source {
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

    /// Snapshot of the connections for a [`Monitor`].
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
        if self.stop.is_stopped() {
            return true;
        }
        let over = match (&self.source, self.config.until) {
            (Source::Handover(handover), _) => handover.is_finished(),
            (_, Until::Peers(peers)) => self.accepted >= peers as usize,
            (_, Until::Stopped) => false,
        };
        over && self.working == 0
    }

    /// Sleeps until something happens, or is due.
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
