//! Checks for what other processes left behind.

use netdev::link::Rule;
use netdev::shell_word;
use nic::{Plan, RunDir, RunDirError};

use crate::enter::{enter, within};
use crate::guest_route::forward_filter;
use crate::guest_route::lease_journal::{LeaseJournal, MissingRules};
use crate::remedy;

use super::check::{Area, Check, Finding};
use super::machine::Machine;
use super::namespace::program;
use super::nic::Nic;

pub(super) const CHECKS: &[Check<Machine>] = &[
    Check {
        id: "journal.place",
        areas: &[Area::Rx, Area::Lease],
        what: "changes can be recorded in the journal",
        run: check_journal_dir,
    },
    Check {
        id: "journal.left",
        areas: &[Area::Rx],
        what: "no NIC is still set up for a receiver that is gone",
        run: check_journals,
    },
    Check {
        id: "lease.rules",
        areas: &[Area::Lease],
        what: "the rules that limit forwarding for leases exist",
        run: check_lease_rules,
    },
];

/// Checks of one NIC for what other processes left.
pub(super) const OF_NIC: &[Check<Nic>] = &[Check {
    id: "journal.nic",
    areas: &[Area::Rx],
    what: "the journal of the NIC can be read",
    run: check_journal_of_nic,
}];

/// Checks that a journal can be written, before which `recv`, `lease` and `apply` change nothing.
fn check_journal_dir(_: &Machine) -> Option<Finding> {
    Some(match RunDir::check_writable() {
        Ok(path) => Finding::ok(path.display().to_string()),
        Err(error) => {
            let error = nic::Error::from(error);
            journal_failure(&error, "")
        }
    })
}

/// Checks that `recv` could read the NIC's journal, if there is one.
fn check_journal_of_nic(nic: &Nic) -> Option<Finding> {
    let plan = Plan::new(nic.name(), nic.link.ifindex);
    Some(match plan.preview(&nic.namespace.netns) {
        Err(
            error @ (nic::Error::RunDir(RunDirError::Damaged { .. })
            | nic::Error::OtherRunDir { .. }
            | nic::Error::UnknownBoot { .. }),
        ) => journal_failure(&error, &nic.namespace.command("")),
        // Other errors are reported by other checks.
        _ => Finding::ok("the journal can be read"),
    })
}

fn journal_failure(error: &nic::Error, within: &str) -> Finding {
    let finding = Finding::fail(common::with_sources(error));
    match remedy::of_nic(error, within) {
        Some(remedy) => finding.remedy(remedy),
        None => finding,
    }
}

fn check_journals(_: &Machine) -> Option<Finding> {
    let states = match nic::state() {
        Ok(states) => states,
        Err(error) => return Some(Finding::warn(error.to_string())),
    };
    let left = |state: &nic::State| {
        let why = match (&state.damaged, state.orphans.len()) {
            (Some(why), _) => why.to_string(),
            (None, 0) => return None,
            (None, _) => format!("{} is set up for a receiver that is gone", state.device),
        };
        let mut restore = format!("{} restore {}", program(), shell_word(&state.device));
        if let Some((_, netns)) = state.netns.as_ref().and_then(enter) {
            restore += &format!(" --netns {}", shell_word(&netns));
        }
        let remedy = state.damaged.as_ref();
        let remedy = remedy.and_then(|error| remedy::of_nic(error, ""));
        Some((why, remedy.unwrap_or(restore)))
    };
    Some(match states.iter().find_map(left) {
        None => Finding::ok("none"),
        Some((why, remedy)) => Finding::warn(why).remedy(remedy),
    })
}

/// Checks that no other program has removed rules of a lease, as `ip rule flush` does, and
/// systemd-networkd at its start. Without them the NIC forwards for all hosts on its link.
fn check_lease_rules(_: &Machine) -> Option<Finding> {
    let missing = LeaseJournal::open(true).and_then(|mut journal| journal.missing_rules());
    let missing = match missing {
        Ok(missing) => missing,
        Err(error) => return Some(Finding::warn(format!("not known: {error:#}"))),
    };
    if missing.is_empty() {
        return Some(Finding::ok("none is missing"));
    }
    let mut found = Vec::new();
    let mut commands = Vec::new();
    for MissingRules {
        netns,
        netkits,
        rules,
        ..
    } in &missing
    {
        let texts: Vec<String> = rules.iter().map(Rule::to_string).collect();
        found.push(format!(
            "missing for {}: {}",
            netkits.join(", "),
            texts.join(", ")
        ));
        let add = |rule| within(netns, &forward_filter::command(rule));
        commands.extend(rules.iter().map(add));
    }
    Some(Finding::warn(found.join("; ")).remedy(commands.join(" && ")))
}
