//! The receiver: set up, with an engine, and at its end.

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

/// Sockets that listen, and how they are served.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) config: Config,
    /// Worker threads; without any, the caller's thread serves.
    pub(crate) workers: Vec<Worker>,
    pub(crate) stop: StopHandle,
}

/// A receiver that is set up: the NIC as it must be, the memory bound, the sockets listening.
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
    /// A receiver on this device, a NIC or a netkit.
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

    /// The device, its queues, and the NIC behind them.
    pub fn device(&self) -> &RxDevice {
        &self.device
    }

    /// What was changed on the NIC, in order.
    pub fn changes(&self) -> &[Change] {
        self.set_up.changes()
    }

    /// The bindings, each with its memory; the same memory is bound once only.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&Binding, &M)> {
        self.set_up.bindings()
    }

    /// The memory as the CPU reads it, for sinks.
    ///
    /// # Errors
    /// [`Error::Map`], as for a GPU's memory.
    pub fn memory(&self) -> Result<Memory, Error>
    where
        M: Dmabuf,
    {
        self.set_up.mapped()
    }

    /// Closes the sockets, unbinds, and restores the NIC, with nothing received.
    ///
    /// # Errors
    /// Why the NIC is not what it was.
    #[allow(clippy::result_large_err)] // as of `Applied::restore`
    pub fn undo(self) -> Result<(), nic::Error> {
        drop(self.listening);
        self.set_up.end()
    }

    /// Makes the engine, which calls `open` for the sink of each connection. With several threads only one of them
    /// calls it at a time.
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

/// A receiver with its engine, which can be stopped and watched from other threads.
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
    /// The device, its queues, and the NIC behind them.
    pub fn device(&self) -> &RxDevice {
        &self.device
    }

    /// The bindings, each with its memory.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&Binding, &M)> {
        self.set_up.bindings()
    }

    /// Handle that ends [`Ready::receive`] from another thread: the one of [`Builder::stopped_by`], or a new one.
    pub fn stop_handle(&self) -> StopHandle {
        self.engine.stop_handle()
    }

    /// Counters of what has been received so far.
    pub fn progress(&self) -> Progress {
        self.engine.progress()
    }

    /// Snapshots of all connections, on request.
    pub fn monitor(&self) -> Monitor {
        self.engine.monitor()
    }

    /// Hands each connection to `take` when it has ended, instead of keeping it for the report
    /// ([`Engine::on_end`]).
    pub fn on_end(&mut self, take: impl FnMut(Connection<S>) + Send + 'static) {
        self.engine.on_end(take);
    }

    /// Receives, until all connections have come and ended, or it is stopped. The memory is still bound then, for
    /// those who have something to ask about it.
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

/// The end of receiving: no socket is open any more, but the memory is still bound.
///
/// Dropped, it unbinds and restores the NIC.
#[derive(Debug)]
#[must_use = "what was received is in it"]
pub struct Received<M, S> {
    report: Result<Report<S>, EngineError>,
    set_up: SetUp<M>,
}

impl<M, S> Received<M, S> {
    /// Unbinds, then restores the NIC.
    pub fn finish(self) -> Finished<S> {
        Finished {
            restored: self.set_up.end(),
            report: self.report.map_err(Error::Engine),
        }
    }
}

/// What came of a receiver.
#[derive(Debug)]
#[must_use = "receiving, or restoring the NIC, may have failed"]
pub struct Finished<S> {
    /// What was received, or why the engine failed. What ended a single connection is in the report.
    pub report: Result<Report<S>, Error>,
    /// Whether the NIC is what it was.
    pub restored: Result<(), nic::Error>,
}

impl<S> Finished<S> {
    /// The report, if the NIC is what it was, too.
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
