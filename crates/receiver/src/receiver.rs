//! A receiver that is set up, its engine, and its end.

use std::fmt;
use std::net::TcpListener;

use devmem::engine::{
    Config, Connection, Engine, EngineError, Monitor, Peer, Progress, Report, StopHandle, Worker,
};
use devmem::sink::{Memory, Sink, SinkError};
use dmabuf::Dmabuf;
use netdev::queues::Binding;
use nic::Change;

use crate::builder::Builder;
use crate::device::RxDevice;
use crate::error::Error;
use crate::set_up::SetUp;

type Open<'a, S> = Box<dyn FnMut(&Peer) -> Result<S, SinkError> + Send + 'a>;

/// Listening sockets, and the engine's configuration for them.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) config: Config,
    /// Worker threads; without any, the caller's thread serves the connections.
    pub(crate) workers: Vec<Worker>,
    pub(crate) stop: StopHandle,
}

/// A receiver that is set up: the NIC has its settings, the memory is bound, the sockets listen.
///
/// Dropped, it closes the sockets, unbinds and restores the NIC; only the log tells of a failure then.
#[derive(Debug)]
#[must_use = "dropping it undoes the set-up"]
pub struct Receiver<M> {
    listening: Listening,
    set_up: SetUp<M>,
    device: RxDevice,
}

impl<M> Receiver<M> {
    /// Begins the options of a receiver on the device of this name, a NIC or a netkit.
    pub fn on(device: impl Into<String>) -> Builder<M> {
        Builder::new(device.into())
    }

    pub(crate) fn new(listening: Listening, set_up: SetUp<M>, device: RxDevice) -> Self {
        Self {
            listening,
            set_up,
            device,
        }
    }

    /// Device to receive on, its queues, and the NIC behind them.
    pub fn device(&self) -> &RxDevice {
        &self.device
    }

    /// Changes that were made to the NIC, in order.
    pub fn changes(&self) -> &[Change] {
        self.set_up.changes()
    }

    /// The bindings, each with its dmabuf; the same dmabuf is bound once only.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&Binding, &M)> {
        self.set_up.bindings()
    }

    /// CPU mappings of the dmabufs, for sinks.
    ///
    /// # Errors
    /// [`Error::Map`], as for a GPU's memory.
    pub fn memory(&self) -> Result<Memory, Error>
    where
        M: Dmabuf,
    {
        self.set_up.mapped()
    }

    /// Closes the sockets, unbinds, and restores the NIC, without receiving.
    ///
    /// # Errors
    /// Why the NIC is not what it was.
    #[allow(clippy::result_large_err)] // as of `Applied::restore`
    pub fn undo(self) -> Result<(), nic::Error> {
        drop(self.listening);
        self.set_up.end()
    }

    /// Makes the engine, which calls `open` for the sink of each connection. With several threads
    /// only one of them calls `open` at a time.
    ///
    /// # Errors
    /// [`Error::Engine`], after the set-up has been undone; [`Error::NotRestored`], if that failed.
    pub fn with_sinks<'a, S: Sink + Send>(
        self,
        open: impl FnMut(&Peer) -> Result<S, SinkError> + Send + 'a,
    ) -> Result<Ready<'a, M, S>, Error> {
        let Self {
            listening,
            set_up,
            device,
        } = self;
        let Listening {
            sockets,
            config,
            workers,
            stop,
        } = listening;
        match Engine::with_listeners(sockets, config, Box::new(open) as Open<'a, S>) {
            Ok(engine) => Ok(Ready {
                engine: engine.stopped_by(&stop),
                workers,
                set_up,
                device,
            }),
            Err(error) => Err(Error::from(error).and(set_up.end())),
        }
    }

    /// Receives, unbinds, and restores the NIC: [`Receiver::with_sinks`], [`Ready::receive`] and
    /// [`Received::finish`].
    pub fn run<S: Sink + Send>(
        self,
        open: impl FnMut(&Peer) -> Result<S, SinkError> + Send,
    ) -> Finished<S> {
        match self.with_sinks(open) {
            Ok(ready) => ready.receive().finish(),
            Err(error) => {
                let (error, restored) = error.into_parts();
                Finished {
                    report: Err(error),
                    restored,
                }
            }
        }
    }
}

/// A receiver with its engine, which other threads can stop and watch.
///
/// Dropped, it closes the sockets, unbinds and restores the NIC.
#[must_use = "dropping it undoes the set-up"]
pub struct Ready<'a, M, S> {
    engine: Engine<S, Open<'a, S>>,
    workers: Vec<Worker>,
    set_up: SetUp<M>,
    device: RxDevice,
}

impl<M, S: Sink + Send> Ready<'_, M, S> {
    /// Device to receive on, its queues, and the NIC behind them.
    pub fn device(&self) -> &RxDevice {
        &self.device
    }

    /// What was changed on the NIC, in order.
    pub fn changes(&self) -> &[Change] {
        self.set_up.changes()
    }

    /// The bindings, each with its dmabuf.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&Binding, &M)> {
        self.set_up.bindings()
    }

    /// Handle that ends [`Ready::receive`] from another thread: the one of [`Builder::stopped_by`], or a new one.
    pub fn stop_handle(&self) -> StopHandle {
        self.engine.stop_handle()
    }

    /// Counters of the payload received so far.
    pub fn progress(&self) -> Progress {
        self.engine.progress()
    }

    /// Monitor that takes snapshots of all connections.
    pub fn monitor(&self) -> Monitor {
        self.engine.monitor()
    }

    /// Hands each connection to `take` when it has ended, instead of keeping it for the report
    /// ([`Engine::on_end`]).
    pub fn on_end(&mut self, take: impl FnMut(Connection<S>) + Send + 'static) {
        self.engine.on_end(take);
    }

    /// Receives, until all connections have come and ended, or until a stop handle is used. The
    /// memory stays bound, so that its state can be read.
    pub fn receive(self) -> Received<M, S> {
        let report = match self.workers.is_empty() {
            true => self.engine.run(),
            false => self.engine.run_on(self.workers),
        };
        Received {
            report,
            set_up: self.set_up,
        }
    }
}

impl<M, S> fmt::Debug for Ready<'_, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Result of receiving, while the memory is still bound. No socket is open any more.
///
/// Dropped, it unbinds and restores the NIC.
#[derive(Debug)]
#[must_use = "what was received is in it"]
pub struct Received<M, S> {
    report: Result<Report<S>, EngineError>,
    set_up: SetUp<M>,
}

impl<M, S> Received<M, S> {
    /// Unbinds the memory, then restores the NIC.
    pub fn finish(self) -> Finished<S> {
        Finished {
            restored: self.set_up.end(),
            report: self.report.map_err(Error::Engine),
        }
    }
}

/// Result of a receiver, after the memory was unbound and the NIC restored.
#[derive(Debug)]
#[must_use = "receiving, or restoring the NIC, may have failed"]
pub struct Finished<S> {
    /// Report of the engine, or why the engine failed. What ended a single connection is in the
    /// report.
    pub report: Result<Report<S>, Error>,
    /// Result of restoring the NIC.
    pub restored: Result<(), nic::Error>,
}

impl<S> Finished<S> {
    /// Report of the engine, or the error: of receiving, of restoring the NIC, or both.
    ///
    /// # Errors
    /// What failed: the engine, restoring the NIC ([`Error::Nic`]), or both ([`Error::NotRestored`]).
    pub fn into_result(self) -> Result<Report<S>, Error> {
        match (self.report, self.restored) {
            (Ok(report), Ok(())) => Ok(report),
            (Ok(_), Err(restore)) => Err(restore.into()),
            (Err(error), restored) => Err(error.and(restored)),
        }
    }
}
