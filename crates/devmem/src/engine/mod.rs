//! The event loop: one listener, any number of connections, one thread, on `mio`.
//!
//! `mio` reports edges: a connection that became readable is not reported again until it has been
//! drained. So an event puts it on a ready list, where it gets turns of a fixed number of calls,
//! one after the other with all that are ready, until `recvmsg` would block. The loop sleeps only
//! when the list is empty, and not longer than a token may be held.
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

mod config;
mod connection;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::buffer::RecvBuffer;
use crate::sink::{Sink, SinkError};
use crate::stream::DevmemStream;
use connection::{Gathering, Open, Turn};

pub use config::{
    Config, Connection, ConnectionError, End, EngineError, Peer, Report, Stats, Until,
};
pub use progress::Progress;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The token of connection 0.
const FIRST: usize = 2;
/// How long to wait before accepting again when the process is out of fds or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends an engine from another thread, or from a signal handler's.
#[derive(Debug, Clone)]
pub struct StopHandle {
    stopped: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl StopHandle {
    /// Has the engine give all tokens back, close its connections and return. May be called at any
    /// time, any number of times.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "wake the event loop");
        }
    }
}

/// A place in the list of connections: at work, or over.
enum Slot<S> {
    Open(Box<Open<S>>),
    Over(Connection<S>),
    /// While one turns into the other.
    Vacant,
}

/// A listener and its connections; see the [module](self).
///
/// `F` makes the sink of each connection.
pub struct Engine<S, F> {
    config: Config,
    open_sink: F,
    poll: Poll,
    listener: Option<TcpListener>,
    address: SocketAddr,
    stop: StopHandle,
    buffer: RecvBuffer,
    slots: Vec<Slot<S>>,
    /// Connections at work.
    working: usize,
    /// Connections that may have something to read.
    ready: VecDeque<usize>,
    /// Connections that hold tokens, and since when.
    holding: VecDeque<(usize, Instant)>,
    /// Connections that gather, and since when they have been silent, or longer.
    gathering: VecDeque<(usize, Instant)>,
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
        let poll = Poll::new().map_err(at("open an epoll instance"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(at("open an eventfd"))?;
        listener
            .set_nonblocking(true)
            .map_err(at("set the listener non-blocking"))?;
        let mut listener = TcpListener::from_std(listener);
        let address = listener
            .local_addr()
            .map_err(at("get the listener's address"))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .map_err(at("register the listener"))?;
        let stop = StopHandle {
            stopped: Arc::default(),
            waker: Arc::new(waker),
        };
        Ok(Self {
            buffer: RecvBuffer::with_capacity(config.iov, config.frags),
            config,
            open_sink,
            poll,
            listener: Some(listener),
            address,
            stop,
            slots: Vec::new(),
            working: 0,
            ready: VecDeque::new(),
            holding: VecDeque::new(),
            gathering: VecDeque::new(),
            accept_at: None,
            stats: Stats::default(),
            progress: Progress::default(),
        })
    }

    /// What ends it from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// What it has received so far, for another thread to read.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Receives until [`Config::until`] is reached or somebody stops it.
    ///
    /// # Errors
    /// [`EngineError`]; the connections at work are closed and their tokens given back. What
    /// befalls a single connection is no error here but its [`End`].
    pub fn run(mut self) -> Result<Report<S>, EngineError> {
        let outcome = self.turn_until_done();
        for index in 0..self.slots.len() {
            self.end(index, End::Stopped);
        }
        outcome?;
        let mut report = Report {
            stats: self.stats,
            connections: Vec::new(),
        };
        for slot in self.slots {
            if let Slot::Over(connection) = slot {
                report.stats += connection.stats;
                report.connections.push(connection);
            }
        }
        Ok(report)
    }

    fn turn_until_done(&mut self) -> Result<(), EngineError> {
        let mut events = Events::with_capacity(256);
        while !self.is_done() {
            self.wait(&mut events)?;
            if self.stop.stopped.load(Ordering::SeqCst) {
                return Ok(());
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(Instant::now()),
                    Token(token) => self.make_ready(token.wrapping_sub(FIRST)),
                }
            }
            let now = Instant::now();
            if self.accept_at.is_some_and(|at| at <= now) {
                self.accept()?;
            }
            self.serve(now);
            self.flush_overdue();
            self.look_at_silent();
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        matches!(self.config.until, Until::Peers(peers) if self.slots.len() >= peers as usize)
            && self.working == 0
    }

    /// Sleeps until something happens, or is due.
    fn wait(&mut self, events: &mut Events) -> Result<(), EngineError> {
        let held_until = self
            .holding
            .front()
            .map(|(_, since)| *since + self.config.hold);
        let silent = self.gathering.front();
        let look_at = silent.map(|(_, since)| *since + self.config.patience);
        let due = [held_until, look_at, self.accept_at];
        let due = due.into_iter().flatten().min();
        let timeout = match due {
            _ if !self.ready.is_empty() => Some(Duration::ZERO),
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            None => None,
        };
        self.stats.epoll_waits += 1;
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            done => done.map_err(at("wait for events")),
        }
    }

    /// Accepts all that wait: the listener's events are edges too.
    fn accept(&mut self) -> Result<(), EngineError> {
        self.accept_at = None;
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((socket, address)) => self.open(socket, address)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "accept a connection");
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                    break;
                }
                Err(error) => return Err(EngineError::Accept(error)),
            }
            if matches!(self.config.until, Until::Peers(peers) if self.slots.len() >= peers as usize)
            {
                // Who comes later is refused by the kernel rather than left waiting.
                self.listener = None;
            }
        }
        Ok(())
    }

    fn open(&mut self, mut socket: TcpStream, address: SocketAddr) -> Result<(), EngineError> {
        let index = self.slots.len();
        let peer = Peer { index, address };
        self.poll
            .registry()
            .register(&mut socket, Token(FIRST + index), Interest::READABLE)
            .map_err(at("register a connection"))?;
        self.stats.connections += 1;
        self.progress.connected();
        let stream = DevmemStream::with_thresholds(socket, self.config.thresholds);
        if let Err(error) = stream.report_queued() {
            tracing::debug!(%error, "TCP_INQ");
        }
        self.slots.push(match (self.open_sink)(&peer) {
            Ok(sink) => {
                self.working += 1;
                let open = Open {
                    peer,
                    stream,
                    sink,
                    ready: false,
                    holding: false,
                    gathering: Gathering::Off,
                };
                Slot::Open(Box::new(open))
            }
            Err(error) => {
                let end = End::Failed(error.into());
                let stats = stream.stats();
                let _nothing_held = stream.abort();
                Slot::Over(Connection {
                    peer,
                    stats,
                    end,
                    sink: None,
                })
            }
        });
        Ok(())
    }

    fn make_ready(&mut self, index: usize) {
        if let Some(Slot::Open(open)) = self.slots.get_mut(index) {
            if !std::mem::replace(&mut open.ready, true) {
                self.ready.push_back(index);
            }
        }
    }

    /// One turn for each connection that is ready.
    fn serve(&mut self, now: Instant) {
        let before = self.ready.len();
        let mut any = false;
        for _ in 0..before {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            let bytes = open.stream.stats().bytes;
            let turn = open.serve(&mut self.buffer, &self.config);
            let new = open.stream.stats().bytes - bytes;
            any |= new > 0;
            self.progress.received(new);
            if open.stream.held() > 0 && !std::mem::replace(&mut open.holding, true) {
                self.holding.push_back((index, now));
            }
            match turn {
                Turn::More => self.ready.push_back(index),
                Turn::Drained => {
                    open.ready = false;
                    let before = open.gathering;
                    open.gather(new, now, &self.config);
                    // One entry for each that gathers; an entry that is out of date is renewed.
                    if matches!(open.gathering, Gathering::On(_))
                        && !matches!(before, Gathering::On(_))
                    {
                        self.gathering.push_back((index, now));
                    }
                }
                Turn::Ended(end) => self.end(index, end),
            }
        }
        if any {
            self.stats.first_byte.get_or_insert(now);
            self.stats.last_byte = Some(Instant::now());
        }
    }

    /// Gives back what has been held long enough.
    fn flush_overdue(&mut self) {
        if self.holding.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((index, since)) = self.holding.front().copied() {
            if now.saturating_duration_since(since) < self.config.hold {
                break;
            }
            self.holding.pop_front();
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            open.holding = false;
            if let Err(error) = open.stream.flush() {
                self.end(index, End::Failed(error.into()));
            }
        }
    }

    /// Makes those ready that gather and have been silent for too long.
    fn look_at_silent(&mut self) {
        if self.gathering.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((index, since)) = self.gathering.front().copied() {
            if now.saturating_duration_since(since) < self.config.patience {
                break;
            }
            self.gathering.pop_front();
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            match open.gathering {
                Gathering::On(drained) if drained > since || open.ready => {
                    self.gathering.push_back((index, drained.max(since)));
                    if open.ready {
                        // Its turn renews it.
                        break;
                    }
                }
                Gathering::On(_) => {
                    open.gathering = Gathering::Looking;
                    self.make_ready(index);
                }
                Gathering::Off | Gathering::Looking => {}
            }
        }
    }

    /// Ends a connection, if it is still at work.
    fn end(&mut self, index: usize, end: End) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        *slot = match std::mem::replace(slot, Slot::Vacant) {
            Slot::Open(open) => {
                self.working -= 1;
                Slot::Over(open.end(end))
            }
            over => over,
        };
    }
}

fn at(operation: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |error| EngineError::Poll(operation, error)
}

/// Errors of `accept` that concern one peer only (`accept(2)`: network errors already pending on
/// the new socket).
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        Interrupted | ConnectionAborted | NetworkDown | NetworkUnreachable | HostUnreachable
    ) || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EPERM))
}

/// Errors of `accept` that pass when something is freed.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}
