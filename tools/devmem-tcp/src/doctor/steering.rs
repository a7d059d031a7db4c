//! Checks of the flow rules: whether the NIC has them, and room for one more.

use netdev::ethtool::{Action, FlowRule, Location};
use netdev::shell_word;

use super::check::{Area, Check, Finding};
use super::nic::Nic;

/// Name of the feature that switches flow rules on, `ethtool -K IF ntuple`, in the kernel.
const NTUPLE: &str = "rx-ntuple-filter";

pub(super) const CHECKS: &[Check<Nic>] = &[
    Check {
        id: "ntuple.on",
        areas: &[Area::Rx],
        what: "the NIC steers flows by rules",
        run: check_rules_on,
    },
    Check {
        id: "ntuple.room",
        areas: &[Area::Rx],
        what: "the table of rules has room",
        run: check_room_for_a_rule,
    },
    Check {
        id: "ntuple.others",
        areas: &[Area::Rx],
        what: "no rule steers anything else to the queue",
        run: check_other_rules,
    },
];

fn check_rules_on(nic: &Nic) -> Option<Finding> {
    let otherwise = "no setting helps: receive with --no-config, and steer by other means";
    Some(match (nic.feature(NTUPLE), &nic.table) {
        // Some drivers accept rules even then (mlx5).
        ((false, true), _) => {
            Finding::warn("off; `recv` switches it on if the driver requires that")
                .remedy(nic.ethtool("-K", "ntuple on"))
        }
        ((true, _), Ok(_)) => Finding::ok("on"),
        (_, Err(error)) => Finding::fail(error.to_string()).remedy(otherwise),
        ((false, false), Ok(_)) => Finding::fail("the driver has no rules").remedy(otherwise),
    })
}

fn check_room_for_a_rule(nic: &Nic) -> Option<Finding> {
    let table = nic.table.as_ref().ok()?;
    let count = table.count;
    let Some(size) = table.size else {
        return Some(Finding::ok(format!(
            "{count} rules; the driver does not report the size of the table"
        )));
    };
    let found = format!("{count} rules of {size}");
    if count < size {
        return Some(Finding::ok(found));
    }
    // Not one of a running receiver.
    let locations = nic.rules.iter().filter_map(location);
    let others = locations.filter(|location| !is_held(nic, *location));
    Some(match (others.max(), nic.held.rules.first()) {
        (Some(last), _) => {
            Finding::fail(found).remedy(nic.ethtool("-N", &format!("delete {last}")))
        }
        (None, Some((_, Some(owner)))) => Finding::fail(format!("{found}, some of {owner}"))
            .remedy("end a receiver that has rules: `devmem-tcp show` lists the bindings"),
        (None, Some((_, None))) => {
            let restore = format!("restore {}", shell_word(nic.name()));
            Finding::fail(found).remedy(nic.namespace.own_command(&restore))
        }
        (None, None) => Finding::fail(found)
            .remedy("`ethtool -n` lists the rules, `ethtool -N IF delete N` deletes one"),
    })
}

/// Whether a flow rule belongs to a running receiver, or was applied to stay.
fn is_held(nic: &Nic, location: u32) -> bool {
    nic.held.rules.iter().any(|(held, _)| *held == location)
}

fn location(rule: &FlowRule) -> Option<u32> {
    match rule.location {
        Location::At(location) => Some(location),
        Location::Any => None,
    }
}

/// Checks for other flow rules to the queue: their packets would go to memory that only the
/// receiver can read.
fn check_other_rules(nic: &Nic) -> Option<Finding> {
    // A receiver on the leased queue has its rules.
    if nic.table.is_err() || nic.through_netkit {
        return None;
    }
    let here = |rule: &&FlowRule| matches!(rule.action, Action::Queue(queue) if nic.wanted.contains(&queue));
    let locations: Vec<u32> = nic.rules.iter().filter(here).filter_map(location).collect();
    let somebodys = locations.iter().find(|location| !is_held(nic, **location));
    Some(match (somebodys, locations.first()) {
        (Some(at), _) => Finding::warn(format!("rule {at} steers to the queue"))
            .remedy(nic.ethtool("-N", &format!("delete {at}"))),
        (None, Some(at)) => {
            let held = nic.held.rules.iter().find(|(location, _)| location == at);
            match held.and_then(|(_, owner)| owner.as_ref()) {
                Some(owner) => Finding::warn(format!("rule {at} of {owner} steers to the queue"))
                    .remedy("end that receiver, or take another queue"),
                None => Finding::ok(format!("only rule {at} of `devmem-tcp apply`")),
            }
        }
        (None, None) => Finding::ok("none"),
    })
}
