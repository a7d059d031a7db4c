//! Plan of a lease, made before the first change: its steps, and their record.

use anyhow::Result;
use netdev::link::{LinkInfo, Rule};
use netdev::{Prefix, QueueId};

use super::args::{Args, NetkitKind};
use super::site::Site;
use super::steps::{NetkitEnd, Step};
use crate::ending_lease::{EndingLease, GuestLocation};
use crate::guest_route::forward_filter;
use crate::guest_route::lease_journal::{Device, LeaseJournal, LeaseRecord, ProxyEntry};
use crate::guest_route::plan::GuestRoute;
use crate::remedy::Hint;

/// Steps of the lease, in order. The leases come first for a new netkit, because they are what the
/// kernel is most likely to refuse, and last for one that stays, because they can't be undone.
pub(super) fn steps(
    rx_queues: Option<u32>,
    site: &mut Site,
    found: Option<&LinkInfo>,
    queues: &[QueueId],
    (guest_route, journal): (&GuestRoute, &mut LeaseJournal),
) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let leases = queues.iter().copied().map(Step::Lease);
    if site.made {
        let rx_queues = match rx_queues {
            Some(rx_queues) => rx_queues,
            None => 1 + u32::try_from(queues.len())?,
        };
        steps.push(Step::Make { rx_queues });
        steps.extend(leases.clone());
    } else if let Some(guest) = found {
        room(site, guest, queues)?;
    }
    if !guest_route.is_empty() {
        if site.made && site.phys.mtu != DEFAULT_MTU {
            steps.push(Step::Mtu(site.phys.mtu));
        }
        let host_up = match site.host {
            Some(host) => site.links.get(host)?.up,
            None => false,
        };
        for (end, up) in [
            (NetkitEnd::Host, host_up),
            (NetkitEnd::Guest, found.is_some_and(|it| it.up)),
        ] {
            if !up {
                steps.push(Step::Up(end));
            }
        }
        if guest_route.loses_lro {
            steps.push(Step::LosesLro);
        }
        steps.extend(rules(site, guest_route, journal)?);
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
    if !site.made {
        steps.extend(leases);
    }
    Ok(steps)
}

/// Steps that add the rules which the lease needs, or an earlier one, and which the kernel does not
/// have. It alone knows: other programs remove rules that are not theirs.
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

/// Mtu of a new netkit.
const DEFAULT_MTU: u32 = 1500;

/// Refuses more queues than the netkit has room for: the kernel would refuse only after it has
/// granted a part. A single queue is left to the kernel.
fn room(site: &Site, guest: &LinkInfo, queues: &[QueueId]) -> Result<()> {
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

/// Record to write before the first change; `None` if nothing outlives the netkit.
pub(super) fn record(
    site: &Site,
    found: Option<&LinkInfo>,
    guest_route: &GuestRoute,
    journal: &LeaseJournal,
) -> Result<Option<LeaseRecord>> {
    let guest = Device {
        name: site.netkit.clone(),
        ifindex: found.map(|link| link.ifindex),
    };
    let (owner_end, pair, netns) = match &site.host_end {
        Some(name) => {
            let host = Device {
                name: name.clone(),
                ifindex: site.host,
            };
            (host, true, &site.here)
        }
        None => (guest, false, &site.guest_netns),
    };
    let netkit = (site.netkit.as_str(), site.guest_netns.label());
    let mut record = journal.begin(netkit, site.made, (owner_end, pair), netns)?;
    // The record of an earlier lease of the same netkit is continued. A record may have no cookie.
    let is_same = |one: Option<u64>, other| {
        one.zip(other)
            .is_none_or(|(one, other): (u64, u64)| one == other)
    };
    let earlier = journal.all().iter().find(|it| {
        it.owner_netns == record.owner_netns
            && is_same(it.owner_cookie, record.owner_cookie)
            && it.owner_end.ifindex.is_some()
            && it.owner_end.ifindex == record.owner_end.ifindex
    });
    if let Some(earlier) = earlier {
        record = earlier.clone();
    }
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
    let needed = site.made || earlier.is_some() || !guest_route.is_empty();
    Ok(needed.then_some(record))
}

/// Restores what an earlier netkit of this name left, which is gone: its record would be
/// overwritten with this one's.
pub(super) fn clear_namesake(site: &Site, journal: &mut LeaseJournal) -> Result<()> {
    let (name, netns) = match &site.host_end {
        Some(name) => (name, &site.here),
        None => (&site.netkit, &site.guest_netns),
    };
    let netns = netns.identity()?;
    for stale in journal.stale(false)? {
        if stale.owner_end.name == *name && stale.owner_netns == netns {
            journal.clear(&stale, false)?;
        }
    }
    Ok(())
}

/// Checks that a route to the guest is possible.
pub(super) fn check_guest_route(args: &Args, site: &Site, found: Option<&LinkInfo>) -> Result<()> {
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

pub(super) fn plan_guest_route(
    args: &Args,
    site: &Site,
    journal: &LeaseJournal,
) -> Result<GuestRoute> {
    let Some(host_end) = site.host_end.clone().filter(|_| !args.addresses.is_empty()) else {
        return Ok(GuestRoute::default());
    };
    let host = Device {
        name: host_end,
        ifindex: site.host,
    };
    GuestRoute::plan((&args.addresses, &args.routes), &site.phys, &host, journal)
}
