//! The receiver: set up, with an engine, and at its end.

use std::fmt;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use devmem::engine::{
    Config, Engine, EngineError, Monitor, Peer, Progress, Report, StopHandle, Worker, Workers,
};
use devmem::sink::{Memory, Sink, SinkError};
use dmabuf::Dmabuf;
use netdev::Binding;
use nic::Change;

use crate::builder::Builder;
use crate::device::RxDevice;
use crate::error::Error;
use crate::set_up::SetUp;

type Open<'a, S> = Box<dyn FnMut(&Peer) -> Result<S, SinkError> + Send + 'a>;
type OpenShared<'a, S> = Box<dyn Fn(&Peer) -> Result<S, SinkError> + Sync + 'a>;

/// Sockets that listen, and how they are served.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) config: Config,
    /// None if the thread of the caller is to serve.
    pub(crate) workers: Vec<Worker>,
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
        match AnyEngine::new(listening, open) {
            Ok(engine) => Ok(Ready {
                engine,
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

/// An engine on the caller's thread, or on several.
enum AnyEngine<'a, S> {
    One(Box<Engine<S, Open<'a, S>>>),
    Many(Box<Workers<OpenShared<'a, S>>>),
}

impl<'a, S: Sink + Send> AnyEngine<'a, S> {
    fn new(
        listening: Listening,
        open: impl FnMut(&Peer) -> Result<S, SinkError> + Send + 'a,
    ) -> Result<Self, EngineError> {
        let Listening {
            sockets,
            config,
            workers,
        } = listening;
        let mut sockets = sockets.into_iter();
        if workers.is_empty() {
            if let Some(first) = sockets.next() {
                let mut engine = Engine::new(first, config, Box::new(open) as Open<'a, S>)?;
                sockets.try_for_each(|socket| engine.listen_too(socket))?;
                return Ok(Self::One(Box::new(engine)));
            }
        }
        let open = Mutex::new(open);
        let open = move |peer: &Peer| (open.lock().unwrap_or_else(PoisonError::into_inner))(peer);
        let open = Box::new(open) as OpenShared<'a, S>;
        let workers = Workers::new(sockets, config, workers, open)?;
        Ok(Self::Many(Box::new(workers)))
    }
}

/// A receiver with its engine, which can be stopped and watched from other threads.
///
/// Dropped, it closes the sockets, unbinds and restores the NIC.
#[must_use = "dropping it undoes the set-up"]
pub struct Ready<'a, M, S> {
    engine: AnyEngine<'a, S>,
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

    /// What ends [`Ready::receive`] from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        match &self.engine {
            AnyEngine::One(engine) => engine.stop_handle(),
            AnyEngine::Many(workers) => workers.stop_handle(),
        }
    }

    /// Counters of what has been received so far.
    pub fn progress(&self) -> Progress {
        match &self.engine {
            AnyEngine::One(engine) => engine.progress(),
            AnyEngine::Many(workers) => workers.progress(),
        }
    }

    /// Snapshots of all connections, on request.
    pub fn monitor(&self) -> Monitor {
        match &self.engine {
            AnyEngine::One(engine) => engine.monitor(),
            AnyEngine::Many(workers) => workers.monitor(),
        }
    }

    /// Receives, until all connections have come and ended, or it is stopped. The memory is still bound then, for
    /// those who have something to ask about it.
    pub fn receive(self) -> Received<M, S> {
        let report = match self.engine {
            AnyEngine::One(engine) => engine.run(),
            AnyEngine::Many(workers) => workers.run(),
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
