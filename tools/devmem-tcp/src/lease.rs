//! `devmem-tcp lease`.

use anyhow::{Context, Result, bail};
use netdev::{Ifindex, Lease, Link, LinkInfo, NetNs, Netdev, NetkitPair, NetkitSingle, QueueId};
use serde::Serialize;

use crate::args::{NetNsArg, netns};
use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The physical NIC whose queues are leased out
    #[arg(long, value_name = "IF")]
    phys: String,
    /// An rx queue of it; may be given again for more queues
    #[arg(long = "queue", value_name = "N", required = true)]
    queues: Vec<QueueId>,
    /// The netkit device that gets the queues: taken if it exists, else made
    #[arg(long, value_name = "IF")]
    netkit: String,
    /// The namespace of that netkit device: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// What to make: a pair, whose other end stays here, or a single device
    #[arg(long, value_enum, default_value_t = Kind::Pair)]
    kind: Kind,
    /// Name of the end of a pair that stays here [default: the netkit's name and an h]
    #[arg(long, value_name = "IF")]
    host_end: Option<String>,
    /// Rx queues of a device that is made, its own included [default: one more than are leased]
    #[arg(long, value_name = "N")]
    rx_queues: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Pair,
    Single,
}

/// What was leased, as it is printed.
#[derive(Serialize)]
struct Leased {
    phys: String,
    phys_ifindex: Ifindex,
    netkit: String,
    ifindex: Ifindex,
    netns: String,
    made: bool,
    host_end: Option<String>,
    leases: Vec<LeasedQueue>,
}

#[derive(Serialize)]
struct LeasedQueue {
    /// The queue of the physical NIC.
    phys_queue: QueueId,
    /// The queue of the netkit, as the kernel answered.
    queue: QueueId,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let here = NetNs::current()?;
    let guest_netns = netns(args.netns.as_ref())?;
    let phys = Link::open()?.by_name(&args.phys)?;
    let (guest, made) = match find(args, &here, &guest_netns)? {
        Some(guest) => (guest, None),
        None => make(args, &guest_netns)?,
    };
    let leased = lease(args, &phys, guest.ifindex, &here, &guest_netns);
    let leases = match (leased, &made) {
        (Ok(leases), _) => leases,
        (Err(error), None) => return Err(error),
        (Err(error), Some(made)) => {
            // Removing the device ends those leases that were granted before the refusal.
            made.remove(&guest_netns)
                .context(format!("after: {error:#}"))?;
            return Err(error);
        }
    };
    let leased = Leased {
        phys_ifindex: phys.ifindex,
        phys: phys.name,
        netkit: args.netkit.clone(),
        ifindex: guest.ifindex,
        netns: guest_netns.label().to_owned(),
        host_end: made.as_ref().and_then(|made| made.host_end.clone()),
        made: made.is_some(),
        leases,
    };
    if args.json {
        report::json(&leased)
    } else {
        report::text(&leased.to_text())
    }
}

/// A device of ours, to be removed if it can't be used.
struct Made {
    guest: Ifindex,
    host_end: Option<String>,
}

impl Made {
    fn remove(&self, guest_netns: &NetNs) -> Result<()> {
        Link::open_in(guest_netns)?.delete(self.guest)?;
        Ok(())
    }
}

/// The netkit that exists already, in its namespace.
fn find(args: &Args, here: &NetNs, guest_netns: &NetNs) -> Result<Option<LinkInfo>> {
    let found = by_name(guest_netns, &args.netkit)?;
    let Some(link) = found else {
        if !here.is_same(guest_netns)? && by_name(here, &args.netkit)?.is_some() {
            bail!(
                "lease {netkit}: {netkit} is not in namespace {netns}, but here",
                netkit = args.netkit,
                netns = guest_netns.label()
            );
        }
        return Ok(None);
    };
    if link.kind.as_deref() == Some("netkit") {
        Ok(Some(link))
    } else {
        let kind = link.kind.as_deref().unwrap_or("physical device");
        bail!("lease {}: a {kind}, not a netkit", args.netkit)
    }
}

fn by_name(netns: &NetNs, name: &str) -> Result<Option<LinkInfo>> {
    match Link::open_in(netns)?.by_name(name) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the netkit: the guest end in its namespace, the other end of a pair here.
fn make(args: &Args, guest_netns: &NetNs) -> Result<(LinkInfo, Option<Made>)> {
    let leases = u32::try_from(args.queues.len()).context("so many queues")?;
    let rx_queues = Some(args.rx_queues.unwrap_or(1 + leases));
    let mut guest_links = Link::open_in(guest_netns)?;
    let (guest, host_end) = match args.kind {
        Kind::Single => {
            let mut single = NetkitSingle::new(args.netkit.clone());
            single.rx_queues = rx_queues;
            (guest_links.create_netkit_single(&single)?, None)
        }
        Kind::Pair => {
            let host_end = args
                .host_end
                .clone()
                .unwrap_or_else(|| format!("{}h", args.netkit));
            let mut pair = NetkitPair::new(host_end.clone(), args.netkit.clone());
            pair.rx_queues = rx_queues;
            pair.peer_netns = args.netns.as_ref().map(NetNsArg::open).transpose()?;
            (Link::open()?.create_netkit(&pair)?.peer, Some(host_end))
        }
    };
    let made = Made { guest, host_end };
    match guest_links.get(guest) {
        Ok(link) => Ok((link, Some(made))),
        Err(error) => {
            made.remove(guest_netns)?;
            Err(error.into())
        }
    }
}

/// Asks for the leases, in the netkit's namespace, where the kernel looks the device up.
fn lease(
    args: &Args,
    phys: &LinkInfo,
    guest: Ifindex,
    here: &NetNs,
    guest_netns: &NetNs,
) -> Result<Vec<LeasedQueue>> {
    let netns_id = if here.is_same(guest_netns)? {
        None
    } else {
        Some(Link::open_in(guest_netns)?.nsid_or_assign(here)?)
    };
    let mut netdev = Netdev::open_in(guest_netns)?;
    let mut leases = Vec::new();
    for &phys_queue in &args.queues {
        let lease = Lease {
            of: phys.ifindex,
            queue: phys_queue,
            netns_id,
        };
        let object = format!("{} from {} rx {phys_queue}", args.netkit, phys.name);
        let queue = netdev
            .lease(guest, lease)
            .map_err(|error| error.about(object))?;
        leases.push(LeasedQueue { phys_queue, queue });
    }
    Ok(leases)
}

impl Leased {
    fn to_text(&self) -> String {
        let Self {
            netkit,
            phys,
            netns,
            ifindex,
            ..
        } = self;
        let mut text = String::new();
        if self.made {
            text += &match &self.host_end {
                Some(host) => format!("made netkit pair {host} (here) and {netkit}"),
                None => format!("made netkit single {netkit}"),
            };
            text += &format!(" (ifindex {ifindex}, namespace {netns})\n");
        }
        for LeasedQueue { phys_queue, queue } in &self.leases {
            text += &format!("leased {phys} rx {phys_queue} to {netkit} rx {queue}\n");
        }
        text
    }
}
