//! Checks of the queues: their number, which are free, and other traffic on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netdev::queues::Queue;
use netdev::{QueueId, RssContextId, queue_list, shell_word};

use super::check::{Area, Check, Finding};
use super::nic::{Nic, Receiving, is_free};

pub(super) const CHECKS: &[Check<Nic>] = &[
    Check {
        id: "queues.count",
        areas: &[Area::Rx, Area::Lease],
        what: "there is more than one rx queue",
        run: check_count,
    },
    Check {
        id: "queues.free",
        areas: &[Area::Rx, Area::Lease],
        what: "the queue is not bound, leased or in AF_XDP use",
        run: check_free,
    },
    Check {
        id: "rss.table",
        areas: &[Area::Rx],
        what: "there is an RSS table to keep the queue out of",
        run: check_rss_table,
    },
    Check {
        id: "rss.others",
        areas: &[Area::Rx],
        what: "a queue is left for the other traffic",
        run: check_other_queues,
    },
    Check {
        id: "rss.contexts",
        areas: &[Area::Rx],
        what: "no other RSS context has the queue",
        run: check_rss_contexts,
    },
    Check {
        id: "pool.ring",
        areas: &[Area::Rx],
        what: "the buffer is larger than what waits in the NIC's ring",
        run: check_ring,
    },
    Check {
        id: "pool.left",
        areas: &[Area::Rx],
        what: "no page pool of an earlier receiver is left",
        run: check_detached_pools,
    },
];

/// Command `ethtool -L` that gives the NIC this number of rx queues; `None` where the device can't
/// have that many.
fn grow_command(nic: &Nic, queues: u32) -> Option<String> {
    let channels = nic.channels.as_ref().ok()?;
    // The kind that is in use, if the driver has both (bnxt, ice).
    let (kind, max) = match channels.combined.unwrap_or(0) {
        0 => ("rx", channels.rx_max),
        _ => ("combined", channels.combined_max),
    };
    let max = max.unwrap_or(0);
    (queues <= max).then(|| nic.ethtool("-L", &format!("{kind} {queues}")))
}

fn check_count(nic: &Nic) -> Option<Finding> {
    let now = match &nic.channels {
        Ok(channels) => channels.rx_queues(),
        Err(_) => u32::try_from(nic.queues.len()).ok()?,
    };
    let found = format!("{now}");
    Some(match (now, grow_command(nic, 2)) {
        (2.., _) => Finding::ok(found),
        (_, Some(command)) => Finding::fail(found).remedy(command),
        (_, None) => Finding::fail(found + ", and the device has no more")
            .remedy("no setting helps: one queue must be left for the other traffic"),
    })
}

/// Describes the users of queues: `0-2 are leased to ifindex 7, 3 is in AF_XDP use`.
fn holders<'a>(queues: impl Iterator<Item = &'a Queue>) -> String {
    let mut by_holder: BTreeMap<String, Vec<QueueId>> = BTreeMap::new();
    for queue in queues {
        by_holder.entry(holder(queue)).or_default().push(queue.id);
    }
    let words = by_holder.iter().map(|(holder, queues)| {
        let verb = if queues.len() == 1 { "is" } else { "are" };
        format!("{} {verb} {holder}", queue_list(queues))
    });
    words.collect::<Vec<_>>().join(", ")
}

fn holder(queue: &Queue) -> String {
    match (&queue.lease, queue.dmabuf) {
        (_, Some(dmabuf)) => format!("bound to dmabuf {dmabuf}"),
        (Some(lease), _) => match lease.netns_id {
            Some(nsid) => format!("leased to ifindex {} of nsid {nsid}", lease.ifindex),
            None => format!("leased to ifindex {}", lease.ifindex),
        },
        _ if queue.xsk => "in AF_XDP use".to_owned(),
        _ => "in use by io_uring".to_owned(),
    }
}

fn check_free(nic: &Nic) -> Option<Finding> {
    if !nic.link.up || nic.queues.is_empty() {
        return None;
    }
    let frees = queue_ids(nic, is_free);
    if nic.asked {
        return check_requested(nic, &frees);
    }
    if !frees.is_empty() {
        return Some(Finding::ok(format!("free: {}", queue_list(&frees))));
    }
    // One queue to receive on, one for the other traffic.
    let more = u32::try_from(nic.queues.len()).ok()? + 2;
    let end = "`devmem-tcp show` names who has them: a lease ends with its netkit, a binding with \
               its process";
    let remedy = grow_command(nic, more).unwrap_or_else(|| end.to_owned());
    Some(Finding::fail(format!("none: {}", holders(nic.queues.iter()))).remedy(remedy))
}

/// Finding about the queues that were requested: whether they exist and are free.
fn check_requested(nic: &Nic, frees: &[QueueId]) -> Option<Finding> {
    let last = nic.queues.iter().map(|queue| queue.id).max()?;
    let beyond: Vec<QueueId> = nic.wanted.iter().copied().filter(|id| *id > last).collect();
    // A leased queue is bound through its netkit, so only a binding prevents receiving.
    let lease_is_ours = |queue: &Queue| nic.through_netkit && queue.dmabuf.is_none();
    let in_the_way =
        |queue: &&Queue| nic.wanted.contains(&queue.id) && !is_free(queue) && !lease_is_ours(queue);
    let held = holders(nic.queues.iter().filter(in_the_way));
    let mut once = nic.wanted.clone();
    once.sort_unstable();
    once.dedup();
    let finding = match (&beyond[..], &held[..]) {
        _ if once.len() < nic.wanted.len() => {
            return Some(Finding::fail("a queue is named twice").remedy("name each queue once"));
        }
        ([], "") => {
            let wanted = queue_list(&nic.wanted);
            return Some(Finding::ok(format!("{wanted} can be used")));
        }
        ([], held) => Finding::fail(held),
        (beyond, _) => {
            let all: Vec<QueueId> = nic.queues.iter().map(|queue| queue.id).collect();
            let (beyond, all) = (queue_list(beyond), queue_list(&all));
            Finding::fail(format!("{beyond}: {} has rx queues {all}", nic.name()))
        }
    };
    Some(match frees.last() {
        Some(free) if !nic.through_netkit => {
            let another = format!("doctor {} --queue {free}", shell_word(nic.name()));
            finding.remedy(nic.namespace.own_command(&another))
        }
        _ => finding.remedy("end the receiver that has it: `devmem-tcp show` lists the bindings"),
    })
}

fn queue_ids(nic: &Nic, which: impl Fn(&Queue) -> bool) -> Vec<QueueId> {
    let queues = nic.queues.iter().filter(|queue| which(queue));
    queues.map(|queue| queue.id).collect()
}

fn check_rss_table(nic: &Nic) -> Option<Finding> {
    let without = "no setting helps: receive with --no-config, and steer by other means";
    Some(match nic.rss.as_ref().map(|all| all.first()) {
        Ok(Some(rss)) if !rss.table.is_empty() => {
            Finding::ok(format!("{} entries", rss.table.len()))
        }
        Ok(_) => Finding::fail("the driver has no RSS table").remedy(without),
        Err(error) => Finding::fail(error.to_string()).remedy(without),
    })
}

/// Checks that RSS uses neither the queue nor one that belongs to a receiver: other sockets could
/// not read packets on it.
fn check_other_queues(nic: &Nic) -> Option<Finding> {
    let rss = nic.rss.as_ref().ok()?.first()?;
    if nic.wanted.is_empty() || nic.queues.len() < 2 {
        return None;
    }
    let rest = queue_ids(nic, |queue| {
        is_free(queue) && !nic.wanted.contains(&queue.id)
    });
    let wanted = queue_list(&nic.wanted);
    if rest.is_empty() {
        let more = u32::try_from(nic.queues.len()).ok()? + 1;
        let finding = Finding::fail(format!("all but {wanted} are bound or leased"));
        return Some(match grow_command(nic, more) {
            Some(command) => finding.remedy(command),
            None => finding,
        });
    }
    let mixed = rss.table.iter().any(|entry| nic.wanted.contains(entry));
    Some(Finding::ok(if mixed {
        format!("RSS uses {wanted}, too: `recv` keeps it out while it runs")
    } else {
        format!("RSS keeps {wanted} out")
    }))
}

fn check_rss_contexts(nic: &Nic) -> Option<Finding> {
    let contexts = nic.rss.as_ref().ok()?.iter().filter(|rss| {
        rss.context.is_some() && rss.table.iter().any(|entry| nic.wanted.contains(entry))
    });
    let with: Vec<RssContextId> = contexts.filter_map(|rss| rss.context).collect();
    // Not one of a running receiver.
    let is_held = |id: &RssContextId| nic.held.contexts.iter().any(|(held, _)| held == id);
    let list = with.iter().map(ToString::to_string).collect::<Vec<_>>();
    let found = format!("context {} uses the queue, too", list.join(", "));
    Some(match (with.iter().find(|id| !is_held(id)), with.first()) {
        (Some(context), _) => Finding::warn(found)
            .remedy(nic.ethtool("-X", &format!("context {context} delete"))),
        (None, Some(_)) => Finding::warn(found).remedy(
            "take another queue, or end the receiver that has it: `devmem-tcp show` lists the bindings",
        ),
        (None, None) => Finding::ok("none"),
    })
}

fn check_ring(nic: &Nic) -> Option<Finding> {
    let entries = u64::from(nic.rings.as_ref().ok()?.rx?);
    let queues = nic.wanted.len().max(1) as u64;
    let waiting = entries * queues * 4096;
    let found = format!("a ring of {entries} holds {} KiB", waiting >> 10);
    Some(if nic.size >= 2 * waiting {
        Finding::ok(found)
    } else {
        // Largest power of two that takes half of the buffer at most.
        let fits = (nic.size / 2 / queues / 4096).max(1);
        let fits = 1_u64 << fits.ilog2();
        Finding::warn(format!("{found}, the buffer {} KiB", nic.size >> 10))
            .remedy(nic.ethtool("-G", &format!("rx {fits}")))
    })
}

/// Checks for detached page pools. A detached pool exists while sockets hold frags of it
/// (`page_pool_release_retry`): connections that were closed before their frags were given back,
/// and whose peer is silent.
fn check_detached_pools(nic: &Nic) -> Option<Finding> {
    let left = nic.pools.iter().filter(|pool| pool.detach_time.is_some());
    let ids: Vec<String> = left
        .map(|pool| format!("{} with {} in flight", pool.id, pool.inflight.unwrap_or(0)))
        .collect();
    Some(if ids.is_empty() {
        Finding::ok("none")
    } else {
        Finding::warn(format!(
            "page pool {}: a closed connection still holds its memory (the command ends all closed ones there)",
            ids.join(", ")
        ))
        .remedy(end_closed_connections(nic))
    })
}

/// Commands that end connections that were closed and whose peer is silent, at the addresses where
/// the NIC's payload is received.
fn end_closed_connections(nic: &Nic) -> String {
    let kill = |receiver: &Receiving| {
        let at = |address: &IpAddr| match address {
            IpAddr::V4(address) => format!("src {address}"),
            IpAddr::V6(address) => format!("src [{address}]"),
        };
        let at: Vec<String> = receiver.addresses.iter().map(at).collect();
        let kill = format!("ss -K state fin-wait-1 '( {} )'", at.join(" or "));
        receiver.namespace.command(&kill)
    };
    let receivers = nic.receiving.iter().filter(|it| !it.addresses.is_empty());
    let commands: Vec<String> = receivers.map(kill).collect();
    match commands.is_empty() {
        true => "end it where it listened: ss -K state fin-wait-1 src ADDR".to_owned(),
        false => commands.join(" && "),
    }
}
