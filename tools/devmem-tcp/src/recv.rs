//! The `recv` subcommand: sets the NIC up, receives TCP payload into dmabufs, restores the NIC.

mod args;
mod beside;
mod connections;
mod cpu;
mod ended;
mod errors;
mod followed;
mod lease_again;
mod live;
mod memory;
mod netns_end;
mod observer;
mod places;
mod pool;
mod removal;
mod sinks;
mod spread;
mod summary;

use std::fmt;
use std::time::Duration;

use ::memory::AnyMemory;
use anyhow::{Context, Result};
use common::signals::{Second, Signals};
use common::sink::AnySink;
use common::stdio;
use devmem::engine::StopHandle;
use netdev::queue_list;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use receiver::{Finished, Found, RxDevice};
use sd_notify::NotifyState;

use crate::address::resolve_all;
use crate::args::netns;
use crate::exit::{self, Disappeared};
use crate::report;
pub(crate) use args::Args;
use connections::Connections;
use cpu::Cpu;
use ended::Served;
use errors::{explained, explained_of, restored_of};
use observer::Observer;
use removal::{Cause, Watch};
use sinks::{Ready, Sinks};
use summary::{Measured, Summary};

/// Longest wait for a line on standard error to be written, before the summary is printed.
const TAKEN: Duration = Duration::from_millis(50);

/// State of the `recv` command from before the first change to the NIC until the summary.
struct Session<'a> {
    args: &'a Args,
    device: RxDevice,
    signals: Signals,
    watch: Watch,
    /// Whether the payload is written to standard output, which then carries nothing else.
    stdout_taken: bool,
    /// Record of the connections that have ended; `None` unless `--connections unlimited`.
    served: Option<Served>,
}

/// Error of setting a receiver up, with the outcome of restoring the NIC.
struct Failed {
    error: anyhow::Error,
    restored: Result<()>,
}

/// Result of receiving, before the dmabufs are unbound and the NIC is restored.
struct Received {
    ended: receiver::Received<AnyMemory, AnySink>,
    measured: Measured,
    /// Whether settings of the NIC were changed for the receiver.
    changed: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    allow_fds(args.at_a_time());
    let stop = StopHandle::new();
    let found = find(args, &stop)?;
    if args.dry_run {
        return preview(args, &found);
    }
    let (session, ready) = prepare(args, found, stop)?;
    let received = ready.map(|ready| receive(&session, ready));
    finish(session, received)
}

/// Checks the options, finds the device and its NIC, resolves the addresses. Changes nothing.
fn find(args: &Args, stop: &StopHandle) -> Result<Found<AnyMemory>> {
    args.sinks.check(args.connections);
    let netns = netns(args.netns.as_ref())?;
    let found = args.builder(&netns).stopped_by(stop).find();
    let found = found.map_err(|error| explained(error, &netns, &netns))?;
    let device = found.device();
    let addresses = resolve_all(&args.listen, &netns, device.link.ifindex)?;
    if device.nic.is_none() && !args.no_config {
        tracing::warn!(
            "the NIC behind {} is out of reach: its header split, RSS and rules stay as they are",
            device.link.name
        );
    }
    Ok(found.listen(addresses))
}

/// Prints the changes to the NIC that a receiver would make, for `--dry-run`.
fn preview(args: &Args, found: &Found<AnyMemory>) -> Result<()> {
    let device = found.device();
    let changes = found.preview();
    let changes = changes.map_err(|error| explained_of(error, device))?;
    crate::plan::print(nic_of(device), changes, false, args.json)
}

/// Binds the sockets, makes the dmabufs and opens the output, then sets the NIC up and listens. An
/// error from before the first change to the NIC is returned as this function's error; a later one
/// is in the returned pair, for [`finish`].
fn prepare(
    args: &Args,
    found: Found<AnyMemory>,
    stop: StopHandle,
) -> Result<(Session<'_>, Result<Ready<'static>, Failed>)> {
    let device = found.device().clone();
    let found = found.take_addresses();
    let found = found.map_err(|error| explained_of(error, &device))?;
    let dmabufs = match args.dmabuf_per_queue {
        true => device.queues.len(),
        false => 1,
    };
    let memory = args.memory.make(dmabufs, args.at_a_time(), args.niov())?;
    let sinks = args.sinks.open()?;
    // Before the first change to the NIC: from here on the signals end the receiver, not the process.
    let signals = Signals::catch(Second::Ends, &stop).context("signal handlers")?;
    let watch = Watch::start(args.netns.as_ref(), &device, stop)?;
    let stdout_taken = sinks.to_stdout;
    let ready = set_up(found.memory(memory), sinks, &device);
    let session = Session {
        args,
        device,
        signals,
        watch,
        stdout_taken,
        served: (args.connections == Connections::Unlimited).then(Served::default),
    };
    Ok((session, ready))
}

/// Sets the NIC up, binds the dmabufs to rx queues, listens, and makes the engine and its sinks.
fn set_up(
    found: Found<AnyMemory>,
    sinks: Sinks<'_>,
    device: &RxDevice,
) -> Result<Ready<'static>, Failed> {
    let failed = |error: receiver::Error| {
        let (error, restored) = error.into_parts();
        Failed {
            error: explained_of(error, device),
            restored: restored_of(restored, device),
        }
    };
    let receiver = found.set_up().map_err(failed)?;
    match sinks.maker(&receiver) {
        Ok(open) => receiver.with_sinks(open).map_err(failed),
        Err(error) => Err(Failed {
            error: error.context("recv"),
            restored: restored_of(receiver.undo(), device),
        }),
    }
}

/// Receives until all peers have closed or the receiver is stopped; an observer prints progress.
fn receive(session: &Session<'_>, mut ready: Ready<'_>) -> Received {
    let Session {
        args,
        device,
        signals,
        watch,
        stdout_taken,
        served,
    } = session;
    if let Some(served) = served {
        served.attend(&mut ready, args, *stdout_taken);
    }
    watch.attend(Observer::new(args, &ready, served.clone(), *stdout_taken));
    for change in ready.changes() {
        tell(args, format_args!("{}: {change}", nic_of(device)));
    }
    tell(
        args,
        format_args!(
            "listening on {}, {} rx {} bound to dmabuf {} ({})",
            list(&args.listen),
            device.link.name,
            queue_list(&device.queues),
            list(ready.bindings().map(|(binding, _)| binding.id())),
            args.memory
                .describe(ready.bindings().map(|(_, memory)| memory)),
        ),
    );
    notify(&[NotifyState::Ready]);
    let changed = !ready.changes().is_empty();
    let before = Cpu::now();
    let ended = ready.receive();
    notify(&[NotifyState::Stopping]);
    let measured = Measured {
        cpu: Cpu::now().since(before),
        memory: watch.observed(),
        signal: signals.received(),
        served: served.as_ref().map(Served::sums),
    };
    Received {
        ended,
        measured,
        changed,
    }
}

/// Unbinds the dmabufs, restores the NIC and prints the summary. An error if anything failed.
fn finish(session: Session<'_>, received: Result<Received, Failed>) -> Result<()> {
    let Session {
        args,
        device,
        signals,
        watch,
        stdout_taken,
        ..
    } = session;
    let mut put_back = false;
    let (summary, restored) = match received {
        Ok(Received {
            ended,
            measured,
            changed,
        }) => {
            let Finished { report, restored } = ended.finish();
            put_back = changed && restored.is_ok();
            let report = report.map_err(|error| explained_of(error, &device));
            let summary = report.map(|report| Summary::new(args, &device, report, measured));
            (summary, restored_of(restored, &device))
        }
        Err(Failed { error, restored }) => (Err(error), restored),
    };
    signals.done();
    if put_back {
        let nic = nic_of(&device);
        tell(
            args,
            format_args!("{nic}: put back, but for what others need or have changed"),
        );
        stdio::stderr().settle(TAKEN);
    }
    let verdict = summary.as_ref().map_or(Ok(()), Summary::verdict);
    let good = summary.is_ok() && verdict.is_ok() && restored.is_ok();
    // What disappears after everything was received does not matter.
    let cause = watch.end().filter(|_| !good);
    let printed = summary.as_ref().map_or(Ok(()), |summary| {
        let gone = cause.as_ref().map(|cause| cause.what);
        summary.print(gone, args.json, stdout_taken)
    });
    let (ended, restored) = match cause {
        Some(cause) => {
            let error = disappeared(&device.link.name, cause, summary, restored);
            (Err(error.into()), Ok(()))
        }
        None => (summary.and(verdict), restored),
    };
    exit::all([ended, restored, printed])
}

/// Raises the limit of open files to the hard limit. Warns if that is too low for the connections.
fn allow_fds(connections: u32) {
    // Queues, threads and dmabufs need file descriptors, too.
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

/// Error in one line: which NIC, device or namespace disappeared, and how much had been received.
fn disappeared(
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
        // A NIC that is gone can't be restored, and the text says already that it is gone.
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

/// Prints a line on standard error without waiting for it to be written, unless `--quiet` is given.
fn tell(args: &Args, text: impl fmt::Display) {
    if !args.quiet {
        report::tell(text);
    }
}

/// Name of the NIC behind a device; the device's own name if the NIC is out of reach.
fn nic_of(device: &RxDevice) -> &str {
    let nic = device.nic.as_ref().map(|nic| &nic.device);
    nic.unwrap_or(&device.link.name)
}

/// Reports the receiver's state to the service manager, if one started the process (`sd_notify`).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell the service manager: {error}");
    }
}

/// Joins items into one text, with commas between them.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter().map(|item| item.to_string());
    items.collect::<Vec<_>>().join(", ")
}
