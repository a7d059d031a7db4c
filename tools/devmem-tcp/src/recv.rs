//! `devmem-tcp recv`.

mod beside;
mod followed;
mod live;
mod memory;
mod netns_end;
mod nic_side;
mod observer;
mod pool;
mod progress;
mod queues;
mod receiver;
mod removal;
mod sinks;
mod spread;
mod summary;

use std::thread;
use std::time::{Duration, Instant};

use ::memory::AnyMemory;
use anyhow::{Context, Result};
use common::Output;
use common::signals::{Second, Signals};
use common::sink::AnySink;
use devmem::engine::Report;
use devmem::listen::{self, SocketOptions};
use netdev::{BindOptions, Binding, Ethtool, Link, LinkInfo, NetNs, Netdev, QueueId, queue_list};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::address::{Address, resolve_all};
use crate::args::{NetNsArg, Size, netns};
use crate::exit::{self, Went};
use crate::report;
use crate::snapshot::{NicBehind, nic_behind};
use memory::MemoryArgs;
use observer::Observer;
use receiver::{Receiver, ThreadArgs};
use removal::{Cause, Watch};
use sinks::SinkArgs;
use summary::{Cpu, Summary};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device, a NIC or a netkit that leases one's queue
    #[arg(long, short = 'f', value_name = "IF")]
    dev: String,
    /// The namespace of device and listener: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// The rx queue of the device; may be given again [default: a NIC's last, all of a netkit's
    /// leased ones]
    #[arg(long = "queue", value_name = "N")]
    queues: Vec<QueueId>,
    /// Where to listen: ADDR:PORT, an IPv6 address in brackets, a link-local one with its device if
    /// that is another one ([fe80::1%eth1]:5000); :: takes IPv4, too; may be given again
    #[arg(long, short, value_name = "ADDR:PORT", required = true)]
    listen: Vec<Address>,
    /// Only connections from this address: others are reset, counted and named
    #[arg(long, value_name = "ADDR")]
    from: Option<std::net::IpAddr>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Give each queue a dmabuf of its own, instead of one to all
    #[arg(long)]
    dmabuf_per_queue: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Size of the pieces that the NIC fills (Linux 7.3; more than 4K wants larger pages)
    #[arg(long, value_name = "SIZE", value_parser = rx_page_size)]
    rx_page_size: Option<u32>,
    #[command(flatten)]
    sinks: SinkArgs,
    /// End when so many peers have closed
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: u32,
    /// End a connection that has brought nothing for this many seconds (exit code 6) [default: never;
    /// 0: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_timeout: Option<Duration>,
    /// Ask a peer that has been silent for this many seconds whether it is still there, and end its
    /// connection after about as long again without an answer (exit code 6); 0 never asks
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    keepalive: Duration,
    /// Leave header split, RSS and flow rules as they are
    #[arg(long)]
    no_config: bool,
    /// Receive nothing and change nothing; say what would change on the NIC
    #[arg(long, conflicts_with = "no_config")]
    dry_run: bool,
    /// Fail on payload that the NIC did not split from its headers
    #[arg(long)]
    refuse_linear: bool,
    /// Fail on payload that was not steered to a bound queue
    #[arg(long)]
    refuse_unsteered: bool,
    /// Tell each second how it goes, also where stderr is no terminal
    #[arg(long)]
    progress: bool,
    /// Show each second how it goes: in place on a terminal, else a line; with --json as JSON
    #[arg(long, conflicts_with = "progress")]
    live: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn rx_page_size(text: &str) -> Result<u32, String> {
    let Size(bytes) = text.parse()?;
    u32::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}

/// Seconds, which may have a fraction; 0 is allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    allow_fds(args.connections);
    args.sinks.check(args.connections);
    let netns = netns(args.netns.as_ref())?;
    let link = Link::open_in(&netns)?.by_name(&args.dev)?;
    let queues = queues::choose(args, &netns, &link)?;
    let place = Place {
        netns,
        link,
        queues,
    };
    if args.dry_run {
        return dry_run(args, &place);
    }
    let dmabufs = match args.dmabuf_per_queue {
        true => place.queues.len(),
        false => 1,
    };
    let sockets = addresses(args, &place)?;
    let memory = args.memory.make(dmabufs)?;
    let out = args.sinks.open()?;
    // Before the first change to the NIC: from here on the signals end the receiver, not the process.
    let signals = Signals::catch(Second::Ends).context("signal handlers")?;
    let nic = match nic_behind(&place.netns, &place.link, &place.queues) {
        // Who leaves the NIC alone need not be able to see it.
        Err(error) if args.no_config => {
            tracing::debug!("the NIC behind {}: {error:#}", place.link.name);
            None
        }
        nic => nic?,
    };
    if let Some(nic) = &nic {
        queues::wait_until_free(&place, nic)?;
    }
    let watch = Watch::start(args.netns.as_ref(), &place.netns, &place.link, nic.as_ref())?;
    let (received, restored) = configured(
        args,
        &place,
        nic.as_ref(),
        Taken {
            sockets,
            memory: &memory,
            out,
        },
        &signals,
        &watch,
    );
    signals.done();
    let verdict = received.as_ref().map(Summary::verdict);
    let good = matches!(verdict, Ok(Ok(()))) && restored.is_ok();
    // What went after all was received is no matter any more.
    let cause = watch.end().filter(|_| !good);
    let printed = received.as_ref().map_or(Ok(()), |summary| {
        let gone = cause.as_ref().map(|cause| cause.what);
        summary.print(gone, args.json, args.sinks.to_stdout())
    });
    let ended = match cause {
        Some(cause) => Err(went(&place.link.name, cause, received, restored).into()),
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

/// `--dry-run`: what would change on the NIC.
fn dry_run(args: &Args, place: &Place) -> Result<()> {
    match nic_behind(&place.netns, &place.link, &place.queues)? {
        Some(nic) => {
            let changes = nic_side::plan(args, &nic)?.preview(&nic.netns)?;
            crate::plan::print(&nic.device, changes, false, args.json)
        }
        None => {
            nic_side::out_of_reach(&place.link);
            crate::plan::print(&place.link.name, Vec::new(), false, args.json)
        }
    }
}

/// What is received on.
struct Place {
    netns: NetNs,
    link: LinkInfo,
    queues: Vec<QueueId>,
}

/// What there is before the NIC is changed.
struct Taken<'a> {
    sockets: Vec<listen::Bound>,
    memory: &'a [AnyMemory],
    out: Option<Output>,
}

/// Takes the addresses, so that one that is in use is found before the NIC is changed.
fn addresses(args: &Args, place: &Place) -> Result<Vec<listen::Bound>> {
    let addresses = resolve_all(&args.listen, &place.netns, place.link.ifindex)?;
    let bind = |address| listen::bind(address, &SocketOptions::default());
    let bound = place
        .netns
        .run(|| addresses.into_iter().map(bind).collect::<Result<_, _>>())?;
    Ok(bound?)
}

/// Sets the NIC up, receives, and puts the NIC back: what came of the one and of the other.
fn configured(
    args: &Args,
    place: &Place,
    nic: Option<&NicBehind>,
    taken: Taken<'_>,
    signals: &Signals,
    watch: &Watch,
) -> (Result<Summary>, Result<()>) {
    let applied = match args.no_config {
        true => Ok(None),
        false => nic_side::configure(args, &place.link, nic),
    };
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => return (Err(error), Ok(())),
    };
    let received = receive(args, place, nic, taken, signals, watch);
    // After the binding is gone: the kernel keeps header split on while there is one.
    let restored = applied.map_or(Ok(()), |applied| applied.restore().map_err(Into::into));
    (received, restored)
}

/// The error of something that went away, in one line: what, and what there is of the payload.
fn went(device: &str, cause: Cause, received: Result<Summary>, restored: Result<()>) -> Went {
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
    Went {
        what: cause.what,
        text,
        remedy: cause.remedy,
    }
}

/// Binds, listens, receives, unbinds.
fn receive(
    args: &Args,
    place: &Place,
    nic: Option<&NicBehind>,
    taken: Taken<'_>,
    signals: &Signals,
    watch: &Watch,
) -> Result<Summary> {
    let Taken {
        sockets,
        memory,
        out,
    } = taken;
    let pool = memory::pool(memory);
    warn_of_a_small_pool(args, memory);
    let recv_buffer = match rings(args, nic) {
        Some(rings) => listen::recv_buffer_beside(pool, niov(args), rings, args.connections),
        None => listen::recv_buffer_for(pool, args.connections),
    };
    let options = SocketOptions {
        recv_buffer,
        ..SocketOptions::default()
    };
    let bound = bind(args, place, memory)?;
    let listeners = sockets.into_iter().map(|socket| socket.listen(&options));
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let workers = receiver::workers(&args.threads, &place.queues, nic)?;
    let engine = Receiver::new(args, listeners, &bound, out, workers).context("recv")?;
    signals.stop_engine(engine.stop_handle());
    watch.attend(
        engine.stop_handle(),
        Observer::new(args, place, nic, &engine, &bound),
    );
    report::tell(format_args!(
        "listening on {}, {} rx {} bound to dmabuf {} ({})",
        list(&args.listen),
        place.link.name,
        queue_list(&place.queues),
        list(bound.iter().map(|(binding, _)| binding.id())),
        args.memory.told(memory),
    ));
    let before = Cpu::now();
    let report: Result<Report<AnySink>, _> = engine.run();
    let cpu = Cpu::now().since(before);
    let memory = watch.observed();
    let report = report.context("recv")?;
    Ok(Summary::new(
        args,
        place,
        report,
        cpu,
        signals.received(),
        memory,
    ))
}

/// Bytes of a dmabuf that the NIC's rings keep filled, if the NIC can be asked.
fn rings(args: &Args, nic: Option<&NicBehind>) -> Option<u64> {
    let nic = nic?;
    let rings = Ethtool::open_in(&nic.netns)
        .and_then(|mut ethtool| ethtool.rings(nic.ifindex))
        .ok()?;
    let queues = match args.dmabuf_per_queue {
        true => 1,
        false => nic.queues.len() as u64,
    };
    Some(u64::from(rings.rx?) * niov(args) * queues)
}

/// Niovs that a connection should find: a first window's worth of small segments. As many again are
/// the NIC's rings'.
const NIOVS_EACH: u64 = 16;

/// Says before anything is received what would only be seen as slowness.
fn warn_of_a_small_pool(args: &Args, memory: &[AnyMemory]) {
    let pool = memory::pool(memory);
    let connections = u64::from(args.connections);
    let wanted = connections.saturating_mul(2 * NIOVS_EACH * niov(args));
    if pool < wanted {
        let size = Size(wanted.next_power_of_two());
        tracing::warn!(
            "{} of memory are few for {connections} connections and the NIC's rings: {} niovs; the \
             connections will wait for one another. {}",
            Size(pool),
            pool / niov(args),
            args.memory.enlarge(size),
        );
    }
}

/// Bytes that the NIC fills at a time.
fn niov(args: &Args) -> u64 {
    match args.rx_page_size {
        Some(bytes) => bytes.max(1).into(),
        None => devmem::engine::page_size(),
    }
}

/// Binds one dmabuf to all queues, or each to its own.
fn bind<'a>(
    args: &Args,
    place: &Place,
    memory: &'a [AnyMemory],
) -> Result<Vec<(Binding, &'a AnyMemory)>> {
    let queues = match args.dmabuf_per_queue {
        true => place.queues.chunks(1),
        false => place.queues.chunks(place.queues.len().max(1)),
    };
    let bind = |(memory, queues)| Ok((bind_one(args, place, memory, queues)?, memory));
    memory.iter().zip(queues).map(bind).collect()
}

fn bind_one(args: &Args, place: &Place, memory: &AnyMemory, queues: &[QueueId]) -> Result<Binding> {
    let options = BindOptions {
        rx_page_size: args.rx_page_size,
    };
    let end = Instant::now() + queues::PATIENCE;
    loop {
        let netdev = Netdev::open_in(&place.netns)?;
        let error = match netdev.bind_rx(place.link.ifindex, memory, queues, options) {
            Ok(binding) => return Ok(binding),
            Err(error) => error,
        };
        // Through a netkit the other binding may not be seen, only met (`__netif_mp_open_rxq`).
        let bound = error
            .message()
            .is_some_and(|text| text.contains("already memory provider bound"));
        if bound && Instant::now() < end {
            thread::sleep(queues::TICK);
            continue;
        }
        let queues = queue_list(queues);
        let who = match bound {
            true => queues::holders(place),
            false => String::new(),
        };
        return Err(error
            .about(format!("{} queue {queues}{who}", place.link.name))
            .into());
    }
}

/// One after the other, with commas.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter().map(|item| item.to_string());
    items.collect::<Vec<_>>().join(", ")
}
