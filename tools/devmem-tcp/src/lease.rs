//! `devmem-tcp lease`: leases rx queues of a NIC to a netkit, and routes a guest's traffic.

mod args;
mod choose;
mod execute;
mod plan;
mod report;
mod site;
mod steps;

use anyhow::Result;
use netdev::{Link, NetNs};

use crate::args::netns;
use crate::guest_route::lease_journal::LeaseJournal;
pub(crate) use args::Args;
use execute::all_or_nothing;
use report::Leased;
use site::LeasedQueue;

pub(crate) fn run(args: &Args) -> Result<()> {
    let here = NetNs::current()?;
    let guest_netns = netns(args.netns.as_ref())?;
    let phys = Link::open()?.by_name(&args.phys)?;
    let mut journal = LeaseJournal::open(args.dry_run)?;
    let found = site::find(args, &here, &guest_netns)?;
    let mut site = site::site(args, phys, here, guest_netns, found.as_ref())?;
    if !args.addresses.is_empty() {
        plan::check_guest_route(args, &site, found.as_ref())?;
    }
    let queues = choose::queues(args, &site)?;
    if !args.dry_run {
        plan::clear_namesake(&site, &mut journal)?;
    }
    let guest_route = plan::plan_guest_route(args, &site, &journal)?;
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
        report::warn_of_a_firewall(&site, &args.addresses);
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
        true => crate::report::json(&leased),
        false => crate::report::text(&leased.to_text(&steps)),
    }
}
