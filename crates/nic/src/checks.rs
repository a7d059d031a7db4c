//! Checks of a plan before anything is changed.

use netdev::ethtool::{Action, FlowRule, Location};

use crate::Error;
use crate::claim::{Item, same_packets};
use crate::journal::Journal;
use crate::leaving::LeavingItems;
use crate::nic::Nic;
use crate::plan::Plan;
use crate::values::rule_text;

/// Fails for a queue of the plan that the NIC doesn't have, even with the plan's channels.
/// `will_be` is the number of rx queues that the NIC will have, if it differs from the present one.
pub(crate) fn check_queues_exist(
    plan: &Plan,
    nic: &mut Nic,
    will_be: Option<u32>,
) -> Result<(), Error> {
    let now = match nic.rx_queues() {
        // A driver without channels.
        Err(Error::Refused(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Ok(());
        }
        now => now?,
    };
    let count = will_be.unwrap_or(now).max(plan.needs.channels.unwrap_or(0));
    let flows = plan.flows.iter().flat_map(|(_, queues)| queues);
    let mut queues = plan.needs.reserved.iter().chain(flows);
    match queues.find(|queue| queue.get() >= count) {
        None => Ok(()),
        Some(queue) => Err(Error::NoSuchQueue {
            device: plan.device.clone(),
            queue: *queue,
            count,
        }),
    }
}

/// Fails if a running receiver owns one of the plan's queues. Queues of a claim that `apply` made
/// have no owner.
pub(crate) fn check_queue_owners(plan: &Plan, journal: &Journal) -> Result<(), Error> {
    for claim in &journal.claims {
        let taken = plan
            .needs
            .reserved
            .iter()
            .find(|queue| claim.needs.reserved.contains(queue));
        if let (Some(queue), Some(owner), false) = (taken, &claim.owner, claim.is_orphan()) {
            return Err(Error::QueueTaken {
                device: plan.device.clone(),
                queue: *queue,
                owner: owner.clone(),
            });
        }
    }
    Ok(())
}

/// Fails if a flow rule of the NIC matches the plan's packets already and leads them elsewhere:
/// which of the two rules counts depends on the driver, if it takes both. Rules that are `leaving`
/// don't count.
pub(crate) fn check_flows(
    plan: &Plan,
    nic: &mut Nic,
    journal: &Journal,
    leaving: &LeavingItems<'_>,
) -> Result<(), Error> {
    if plan.flows.is_empty() {
        return Ok(());
    }
    let rules = match nic.rules() {
        // A driver without rules says so when it is given one.
        Err(Error::Refused(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        rules => rules?,
    };
    let stays = |rule: &&FlowRule| !leaving.has_rule(rule);
    for (flow, queues) in &plan.flows {
        let leads_there = |rule: &&FlowRule| match queues.as_slice() {
            [queue] => rule.action == Action::Queue(*queue),
            _ => false,
        };
        let mut same = rules
            .iter()
            .filter(stays)
            .filter(|rule| same_packets(rule, flow));
        let Some(rule) = same.find(|rule| !leads_there(rule)) else {
            continue;
        };
        let place = match rule.location {
            Location::At(place) => place,
            Location::Any => continue,
        };
        let is_there =
            |item: &Item| matches!(item, Item::Rule { location: Some(at), .. } if *at == place);
        let mut claims = journal.claims.iter();
        let claim = claims.find(|claim| claim.items.iter().any(is_there));
        return Err(Error::FlowTaken {
            device: plan.device.clone(),
            place,
            rule: rule_text(rule),
            owner: claim.map(|claim| claim.owner.clone().map(Box::new)),
        });
    }
    Ok(())
}
