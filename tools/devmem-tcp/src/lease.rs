//! `devmem-tcp lease`: leases rx queues of a NIC to a netkit, and routes a guest's traffic.

mod choose;
mod execute;
mod leased;
mod plan;
mod steps;

use std::net::IpAddr;

use anyhow::{Result, bail};
use netdev::link::LinkInfo;
use netdev::{Link, NetNs, Prefix, QueueId};

use crate::args::{NetNsArg, netns};
use crate::guest_route::firewall::{accept_commands, describe, dropping_chains};
use crate::guest_route::lease_journal::{Device, LeaseJournal};
use crate::guest_route::plan::GuestRoute;
use crate::remedy::Hint;
use crate::report;
use choose::QueueList;
use execute::all_or_nothing;
use leased::Leased;
use steps::{LeasedQueue, Site};

// Not `#[group(...)]`, which is the group of all arguments.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["queues", "ranges", "count"]))]
pub(crate) struct Args {
    /// The physical NIC whose queues are leased out
    #[arg(long, value_name = "IF")]
    phys: String,
    /// Rx queue of the NIC; may be given again for more queues
    #[arg(long = "queue", value_name = "N")]
    queues: Vec<QueueId>,
    /// Several rx queues of the NIC: 3-7,9
    #[arg(id = "ranges", long = "queues", value_name = "LIST")]
    ranges: Option<QueueList>,
    /// Lease the last N unused rx queues
    #[arg(long, value_name = "N", conflicts_with_all = ["queues", "ranges"],
          value_parser = clap::value_parser!(u32).range(1..=1023))]
    count: Option<u32>,
    /// The netkit device that gets the queues: used if it exists, otherwise made
    #[arg(long, value_name = "IF")]
    netkit: String,
    /// The namespace of the netkit device: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// Kind of a new netkit: a pair, whose other end stays here, or a single device
    #[arg(long, value_enum, default_value_t = NetkitKind::Pair)]
    kind: NetkitKind,
    /// Name of the end of a pair that stays here [default: the netkit's name and an h]
    #[arg(long, value_name = "IF")]
    host_end: Option<String>,
    /// Rx queues of a new device, its own included [default: one more than are leased]
    #[arg(long, value_name = "N")]
    rx_queues: Option<u32>,
    /// An address for the guest; routes and forwarding are set up so that the NIC's traffic for it
    /// gets there. May be given again
    #[arg(long = "address", value_name = "ADDR[/LEN]")]
    addresses: Vec<Prefix>,
    /// Destination of the guest's route through the netkit; may be given again [default: anywhere]
    #[arg(long = "route", value_name = "NET/LEN", requires = "addresses")]
    routes: Vec<Prefix>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NetkitKind {
    Pair,
    Single,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let here = NetNs::current()?;
    let guest_netns = netns(args.netns.as_ref())?;
    let phys = Link::open()?.by_name(&args.phys)?;
    let mut journal = LeaseJournal::open(args.dry_run)?;
    let found = find(args, &here, &guest_netns)?;
    let mut site = site(args, phys, here, guest_netns, found.as_ref())?;
    if !args.addresses.is_empty() {
        check_guest_route(args, &site, found.as_ref())?;
    }
    let queues = queues(args, &site)?;
    if !args.dry_run {
        plan::clear_namesake(&site, &mut journal)?;
    }
    let guest_route = plan_guest_route(args, &site, &journal)?;
    let steps = plan::steps(
        args.rx_queues,
        &mut site,
        found.as_ref(),
        &queues,
        (&guest_route, &mut journal),
    )?;
    let record = plan::record(&site, found.as_ref(), &guest_route, &journal)?;
    if args.dry_run {
        site.leases = queues
            .iter()
            .map(|&phys_queue| LeasedQueue {
                phys_queue,
                queue: None,
            })
            .collect();
    } else {
        all_or_nothing(&mut site, &steps, record, &mut journal)?;
    }
    // Release the lock before printing: a slow reader must not block others.
    drop(journal);
    if !args.addresses.is_empty() {
        warn_of_a_firewall(&site, &args.addresses);
    }
    let told = steps.iter().map(|step| site.describe(step)).collect();
    let leased = Leased {
        phys_ifindex: site.phys.ifindex,
        phys: site.phys.name,
        netkit: site.netkit,
        ifindex: site.guest,
        netns: site.guest_netns.label().to_owned(),
        made: site.made,
        host_end: site.host_end,
        leases: site.leases,
        addresses: args.addresses.clone(),
        dry_run: args.dry_run,
        steps: told,
    };
    match args.json {
        true => report::json(&leased),
        false => report::text(&leased.to_text(&steps)),
    }
}

/// Finds the netkit in its namespace, if it exists.
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

/// Devices and namespaces that the steps work on.
fn site(
    args: &Args,
    phys: LinkInfo,
    here: NetNs,
    guest_netns: NetNs,
    found: Option<&LinkInfo>,
) -> Result<Site> {
    let mut links = Link::open()?;
    let mut guest_links = Link::open_in(&guest_netns)?;
    let host = match found {
        Some(guest) => host_end_of(guest, &mut guest_links, &mut links, &here, &guest_netns)?,
        None => None,
    };
    let host_end = match (found, args.kind) {
        (Some(_), _) => host.as_ref().map(|link| link.name.clone()),
        (None, NetkitKind::Single) => None,
        (None, NetkitKind::Pair) => Some(
            args.host_end
                .clone()
                .unwrap_or_else(|| format!("{}h", args.netkit)),
        ),
    };
    Ok(Site {
        phys,
        here,
        guest_netns,
        links,
        guest_links,
        netkit: args.netkit.clone(),
        host_end,
        made: found.is_none(),
        host: host.map(|link| link.ifindex),
        guest: found.map(|link| link.ifindex),
        leases: Vec::new(),
        added_rules: Vec::new(),
    })
}

/// Finds the host end of a pair, if it is in this namespace.
fn host_end_of(
    guest: &LinkInfo,
    guest_links: &mut Link,
    links: &mut Link,
    here: &NetNs,
    guest_netns: &NetNs,
) -> Result<Option<LinkInfo>> {
    match guest_links.other_end(guest_netns, guest)? {
        Some((there, host)) if there.is_same(here)? => Ok(Some(links.get(host)?)),
        _ => Ok(None),
    }
}

/// Checks that a route to the guest is possible.
fn check_guest_route(args: &Args, site: &Site, found: Option<&LinkInfo>) -> Result<()> {
    let netkit = &args.netkit;
    if args.kind == NetkitKind::Single || found.is_some_and(|it| it.link.is_none()) {
        return Err(Hint::new(
            format!("lease {netkit}: a single netkit has no data path: --address has no meaning"),
            "make a pair; or bring the packets into the guest by another device, and lease \
             without --address",
        )
        .into());
    }
    if site.here.is_same(&site.guest_netns)? {
        return Err(Hint::new(
            format!("lease {netkit}: the guest of --address is this namespace"),
            "name another one with --netns: an address of this one needs no route to a guest",
        )
        .into());
    }
    if site.host_end.is_none() {
        return Err(Hint::new(
            format!("lease {netkit}: its host end is in another namespace than the NIC"),
            "lease from a netkit whose host end is here; or set the route up yourself",
        )
        .into());
    }
    Ok(())
}

fn queues(args: &Args, site: &Site) -> Result<Vec<QueueId>> {
    if let Some(count) = args.count {
        return choose::free(&site.phys, count);
    }
    let mut queues = args.queues.clone();
    if let Some(QueueList(more)) = &args.ranges {
        queues.extend(more);
    }
    let mut queues = choose::named(queues)?;
    if !site.made && queues.len() > 1 {
        choose::doubtful_first(&site.phys, &mut queues)?;
    }
    Ok(queues)
}

/// Warns of chains that drop forwarded packets by their policy: the lease is made, but its packets may not come.
fn warn_of_a_firewall(site: &Site, addresses: &[Prefix]) {
    let Some(host_end) = &site.host_end else {
        return;
    };
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.addr).collect();
    let chains = match dropping_chains(&site.here, &addresses) {
        Ok(chains) => chains,
        // The kernel has no nftables, or whoever leases may not look.
        Err(error) => {
            tracing::debug!("the firewall was not examined: {error}");
            return;
        }
    };
    if !chains.is_empty() {
        tracing::warn!(
            "{}: packets to and from {} are forwarded. If it has no such rule yet: {}",
            describe(&chains),
            site.netkit,
            accept_commands(&chains, (&site.phys.name, host_end)).join(" && ")
        );
    }
}

fn plan_guest_route(args: &Args, site: &Site, journal: &LeaseJournal) -> Result<GuestRoute> {
    let Some(host_end) = site.host_end.clone().filter(|_| !args.addresses.is_empty()) else {
        return Ok(GuestRoute::default());
    };
    let host = Device {
        name: host_end,
        ifindex: site.host,
    };
    GuestRoute::plan((&args.addresses, &args.routes), &site.phys, &host, journal)
}
