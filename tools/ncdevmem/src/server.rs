//! The receiver.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use devmem::DmabufId;
use devmem::engine::{Config, End, Engine, Peer, Report, Until};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::pattern::Pattern;
use devmem::sink::{Memory, Sink, SinkError, Validate, Write};
use dmabuf::{Dmabuf, Protection};
use netdev::{
    Action, BindOptions, Ethtool, FlowRule, Ifindex, IpMatch, Link, NetNs, Netdev, PortMatch,
    QueueId,
};
use nic::{Applied, Plan};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use udmabuf::{HugePage, Udmabuf};

use crate::Args;

/// Pages of the dmabuf, as upstream's NUM_PAGES.
const PAGES: u64 = 16_000;
/// Bytes of a page that a plain memfd is made of.
const PAGE: u64 = 4096;
/// Bytes of a huge page, which rx pages larger than a page are cut from.
const HUGE_PAGE: u64 = 2 << 20;

type AnySink = Box<dyn Sink + Send>;

pub(crate) fn run(args: &Args) -> Result<()> {
    let link = Link::open()?.by_name(&args.ifname)?;
    say(&format!("using ifindex={}", link.ifindex));
    let queues = queues(args, link.ifindex)?;
    let memory = memory(args)?;
    let applied = configure(args, link.ifindex, &queues)?;
    let outcome = receive(args, link.ifindex, &queues, &memory);
    match (applied.map(Applied::restore), outcome) {
        (Some(Err(error)), Err(before)) => bail!("{before:#}; then {error}"),
        (Some(Err(error)), Ok(())) => Err(error.into()),
        (_, outcome) => outcome,
    }
}

/// The queues that were named, or the device's last.
fn queues(args: &Args, ifindex: Ifindex) -> Result<Vec<QueueId>> {
    let (start, count) = match (args.start_queue, args.num_queues) {
        (Some(start), Some(count)) => (start, count),
        _ => {
            let channels = Ethtool::open()?.channels(ifindex)?;
            let count = channels.rx.unwrap_or(0) + channels.combined.unwrap_or(0);
            ensure!(
                count >= 2,
                "{}: number of device queues is too low",
                args.ifname
            );
            (count - 1, 1)
        }
    };
    let end = start.checked_add(count).context("-t and -q")?;
    say(&format!("using queues {start}..{end}"));
    Ok((start..end).map(QueueId::new).collect())
}

fn memory(args: &Args) -> Result<Udmabuf> {
    let (size, pages) = if u64::from(args.rx_page_size.unwrap_or(0)) > PAGE {
        ((PAGES * PAGE).next_multiple_of(HUGE_PAGE), HugePage::Mb2)
    } else {
        (PAGES * PAGE, HugePage::None)
    };
    Ok(Udmabuf::builder(size).hugepages(pages).build()?)
}

/// Sets the NIC up, unless that is not wanted, or the device has no rings to set: a netkit's are
/// those of the NIC whose queue it leases, which is not in this namespace.
fn configure(args: &Args, ifindex: Ifindex, queues: &[QueueId]) -> Result<Option<Applied>> {
    if args.skip_config {
        return Ok(None);
    }
    match Ethtool::open()?.rings(ifindex) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            say(&format!(
                "{} has no rings of its own: its NIC is left as it is",
                args.ifname
            ));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let first = queues.get(..1).context("-q: no queue")?;
    let mut flow = FlowRule::tcp_to(SocketAddr::new(args.server, args.port), Action::Drop);
    if let Some(client) = args.client {
        flow.src = Some(IpMatch::host(client));
        flow.src_port = Some(PortMatch::exact(args.port));
    }
    let netns = NetNs::current()?;
    let plan = Plan::new(&args.ifname, ifindex)
        .header_split()
        .reserve(queues);
    match plan.clone().steer(flow.clone(), first).apply(&netns) {
        Err(_) if args.client.is_some() => {
            // The five-tuple is more than some NICs can match: try the three-tuple, as upstream does.
            flow.src = None;
            flow.src_port = None;
            Ok(Some(plan.steer(flow, first).apply(&netns)?))
        }
        applied => Ok(Some(applied?)),
    }
}

fn receive(args: &Args, ifindex: Ifindex, queues: &[QueueId], memory: &Udmabuf) -> Result<()> {
    let options = BindOptions {
        rx_page_size: args.rx_page_size,
    };
    let binding = Netdev::open()?
        .bind_rx(ifindex, memory, queues, options)
        .map_err(|error| error.about(args.ifname.clone()))?;
    say(&format!("got dmabuf id={}", binding.id()));

    let mapping = Arc::new(memory.map(Protection::Read).context("mapping the dmabuf")?);
    let memory = Memory::new().with(DmabufId::new(binding.id().get()), mapping);
    let pattern = args
        .validation
        .map(Pattern::new)
        .transpose()
        .context("-v")?;
    let sink = move |peer: &Peer| -> Result<AnySink, SinkError> {
        say(&format!("Got connection from {}", peer.address));
        Ok(match &pattern {
            Some(pattern) => Box::new(Validate::new(pattern.clone(), memory.clone())),
            None => Box::new(Write::new(io::stdout(), memory.clone())),
        })
    };

    let address = SocketAddr::new(args.server, args.port);
    say(&format!("binding to address {address}"));
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(PAGES * PAGE, 1),
        ..SocketOptions::default()
    };
    let listener = listen(address, &options)?;
    let config = Config {
        until: Until::Peers(1),
        refuse_unsteered: true,
        refuse_linear: args.fail_on_linear,
        ..Config::default()
    };
    let engine = Engine::new(listener, config, sink)?;
    say(&format!("Waiting or connection on {address}"));
    let stop = engine.stop_handle();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signal handlers")?;
    let handle = signals.handle();
    let watcher = thread::spawn(move || signals.forever().next().inspect(|_| stop.stop()));
    let report = engine.run();
    handle.close();
    let signal = watcher.join().ok().flatten();
    finish(args, &report?)?;
    match signal {
        Some(signal) => bail!("ended by signal {signal}"),
        None => Ok(()),
    }
}

/// Upstream's closing words, and whether it went well.
fn finish(args: &Args, report: &Report<AnySink>) -> Result<()> {
    let stream = &report.stats.stream;
    for connection in &report.connections {
        if let End::Failed(error) = &connection.end {
            bail!(
                "from {}, after {} bytes: {error}",
                connection.peer.address,
                connection.stats.bytes
            );
        }
        say("client exited");
    }
    say(&format!("total_received={}", stream.bytes));
    say(&format!(
        "frags={} frag_bytes={} linear_bytes={} tokens_returned={}",
        stream.frags, stream.frag_bytes, stream.linear_bytes, stream.tokens.freed
    ));
    if args.validation.is_some() {
        say("Validated buffer");
    }
    ensure!(
        stream.tokens.outstanding() == 0,
        "{} tokens were not returned",
        stream.tokens.outstanding()
    );
    say("ok");
    Ok(())
}

/// A line on stderr, as upstream's.
fn say(text: &str) {
    // Nobody is left to hear of it if stderr is closed.
    let _closed = writeln!(io::stderr(), "ncdevmem: {text}");
}
