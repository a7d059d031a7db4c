//! Several engines, a thread each, fed by one that accepts.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Waker};

use super::report::at;
use super::source::{ACCEPT_PAUSE, Accepted, Handover, Listeners, Waiting};
use super::stop::wake;
use super::{
    Base, Config, Connection, Engine, EngineError, LISTENER, Monitor, OnEnd, Peer, Progress,
    Report, SharedOnEnd, StopHandle, Until,
};
use crate::recycler::Thresholds;
use crate::sink::{Sink, SinkError};
use crate::sys;

/// A thread that serves connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Worker {
    /// The NAPI instances, and so the rx queues, whose connections it gets.
    pub napi_ids: Vec<u32>,
    /// The processor that it keeps to (`sched_setaffinity`), or any.
    pub cpu: Option<usize>,
}

/// Engines side by side: each on a thread of its own, with an epoll instance, a receive buffer and
/// connections of its own. Nothing is shared between them while data flows.
///
/// A connection goes to the worker that its NAPI id is named for; where none is, or the id is not
/// known, to one of those with the fewest connections.
pub struct Workers<F> {
    config: Config,
    workers: Vec<(Worker, Base)>,
    open_sink: F,
    base: Base,
    listeners: Listeners,
    address: Option<SocketAddr>,
    stop: StopHandle,
    progress: Progress,
}

/// Mailbox of a worker: where the accepting thread puts connections.
struct Mailbox {
    napi_ids: Vec<u32>,
    handover: Arc<Handover>,
    waker: Arc<Waker>,
    /// Connections handed to the worker.
    given: Cell<usize>,
    /// Connections of the worker that have ended.
    finished: Arc<AtomicUsize>,
}

impl<F> Workers<F> {
    /// Takes listening sockets over; without a `worker` there is one. `open_sink` is called for each
    /// connection, by the thread that serves it.
    ///
    /// # Errors
    /// [`EngineError::Poll`].
    pub fn new<S>(
        listeners: impl IntoIterator<Item = TcpListener>,
        config: Config,
        mut workers: Vec<Worker>,
        open_sink: F,
    ) -> Result<Self, EngineError>
    where
        F: Fn(&Peer) -> Result<S, SinkError> + Sync,
    {
        let base = Base::new()?;
        let stop = StopHandle::new();
        stop.add(&base.waker);
        if workers.is_empty() {
            workers.push(Worker::default());
        }
        let workers = workers.into_iter().map(|worker| Ok((worker, Base::new()?)));
        let mut ours = Listeners::default();
        let mut address = None;
        for listener in listeners {
            let at = ours.add(base.poll.registry(), listener, LISTENER)?;
            address.get_or_insert(at);
        }
        Ok(Self {
            config,
            workers: workers.collect::<Result<_, EngineError>>()?,
            open_sink,
            base,
            listeners: ours,
            address,
            stop,
            progress: Progress::default(),
        })
    }

    /// Handle that stops all workers from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Makes `stop` the handle that stops all workers ([`Engine::stopped_by`]).
    pub fn stopped_by(mut self, stop: &StopHandle) -> Self {
        stop.add(&self.base.waker);
        self.stop = stop.clone();
        self
    }

    /// Counters of all workers together, readable from another thread.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Monitor of all workers' connections, for another thread.
    pub fn monitor(&self) -> Monitor {
        Monitor::of_all(self.workers.iter().map(|(_, base)| base.monitor()))
    }

    /// Where the first listener listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Receives until [`Config::until`] is reached or a stop handle is used, and accepts on the calling
    /// thread meanwhile.
    ///
    /// # Errors
    /// The first of any thread's; the others are stopped then.
    ///
    /// # Panics
    /// If a sink does, after the other workers have been stopped.
    pub fn run<S>(self) -> Result<Report<S>, EngineError>
    where
        S: Sink + Send,
        F: Fn(&Peer) -> Result<S, SinkError> + Sync,
    {
        self.run_with(None)
    }

    /// Runs as [`run`](Self::run), but hands each connection that has ended to `take`, on the thread that served
    /// it, instead of being kept for the report ([`Engine::on_end`]).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_forgetting<S>(
        self,
        take: impl Fn(Connection<S>) + Send + Sync + 'static,
    ) -> Result<Report<S>, EngineError>
    where
        S: Sink + Send,
        F: Fn(&Peer) -> Result<S, SinkError> + Sync,
    {
        self.run_with(Some(Arc::new(take)))
    }

    fn run_with<S>(self, take: Option<SharedOnEnd<S>>) -> Result<Report<S>, EngineError>
    where
        S: Sink + Send,
        F: Fn(&Peer) -> Result<S, SinkError> + Sync,
    {
        // The workers have a handle of their own: an error of one stops the others, but nothing else that the
        // caller's handle stops.
        let all = StopHandle::new();
        all.add(&self.base.waker);
        let Self {
            config,
            workers,
            open_sink,
            mut base,
            mut listeners,
            stop,
            progress,
            ..
        } = self;
        let part = share(&config, workers.len());
        let mut mailboxes = Vec::new();
        let mut engines = Vec::new();
        for (number, (worker, base)) in workers.into_iter().enumerate() {
            let handover = Arc::new(Handover::default());
            let taken = Arc::clone(&handover);
            let mut engine =
                Engine::worker(base, number, taken, all.clone(), part.clone(), &open_sink)?;
            engine.progress = progress.clone();
            engine.on_end = take.clone().map(OnEnd::Shared);
            mailboxes.push(Mailbox::to(&engine, &worker, handover));
            engines.push((engine, worker.cpu));
        }
        let running = AtomicUsize::new(engines.len());
        let stops = [stop, all.clone()];
        thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut failed = None;
            for (number, (engine, cpu)) in engines.into_iter().enumerate() {
                let over = EndNotice {
                    all: all.clone(),
                    running: &running,
                    good: false,
                };
                let run = move || run_one(engine, cpu, over);
                let thread = thread::Builder::new().name(format!("rx worker {number}"));
                match thread.spawn_scoped(scope, run) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        failed = Some(EngineError::Spawn(error));
                        all.stop();
                        break;
                    }
                }
            }
            let accepted = match failed {
                None => accept_all(&mut base.poll, &mut listeners, &config, &stops, &mailboxes),
                Some(error) => Err(error),
            };
            let strangers = std::mem::take(&mut listeners.strangers);
            drop(listeners);
            if accepted.is_err() || stops[0].is_stopped() {
                all.stop();
            }
            for mailbox in &mailboxes {
                mailbox.handover.close();
            }
            all.wake();
            let waited = wait_for_workers(&mut base.poll, &running, &stops);
            if waited.is_err() || stops[0].is_stopped() {
                all.stop();
            }
            let reports = threads.into_iter().map(|thread| thread.join());
            let reports: Vec<_> = reports.collect();
            let reports = reports
                .into_iter()
                .map(|joined| joined.unwrap_or_else(|panic| resume_unwind(panic)));
            let reports: Vec<Report<S>> = reports.collect::<Result<_, _>>()?;
            accepted.and(waited)?;
            let mut report = Report::sum(reports);
            report.strangers = strangers;
            Ok(report)
        })
    }
}

impl Mailbox {
    /// Source of an engine's connections.
    fn to<S, F>(engine: &Engine<S, F>, worker: &Worker, handover: Arc<Handover>) -> Self {
        Self {
            napi_ids: worker.napi_ids.clone(),
            handover,
            waker: Arc::clone(&engine.base.waker),
            given: Cell::new(0),
            finished: Arc::clone(&engine.finished),
        }
    }
}

/// Tells the accepting thread when a worker ends, and stops the others if that was by an error or a
/// panic.
struct EndNotice<'a> {
    all: StopHandle,
    running: &'a AtomicUsize,
    good: bool,
}

impl Drop for EndNotice<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        match self.good {
            true => self.all.wake(),
            false => self.all.stop(),
        }
    }
}

/// Main function of a worker's thread.
fn run_one<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>>(
    engine: Engine<S, F>,
    cpu: Option<usize>,
    mut over: EndNotice<'_>,
) -> Result<Report<S>, EngineError> {
    if let Some(cpu) = cpu {
        sys::keep_to(cpu).map_err(|error| EngineError::Pin(cpu, error))?;
    }
    let report = engine.run()?;
    over.good = true;
    Ok(report)
}

/// Accepts connections and hands them over, until there are enough connections or a stop handle is used.
fn accept_all(
    poll: &mut Poll,
    listeners: &mut Listeners,
    config: &Config,
    stops: &[StopHandle],
    mailboxes: &[Mailbox],
) -> Result<(), EngineError> {
    let mut events = Events::with_capacity(16);
    let mut number = 0;
    let mut accept_at = None;
    let wanted = |number: usize| match config.until {
        Until::Peers(peers) => number < peers as usize,
        Until::Stopped => true,
    };
    while wanted(number) && !stops.iter().any(StopHandle::is_stopped) {
        let pause =
            accept_at.map(|at: Instant| at.saturating_duration_since(Instant::now()) + TICK);
        match poll.poll(&mut events, pause) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            done => done.map_err(at("wait for connections"))?,
        }
        if events.iter().any(|event| event.token() == LISTENER) {
            accept_at = Some(Instant::now());
        }
        if accept_at.is_none_or(|at| at > Instant::now()) {
            continue;
        }
        let waiting = listeners.accept(config, |accepted| {
            hand_over(mailboxes, number, accepted);
            number += 1;
            Ok(wanted(number))
        })?;
        accept_at = match waiting {
            Waiting::More => Some(Instant::now()),
            Waiting::Shortage => Some(Instant::now() + ACCEPT_PAUSE),
            Waiting::None | Waiting::Enough => None,
        };
    }
    Ok(())
}

/// Waits until all workers have ended, or a stop handle is used.
fn wait_for_workers(
    poll: &mut Poll,
    running: &AtomicUsize,
    stops: &[StopHandle],
) -> Result<(), EngineError> {
    let mut events = Events::with_capacity(16);
    while running.load(Ordering::SeqCst) > 0 && !stops.iter().any(StopHandle::is_stopped) {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => done.map_err(at("wait for workers"))?,
        }
    }
    Ok(())
}

/// Longest delay of a wait.
const TICK: Duration = Duration::from_millis(1);

/// Gives a connection to the worker of its queue, or to the one with the fewest.
fn hand_over(mailboxes: &[Mailbox], number: usize, accepted: Accepted) {
    let napi_id = sys::incoming_napi_id(accepted.socket.as_fd()).ok();
    let load = |mailbox: &&Mailbox| mailbox.given.get() - mailbox.finished.load(Ordering::Relaxed);
    let own = mailboxes
        .iter()
        .filter(|mailbox| napi_id.is_some_and(|id| mailbox.napi_ids.contains(&id)));
    let Some(mailbox) = own
        .min_by_key(load)
        .or_else(|| mailboxes.iter().min_by_key(load))
    else {
        return;
    };
    mailbox.given.set(mailbox.given.get() + 1);
    mailbox.handover.put(number, accepted);
    wake(&mailbox.waker);
}

/// Limits for all connections, shared out.
fn share(config: &Config, workers: usize) -> Config {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    Config {
        held: (config.held / workers).max(1),
        thresholds: Thresholds {
            frags: (config.thresholds.frags / workers).max(1),
            ..config.thresholds
        },
        ..config.clone()
    }
}

#[cfg(test)]
#[path = "workers/tests.rs"]
mod tests;
