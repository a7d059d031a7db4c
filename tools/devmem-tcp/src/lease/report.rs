//! Report of a lease that was made, or of the steps of a dry run.

use std::net::IpAddr;

use anyhow::Result;
use netdev::{Ifindex, Prefix};
use serde::Serialize;

use super::args::Args;
use super::plan::Plan;
use super::site::{LeasedQueue, Site};
use super::steps::Step;
use crate::guest_route::firewall::{accept_commands, describe, dropping_chains};

/// Prints the lease that was made, or the steps of a dry run.
pub(super) fn report(args: &Args, plan: Plan) -> Result<()> {
    let Plan {
        site,
        steps,
        journal,
        ..
    } = plan;
    // Release the lock before printing: a slow reader must not block others.
    drop(journal);
    if !args.addresses.is_empty() {
        warn_of_a_firewall(&site, &args.addresses);
    }
    let leased = Leased {
        made: site.is_made(),
        steps: steps.iter().map(|step| site.describe(step)).collect(),
        phys_ifindex: site.phys.ifindex,
        phys: site.phys.name,
        netkit: site.netkit,
        ifindex: site.guest,
        netns: site.guest_netns.label().to_owned(),
        host_end: site.host_end,
        leases: match args.dry_run {
            true => steps.iter().filter_map(would_lease).collect(),
            false => site.leases,
        },
        addresses: args.addresses.clone(),
        dry_run: args.dry_run,
    };
    match args.json {
        true => crate::report::json(&leased),
        false => crate::report::text(&leased.to_text(&steps)),
    }
}

/// Queue that a step of a dry run would lease; `None` if the step leases no queue.
fn would_lease(step: &Step) -> Option<LeasedQueue> {
    match step {
        Step::Lease(queue) => Some(LeasedQueue {
            phys_queue: *queue,
            queue: None,
        }),
        _ => None,
    }
}

/// Report of a lease, as text or JSON.
#[derive(Serialize)]
struct Leased {
    phys: String,
    phys_ifindex: Ifindex,
    netkit: String,
    /// Interface index of the netkit; `null` in a dry run that would make the netkit.
    ifindex: Option<Ifindex>,
    netns: String,
    made: bool,
    /// Name of the netkit pair's host end; `null` if there is none in this namespace.
    host_end: Option<String>,
    leases: Vec<LeasedQueue>,
    /// Addresses of the guest, given by `--address`.
    addresses: Vec<Prefix>,
    /// Whether the command was a dry run.
    dry_run: bool,
    /// Descriptions of the steps that were executed, or that a dry run would execute.
    steps: Vec<String>,
}

impl Leased {
    /// Formats the report as text.
    fn to_text(&self, steps: &[Step]) -> String {
        if self.dry_run {
            let would = self.steps.iter().map(|step| format!("would {step}\n"));
            return would.collect();
        }
        let Self {
            netkit,
            phys,
            netns,
            ..
        } = self;
        let mut text = String::new();
        if let (true, Some(ifindex)) = (self.made, self.ifindex) {
            text += &match &self.host_end {
                Some(host) => format!("made netkit pair {host} (here) and {netkit}"),
                None => format!("made netkit single {netkit}"),
            };
            text += &format!(" (ifindex {ifindex}, namespace {netns})\n");
        }
        for LeasedQueue { phys_queue, queue } in &self.leases {
            let queue = queue.map(|queue| queue.to_string()).unwrap_or_default();
            text += &format!("leased {phys} rx {phys_queue} to {netkit} rx {queue}\n");
        }
        for (step, told) in steps.iter().zip(&self.steps) {
            if matches!(
                step,
                Step::Switch(_) | Step::Proxy(_) | Step::LosesLro | Step::Rule { .. }
            ) {
                text += &format!("{told}\n");
            }
        }
        for address in &self.addresses {
            let host = self.host_end.as_deref().unwrap_or_default();
            text += &format!("{address} in {netns} is reached through {phys} and {host}\n");
        }
        text
    }
}

/// Warns of firewall chains whose policy drops forwarded packets, which then don't reach the guest.
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
