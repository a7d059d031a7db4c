//! `devmem-tcp recv`.

mod args;
mod beside;
mod cpu;
mod errors;
mod followed;
mod lease_again;
mod live;
mod memory;
mod netns_end;
mod observer;
mod pool;
mod removal;
mod sinks;
mod spread;
mod summary;

use ::memory::AnyMemory;
use anyhow::{Context, Result};
use common::signals::{Second, Signals};
use devmem::engine::StopHandle;
use netdev::queue_list;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use receiver::{Finished, Found, RxDevice};

use crate::address::resolve_all;
use crate::args::netns;
use crate::exit::{self, Disappeared};
use crate::report;
pub(crate) use args::Args;
use cpu::Cpu;
use errors::{explained, explained_of, restored_of};
use observer::Observer;
use removal::{Cause, Watch};
use sinks::{Ready, Sinks};
use summary::Summary;

pub(crate) fn run(args: &Args) -> Result<()> {
    allow_fds(args.connections);
    args.sinks.check(args.connections);
    let netns = netns(args.netns.as_ref())?;
    let stop = StopHandle::new();
    let found = args.builder(&netns).stopped_by(&stop).find();
    let found = found.map_err(|error| explained(error, &netns, &netns))?;
    let device = found.device().clone();
    let failed = |error| explained_of(error, &device);
    let addresses = resolve_all(&args.listen, &netns, device.link.ifindex)?;
    let found = found.listen(addresses);
    if device.nic.is_none() && !args.no_config {
        tracing::warn!(
            "the NIC behind {} is out of reach: its header split, RSS and rules stay as they are",
            device.link.name
        );
    }
    if args.dry_run {
        let changes = found.preview().map_err(failed)?;
        let nic = device.nic.as_ref().map(|nic| &nic.device);
        let nic = nic.unwrap_or(&device.link.name);
        return crate::plan::print(nic, changes, false, args.json);
    }
    let found = found.take_addresses().map_err(failed)?;
    let dmabufs = match args.dmabuf_per_queue {
        true => device.queues.len(),
        false => 1,
    };
    let memory = args.memory.make(dmabufs, args.connections, args.niov())?;
    let sinks = args.sinks.open()?;
    let stdout_taken = sinks.to_stdout;
    // Before the first change to the NIC: from here on the signals end the receiver, not the process.
    let signals = Signals::catch(Second::Ends, &stop).context("signal handlers")?;
    let watch = Watch::start(args.netns.as_ref(), &device, stop)?;
    let (received, restored) = match ready(found.memory(memory), sinks) {
        Ok(ready) => receive(args, ready, &signals, &watch, stdout_taken),
        Err(failures) => failures.into(),
    };
    signals.done();
    let verdict = received.as_ref().map(Summary::verdict);
    let good = matches!(verdict, Ok(Ok(()))) && restored.is_ok();
    // What went after all was received is no matter any more.
    let cause = watch.end().filter(|_| !good);
    let printed = received.as_ref().map_or(Ok(()), |summary| {
        let gone = cause.as_ref().map(|cause| cause.what);
        summary.print(gone, args.json, stdout_taken)
    });
    let ended = match cause {
        Some(cause) => Err(went(&device.link.name, cause, received, restored).into()),
        None => exit::all([received.and_then(|summary| summary.verdict()), restored]),
    };
    exit::all([ended, printed])
}

/// Raises the limit of open files as far as it may be, and warns if that is too few for the connections.
fn allow_fds(connections: u32) {
    // Queues, threads and dmabufs take some, too.
    const OTHERS: u64 = 64;
    let wanted = u64::from(connections) + OTHERS;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        if hard < wanted {
            tracing::warn!(
                "{hard} files may be open, of which {connections} connections want {wanted}: some will \
                 wait for others to end. See ulimit -Hn"
            );
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        tracing::warn!("RLIMIT_NOFILE: {error}");
    }
}

/// The error of something that went away, in one line: what, and what there is of the payload.
fn went(
    device: &str,
    cause: Cause,
    received: Result<Summary>,
    restored: Result<()>,
) -> Disappeared {
    let mut text = format!("recv {device}: {}; ", cause.text);
    match received {
        Ok(summary) => text += &summary.until_then(),
        Err(error) => text += &format!("nothing was received ({error:#})"),
    }
    if let Err(error) = restored {
        // A NIC that is gone is not put back, which need not be said twice.
        let gone = error.downcast_ref::<nic::Error>();
        if !matches!(gone, Some(nic::Error::Gone { .. })) {
            text += &format!("; then {error:#}");
        }
    }
    Disappeared {
        what: cause.what,
        text,
        remedy: cause.remedy,
    }
}

/// Why there is no receiver, and what came of restoring the NIC.
struct Failures(anyhow::Error, Result<()>);

impl<T> From<Failures> for (Result<T>, Result<()>) {
    fn from(Failures(error, restored): Failures) -> Self {
        (Err(error), restored)
    }
}

impl Failures {
    fn of(error: receiver::Error, device: &RxDevice) -> Self {
        let (error, restored) = error.into_parts();
        Self(explained_of(error, device), restored_of(restored, device))
    }
}

/// Sets the NIC up, binds, listens, and makes the engine and its sinks.
fn ready(found: Found<AnyMemory>, sinks: Sinks<'_>) -> Result<Ready<'static>, Failures> {
    let device = found.device().clone();
    let failed = |error| Failures::of(error, &device);
    let receiver = found.set_up().map_err(failed)?;
    match sinks.maker(&receiver) {
        Ok(open) => receiver.with_sinks(open).map_err(failed),
        Err(error) => {
            let restored = restored_of(receiver.undo(), &device);
            Err(Failures(error.context("recv"), restored))
        }
    }
}

/// Receives, unbinds, restores the NIC: what was received, and whether the NIC is what it was.
fn receive(
    args: &Args,
    ready: Ready<'_>,
    signals: &Signals,
    watch: &Watch,
    stdout_taken: bool,
) -> (Result<Summary>, Result<()>) {
    let device = ready.device().clone();
    watch.attend(Observer::new(args, &ready, stdout_taken));
    report::tell(format_args!(
        "listening on {}, {} rx {} bound to dmabuf {} ({})",
        list(&args.listen),
        device.link.name,
        queue_list(&device.queues),
        list(ready.bindings().map(|(binding, _)| binding.id())),
        args.memory.told(ready.bindings().map(|(_, memory)| memory)),
    ));
    let before = Cpu::now();
    let received = ready.receive();
    let cpu = Cpu::now().since(before);
    let (memory, signal) = (watch.observed(), signals.received());
    let Finished { report, restored } = received.finish();
    let summary = match report {
        Ok(report) => Ok(Summary::new(args, &device, report, cpu, signal, memory)),
        Err(error) => Err(explained_of(error, &device)),
    };
    (summary, restored_of(restored, &device))
}

/// One after the other, with commas.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter().map(|item| item.to_string());
    items.collect::<Vec<_>>().join(", ")
}
