//! Plan of a lease, made before the first change: the steps, and the record for the lease journal.

use anyhow::Result;
use netdev::link::{LinkInfo, Rule};
use netdev::{Link, NetNs, Prefix, QueueId};

use super::args::{Args, NetkitKind};
use super::choose;
use super::site::Site;
use super::steps::{NetkitEnd, Step};
use crate::args::netns;
use crate::ending_lease::{EndingLease, GuestLocation};
use crate::guest_route::forward_filter;
use crate::guest_route::lease_journal::{Device, LeaseJournal, LeaseRecord, ProxyEntry};
use crate::guest_route::plan::GuestRoute;
use crate::remedy::Hint;

/// MTU in bytes of a new netkit.
const DEFAULT_MTU: u32 = 1500;

/// Plan of a lease: devices, steps and record. Holds the lock of the lease journal.
pub(super) struct Plan {
    pub(super) site: Site,
    pub(super) journal: LeaseJournal,
    pub(super) steps: Vec<Step>,
    /// Record for the lease journal, to write before the first change; `None` if none is needed.
    pub(super) record: Option<LeaseRecord>,
}

impl Plan {
    /// Finds the devices, checks the options, and chooses queues and steps. Changes nothing, except
    /// that settings left by a deleted netkit of the same name are restored, unless this is a dry
    /// run.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let here = NetNs::current()?;
        let guest_netns = netns(args.netns.as_ref())?;
        let phys = Link::open()?.by_name(&args.phys)?;
        let mut journal = LeaseJournal::open(args.dry_run)?;
        let site = Site::find(args, phys, here, guest_netns)?;
        if !args.addresses.is_empty() {
            check_guest_route(args, &site)?;
        }
        let queues = choose::queues(args, &site)?;
        let (owner_end, owner_netns) = site.owner_end();
        if !args.dry_run {
            journal.clear_namesake(&owner_end, owner_netns)?;
        }
        let guest_route = match args.addresses.is_empty() {
            true => GuestRoute::default(),
            false => GuestRoute::plan(
                (&args.addresses, &args.routes),
                &site.phys,
                // Not a single netkit, so it is the host end.
                &owner_end,
                &journal,
            )?,
        };
        let mut plan = Self {
            site,
            journal,
            steps: Vec::new(),
            record: None,
        };
        plan.steps = plan.make_steps(args.rx_queues, &queues, &guest_route)?;
        plan.record = plan.make_record(&guest_route)?;
        Ok(plan)
    }

    /// Makes the steps, in the order of execution. For a new netkit the leases come first, because
    /// the kernel is most likely to refuse them; for an existing netkit they come last, because
    /// they can't be undone.
    fn make_steps(
        &mut self,
        rx_queues: Option<u32>,
        queues: &[QueueId],
        guest_route: &GuestRoute,
    ) -> Result<Vec<Step>> {
        let site = &mut self.site;
        let mut steps = Vec::new();
        let leases = queues.iter().copied().map(Step::Lease);
        if site.is_made() {
            let rx_queues = match rx_queues {
                Some(rx_queues) => rx_queues,
                None => 1 + u32::try_from(queues.len())?,
            };
            steps.push(Step::Make { rx_queues });
            steps.extend(leases.clone());
        } else if let Some(guest) = &site.found {
            check_room(site, guest, queues)?;
        }
        if !guest_route.is_empty() {
            if site.is_made() && site.phys.mtu != DEFAULT_MTU {
                steps.push(Step::Mtu(site.phys.mtu));
            }
            let host_up = match site.host {
                Some(host) => site.links.get(host)?.up,
                None => false,
            };
            for (end, up) in [
                (NetkitEnd::Host, host_up),
                (
                    NetkitEnd::Guest,
                    site.found.as_ref().is_some_and(|it| it.up),
                ),
            ] {
                if !up {
                    steps.push(Step::Up(end));
                }
            }
            if guest_route.loses_lro {
                steps.push(Step::LosesLro);
            }
            steps.extend(rules(site, guest_route, &mut self.journal)?);
            let off = guest_route.switches.iter().filter(|switch| switch.off);
            steps.extend(off.cloned().map(Step::Switch));
            steps.extend(guest_route.addresses.iter().copied().map(Step::Address));
            steps.extend(guest_route.routes.iter().copied().map(Step::RouteInGuest));
            steps.extend(
                guest_route
                    .addresses
                    .iter()
                    .copied()
                    .map(Step::RouteToGuest),
            );
            steps.extend(guest_route.proxies.iter().copied().map(Step::Proxy));
        }
        if !site.is_made() {
            steps.extend(leases);
        }
        Ok(steps)
    }

    /// Makes the record for the lease journal; `None` if a netkit existed and has no guest address.
    fn make_record(&self, guest_route: &GuestRoute) -> Result<Option<LeaseRecord>> {
        let Self { site, journal, .. } = self;
        let (owner_end, netns) = site.owner_end();
        let owner_end = (owner_end, site.host_end.is_some());
        let netkit = (site.netkit.as_str(), site.guest_netns.label());
        let mut record = journal.begin(netkit, site.is_made(), owner_end, netns)?;
        let addresses = guest_route.addresses.iter().map(Prefix::to_string);
        record.addresses.extend(addresses);
        let routes = guest_route.named_routes.iter().map(Prefix::to_string);
        record.routes.extend(routes);
        for note in guest_route
            .switches
            .iter()
            .filter_map(|switch| switch.note.clone())
        {
            let known = |change: &_| note.is_same_as(change);
            if !record.settings.iter().any(known) {
                record.settings.push(note);
            }
        }
        let nic = Device {
            name: site.phys.name.clone(),
            ifindex: Some(site.phys.ifindex),
        };
        let entries = guest_route.proxies.iter().map(|&addr| ProxyEntry {
            device: nic.clone(),
            addr,
        });
        record.proxies.extend(entries);
        for rule in &guest_route.rules {
            if !record.rules.contains(rule) {
                record.rules.push(rule.clone());
            }
        }
        if guest_route.lro {
            record.lro = Some(nic);
        }
        let needed = record.made || !record.addresses.is_empty();
        Ok(needed.then_some(record))
    }
}

/// Checks that packets can be routed to the guest: by a pair whose host end is in this namespace,
/// to a guest in another namespace.
fn check_guest_route(args: &Args, site: &Site) -> Result<()> {
    let (netkit, found) = (&args.netkit, site.found.as_ref());
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

/// Returns an error if the existing netkit has too few free rx queues for several leases: the
/// kernel would refuse only after it has granted some of them. A single lease is left to the
/// kernel.
fn check_room(site: &Site, guest: &LinkInfo, queues: &[QueueId]) -> Result<()> {
    let guest_netns = GuestLocation::Entered(site.guest_netns.clone());
    let has = EndingLease::of(&site.here, guest.ifindex, &guest_netns)?.len();
    let free = usize::try_from(guest.rx_queues)?.saturating_sub(1 + has);
    if queues.len() > 1 && free < queues.len() {
        return Err(Hint::new(
            format!(
                "lease {}: it has room for {free} more leases, not for {}",
                guest.name,
                queues.len()
            ),
            "make a netkit with more rx queues: one more than it leases",
        )
        .into());
    }
    Ok(())
}

/// Makes the steps that add missing policy routing rules, which this lease or an earlier one needs.
/// The kernel is asked which rules exist, since other programs may have removed some.
fn rules(
    site: &mut Site,
    guest_route: &GuestRoute,
    journal: &mut LeaseJournal,
) -> Result<Vec<Step>> {
    let known = site.links.rules()?;
    let earlier = journal.needed_rules()?;
    let mut missing: Vec<Rule> = Vec::new();
    for rule in guest_route.rules.iter().chain(&earlier) {
        if !known.contains(rule) && !missing.contains(rule) {
            missing.push(rule.clone());
        }
    }
    forward_filter::sort(&mut missing);
    let steps = missing.into_iter().map(|rule| Step::Rule {
        is_needed: earlier.contains(&rule),
        rule,
    });
    Ok(steps.collect())
}
