//! Receiving engine: any number of listeners and connections, on one thread or on several, on `mio`.
//!
//! `mio` reports edges: a connection that became readable is not reported again until it has been
//! drained. So an event makes a connection ready. All ready connections get turns, one after the other, of a
//! fixed number of `recvmsg` calls each, until `recvmsg` would block or `TCP_INQ` says that nothing
//! is left. `TCP_INQ` does not count a reset (`tcp_inq_hint`): after an event that reports an end, the
//! connection is read to an error or to the end of the stream. The loop sleeps only while no connection is
//! ready, and at most until the next deadline.
//!
//! A sink may keep frags and give them back later ([`ReturnHandle`](crate::ReturnHandle)). A connection
//! whose sink keeps too many frags is not read until some have come back: its own peer waits, not the others.
//!
//! [`Engine::run`] serves all connections on the calling thread. [`Engine::run_on`] serves them on worker
//! threads, each with an epoll instance, a receive buffer and connections of its own.
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
mod event_loop;
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

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use crate::sink::{Sink, SinkError};
use event_loop::{Base, EndCallback, EventLoop, LISTENER, Setup};
use monitor::Loops;
use source::{Listeners, Source};

pub use config::{Config, Keepalive, Until, page_size};
pub use monitor::{ConnectionSnapshot, Group, Monitor, Snapshot};
pub use progress::Progress;
pub use report::{Connection, ConnectionError, End, EngineError, Peer, Report, Stats, Strangers};
pub use stop::StopHandle;
pub use workers::Worker;

/// Receiving engine: listeners and their connections, served on one thread or several; see the
/// [module](self).
///
/// `F` makes the sink of each connection.
pub struct Engine<S, F> {
    config: Config,
    open_sink: F,
    base: Base,
    listeners: Listeners,
    /// Address of the first listener.
    address: Option<SocketAddr>,
    stop: StopHandle,
    progress: Progress,
    /// Event loops of the engine, as its monitors see them.
    loops: Loops,
    on_end: Option<EndCallback<S>>,
}

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> Engine<S, F> {
    /// Makes an engine that takes a listening socket over. `open_sink` is called for each
    /// connection, on the thread that serves it; its error ends that connection.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn new(listener: TcpListener, config: Config, open_sink: F) -> Result<Self, EngineError> {
        Self::with_listeners([listener], config, open_sink)
    }

    /// Makes an engine that takes several listening sockets over, for other addresses or devices.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn with_listeners(
        listeners: impl IntoIterator<Item = TcpListener>,
        config: Config,
        open_sink: F,
    ) -> Result<Self, EngineError> {
        let base = Base::new()?;
        let loops = Loops::default();
        loops.set([base.monitored()]);
        let stop = StopHandle::new();
        stop.add(&base.waker);
        let mut engine = Self {
            config,
            open_sink,
            base,
            listeners: Listeners::default(),
            address: None,
            stop,
            progress: Progress::default(),
            loops,
            on_end: None,
        };
        let mut listeners = listeners.into_iter();
        listeners.try_for_each(|listener| engine.listen_too(listener))?;
        Ok(engine)
    }

    /// Takes another listening socket over, for another address or device.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn listen_too(&mut self, listener: TcpListener) -> Result<(), EngineError> {
        let registry = self.base.poll.registry();
        let address = self.listeners.add(registry, listener, LISTENER)?;
        self.address.get_or_insert(address);
        Ok(())
    }

    /// Has the engine hand each connection to `take` when the connection has ended, instead of
    /// keeping it for the report: for programs that receive without end. The sums are still in the
    /// report. `take` runs on the thread that served the connection, for one connection at a time.
    pub fn on_end(&mut self, take: impl FnMut(Connection<S>) + Send + 'static) {
        self.on_end = Some(Arc::new(Mutex::new(take)));
    }

    /// Makes `stop` the engine's stop handle. If the handle was used already, the engine returns as
    /// soon as it runs.
    pub fn stopped_by(mut self, stop: &StopHandle) -> Self {
        stop.add(&self.base.waker);
        self.stop = stop.clone();
        self
    }

    /// Handle that stops the engine, with all its threads, from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Counters of the engine, readable from another thread.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Monitor of the connections, for another thread.
    pub fn monitor(&self) -> Monitor {
        Monitor::of_engine(&self.loops)
    }

    /// Address of the first listener.
    pub fn local_addr(&self) -> SocketAddr {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        self.address.unwrap_or(unspecified)
    }

    /// Receives on the calling thread, until [`Config::until`] is reached or a stop handle is used.
    ///
    /// # Errors
    /// [`EngineError`]; the open connections are closed and their tokens given back. What ends a single
    /// connection is no error of the engine but the connection's [`End`].
    pub fn run(self) -> Result<Report<S>, EngineError> {
        let setup = Setup {
            config: self.config,
            open_sink: self.open_sink,
            source: Source::Listeners(self.listeners),
            worker: 0,
            stop: self.stop,
            acceptor: None,
            progress: self.progress,
            on_end: self.on_end,
        };
        EventLoop::new(self.base, setup)?.run()
    }
}
