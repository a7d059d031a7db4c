//! Worker threads of an engine, with an event loop each, and the thread that accepts for them.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Waker};

use super::config::Room;
use super::event_loop::{Base, EventLoop, LISTENER, Setup};
use super::report::at;
use super::source::{ACCEPT_PAUSE, Accepted, Handover, Listeners, Source, Waiting};
use super::stop::wake;
use super::{Config, Engine, EngineError, Peer, Report, StopHandle};
use crate::recycler::Thresholds;
use crate::sink::{Sink, SinkError};
use crate::sys;

/// Configuration of a worker thread, which serves connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Worker {
    /// NAPI instances, and so rx queues, whose connections the worker gets.
    pub napi_ids: Vec<u32>,
    /// Processor that the thread is pinned to (`sched_setaffinity`); `None` for any.
    pub cpu: Option<usize>,
}

/// Mailbox of a worker: where the accepting thread puts connections.
struct Mailbox {
    napi_ids: Vec<u32>,
    handover: Arc<Handover>,
    waker: Arc<Waker>,
    /// Number of connections handed to the worker so far.
    given: Cell<usize>,
    /// Number of the worker's connections that have ended.
    finished: Arc<AtomicUsize>,
}

impl<S: Sink + Send, F: FnMut(&Peer) -> Result<S, SinkError> + Send> Engine<S, F> {
    /// Receives on worker threads, while the calling thread accepts, until [`Config::until`] is
    /// reached or a stop handle is used. Without a `worker` there is one.
    ///
    /// A connection goes to the worker that its NAPI id is named for. If no worker has that id, or the id is
    /// not known, the connection goes to one of the workers with the fewest connections. Sinks are made on the
    /// worker's thread, one at a time.
    ///
    /// # Errors
    /// The first of any thread's; the others are stopped then.
    ///
    /// # Panics
    /// If a sink does, after the other workers have been stopped.
    pub fn run_on(self, mut workers: Vec<Worker>) -> Result<Report<S>, EngineError> {
        if workers.is_empty() {
            workers.push(Worker::default());
        }
        let workers = workers.into_iter().map(|worker| Ok((worker, Base::new()?)));
        let workers = workers.collect::<Result<Vec<_>, EngineError>>()?;
        self.loops
            .set(workers.iter().map(|(_, base)| base.monitored()));
        let Self {
            config,
            open_sink,
            mut base,
            mut listeners,
            stop,
            progress,
            on_end,
            ..
        } = self;
        // The workers have a handle of their own: an error of one stops the others, but nothing else that the
        // caller's handle stops.
        let all = StopHandle::new();
        all.add(&base.waker);
        let open_sink = Mutex::new(open_sink);
        let open_one = |peer: &Peer| {
            let mut open_sink = open_sink.lock().unwrap_or_else(PoisonError::into_inner);
            open_sink(peer)
        };
        let base_waker = Arc::clone(&base.waker);
        let part = config_of_worker(&config, workers.len());
        let mut mailboxes = Vec::new();
        let mut loops = Vec::new();
        for (number, (worker, base)) in workers.into_iter().enumerate() {
            let handover = Arc::new(Handover::default());
            let setup = Setup {
                config: part.clone(),
                open_sink: &open_one,
                source: Source::Handover(Arc::clone(&handover)),
                worker: number,
                stop: all.clone(),
                acceptor: config.open.map(|_| Arc::clone(&base_waker)),
                progress: progress.clone(),
                on_end: on_end.clone(),
            };
            let event_loop = EventLoop::new(base, setup)?;
            mailboxes.push(Mailbox::of_loop(&event_loop, &worker, handover));
            loops.push((event_loop, worker.cpu));
        }
        let running = AtomicUsize::new(loops.len());
        let stops = [stop, all.clone()];
        thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut failed = None;
            for (number, (event_loop, cpu)) in loops.into_iter().enumerate() {
                let notice = EndNotice {
                    all: all.clone(),
                    running: &running,
                    good: false,
                };
                let run = move || run_worker(event_loop, cpu, notice);
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
    /// Makes the mailbox of a worker's event loop, which takes the connections from `handover`.
    fn of_loop<S, F>(
        event_loop: &EventLoop<S, F>,
        worker: &Worker,
        handover: Arc<Handover>,
    ) -> Self {
        Self {
            napi_ids: worker.napi_ids.clone(),
            handover,
            waker: Arc::clone(&event_loop.base.waker),
            given: Cell::new(0),
            finished: Arc::clone(&event_loop.finished),
        }
    }
}

/// Notice of a worker's end: wakes the accepting thread, and stops the other workers after an error or a
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
fn run_worker<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>>(
    event_loop: EventLoop<S, F>,
    cpu: Option<usize>,
    mut notice: EndNotice<'_>,
) -> Result<Report<S>, EngineError> {
    if let Some(cpu) = cpu {
        sys::pin_to_processor(cpu).map_err(|error| EngineError::Pin(cpu, error))?;
    }
    let report = event_loop.run()?;
    notice.good = true;
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
    let room = |number: usize| {
        let finished = mailboxes
            .iter()
            .map(|it| it.finished.load(Ordering::Relaxed));
        config.room(number, number.saturating_sub(finished.sum()))
    };
    while room(number) != Room::Enough && !stops.iter().any(StopHandle::is_stopped) {
        // A worker's end of a connection wakes this thread.
        let due = accept_at.filter(|_| room(number) == Room::Free);
        let pause =
            due.map(|at: Instant| at.saturating_duration_since(Instant::now()) + CHECK_INTERVAL);
        match poll.poll(&mut events, pause) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            done => done.map_err(at("wait for connections"))?,
        }
        if events.iter().any(|event| event.token() == LISTENER) {
            accept_at = Some(Instant::now());
        }
        let due = accept_at.is_some_and(|at| at <= Instant::now());
        if !due || room(number) == Room::Full {
            continue;
        }
        let waiting = listeners.accept(config, |accepted| {
            hand_over(mailboxes, number, accepted);
            number += 1;
            room(number)
        })?;
        accept_at = match waiting {
            Waiting::More | Waiting::Full => Some(Instant::now()),
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

/// Longest time that the accepting thread waits for a worker's end before it checks again.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Hands a connection to the worker of its queue, or to the worker with the fewest connections.
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

/// Configuration of one of `workers` workers: limits that hold for all connections are divided by
/// their number.
fn config_of_worker(config: &Config, workers: usize) -> Config {
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
