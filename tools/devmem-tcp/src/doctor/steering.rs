//! Flow rules: whether the NIC has them, and room for one more.

use netdev::{Action, FlowRule, Location};

use super::line::{Area, Check, Finding};
use super::nic::Nic;

/// The kernel's name of `ethtool -K IF ntuple`.
const NTUPLE: &str = "rx-ntuple-filter";

pub(super) const CHECKS: &[Check<Nic>] = &[
    Check {
        id: "ntuple.on",
        areas: &[Area::Rx],
        what: "the NIC steers flows by rules",
        run: on,
    },
    Check {
        id: "ntuple.room",
        areas: &[Area::Rx],
        what: "the table of rules has room",
        run: room,
    },
    Check {
        id: "ntuple.others",
        areas: &[Area::Rx],
        what: "no rule steers anything else to the queue",
        run: others,
    },
];

fn on(nic: &Nic) -> Option<Finding> {
    let otherwise = "no setting helps: receive with --no-config, and steer by other means";
    Some(match (nic.feature(NTUPLE), &nic.table) {
        ((false, true), _) => Finding::fail("off").remedy(nic.ethtool("-K", "ntuple on")),
        ((true, _), Ok(_)) => Finding::ok("on"),
        (_, Err(error)) => Finding::fail(error.to_string()).remedy(otherwise),
        ((false, false), Ok(_)) => Finding::fail("the driver has no rules").remedy(otherwise),
    })
}

fn room(nic: &Nic) -> Option<Finding> {
    let table = nic.table.as_ref().ok()?;
    let count = table.count;
    let Some(size) = table.size else {
        return Some(Finding::ok(format!(
            "{count} rules; the driver does not say of how many"
        )));
    };
    let found = format!("{count} rules of {size}");
    let locations = nic.rules.iter().filter_map(location);
    Some(match (count < size, locations.max()) {
        (true, _) if !table.chooses => {
            Finding::warn(found + "; the driver wants each rule's place named")
        }
        (true, _) => Finding::ok(found),
        (false, Some(last)) => {
            Finding::fail(found).remedy(nic.ethtool("-N", &format!("delete {last}")))
        }
        (false, None) => Finding::fail(found)
            .remedy("`ethtool -n` lists the rules, `ethtool -N IF delete N` deletes one"),
    })
}

fn location(rule: &FlowRule) -> Option<u32> {
    match rule.location {
        Location::At(location) => Some(location),
        Location::Any => None,
    }
}

/// Its packets would come into memory that only the receiver can read.
fn others(nic: &Nic) -> Option<Finding> {
    // A receiver that runs on its leased queue has its rules.
    if nic.table.is_err() || nic.through_netkit {
        return None;
    }
    let here = |rule: &&FlowRule| matches!(rule.action, Action::Queue(queue) if nic.wanted.contains(&queue));
    Some(match nic.rules.iter().filter(here).find_map(location) {
        None => Finding::ok("none"),
        Some(at) => Finding::warn(format!("rule {at} does"))
            .remedy(nic.ethtool("-N", &format!("delete {at}"))),
    })
}
