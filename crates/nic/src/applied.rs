//! Applying a plan, and undoing it.

use netdev::{Action, FlowRule, Location, NetNs, QueueId};
use undo::{Life, with_sources};

use crate::added::add_flows;
use crate::claim::{Claim, Item, same_packets};
use crate::end::end_claim;
use crate::guardian::Guardian;
use crate::identity::Identity;
use crate::journal::{Journal, JournalFile};
use crate::leaving::Leaving;
use crate::nic::Nic;
use crate::plan::{Change, Plan};
use crate::presence::{Kind, Presence};
use crate::values::rule_text;
use crate::{Error, Owner, RunDir, settle};

/// An applied plan. Restoring or dropping it undoes its changes to the NIC.
#[derive(Debug)]
#[must_use = "dropping it puts the NIC back as it was"]
pub struct Applied {
    netns: NetNs,
    identity: Identity,
    dir: RunDir,
    file: String,
    /// Number of the claim in the journal; `None` when nothing is left to undo.
    claim: Option<u64>,
    changes: Vec<Change>,
    guardian: Option<Guardian>,
    /// Lock that shows that the owner lives.
    life: Option<Life>,
    /// This process, as the claim names it.
    owner: Option<Owner>,
    /// Socket that shows the owner to processes with other runtime directories.
    presence: Option<Presence>,
}

impl Applied {
    /// Changes that were made, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Puts the NIC back as it was, but for what other receivers on it need.
    ///
    /// # Errors
    /// [`Error::NotRestored`], after all steps have been tried; the guardian tries again once this
    /// process has ended. [`Error::Gone`].
    pub fn restore(mut self) -> Result<(), Error> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<(), Error> {
        let Some(id) = self.claim.take() else {
            return Ok(());
        };
        let result = self.end(id);
        if let Some(guardian) = self.guardian.take() {
            match result {
                Ok(()) | Err(Error::Gone { .. }) => guardian.dismiss(),
                // The guardian tries again when this process has ended.
                Err(_) => guardian.stay(),
            }
        }
        result
    }

    /// Removes the claim and undoes its changes, under the lock.
    fn end(&self, id: u64) -> Result<(), Error> {
        let locked = self.dir.lock()?;
        let Some(mut file) = JournalFile::named(&locked, &self.file)? else {
            return Ok(());
        };
        // It was ended by force, and may be another's by now.
        if file.journal.claim(id).map(|claim| &claim.owner) != Some(&self.owner) {
            return Ok(());
        }
        if let Some(mut nic) = self.nic()? {
            return end_claim(&mut nic, &mut file, id);
        }
        file.forget(id);
        file.save()?;
        Err(Error::Gone {
            device: self.identity.name.clone(),
        })
    }

    /// Opens the NIC in the namespace where it is now.
    fn nic(&self) -> Result<Option<Nic>, Error> {
        match Nic::open(&self.netns, self.identity.ifindex) {
            Ok(nic) if nic.identity.is(&self.identity) => Ok(Some(nic)),
            _ => Nic::find(&self.identity),
        }
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::error!("{}", with_sources(&error));
        }
    }
}

/// Applies the plan for as long as the calling process wants.
pub(crate) fn apply(plan: Plan, netns: &NetNs) -> Result<Applied, Error> {
    let nic = Nic::open(netns, plan.ifindex)?;
    let dir = RunDir::open()?;
    let file = nic.identity.file();
    let mut applied = Applied {
        netns: netns.clone(),
        identity: nic.identity.clone(),
        dir,
        file,
        claim: None,
        changes: Vec::new(),
        guardian: None,
        life: None,
        owner: None,
        presence: None,
    };
    if plan.is_empty() {
        return Ok(applied);
    }
    let owner = Owner::current().map_err(Error::Guardian)?;
    let dir = applied.dir.clone();
    let ifindex = plan.ifindex;
    applied.presence = Some(Presence::announce(netns, ifindex, dir.path(), Kind::Owner)?);
    Presence::check(netns, (ifindex, &plan.device), dir.path())?;
    let taken = take(plan, nic, &dir, Some(owner), |file, id| {
        applied.guardian = Guardian::start(netns, &dir, (file, ifindex), id)?;
        Ok(())
    });
    match taken {
        Ok(taken) => {
            applied.file = taken.file;
            applied.claim = Some(taken.claim);
            (applied.life, applied.owner) = (taken.life, taken.owner);
            applied.changes = taken.changes;
            Ok(applied)
        }
        Err(error) => {
            // The guardian stays if something is left for it to undo.
            if let Some(guardian) = applied.guardian.take() {
                match error {
                    Error::NotRestored { .. } => guardian.stay(),
                    _ => guardian.dismiss(),
                }
            }
            Err(error)
        }
    }
}

/// Applies the plan until it is restored by name.
pub(crate) fn apply_to_stay(plan: Plan, netns: &NetNs) -> Result<Vec<Change>, Error> {
    let nic = Nic::open(netns, plan.ifindex)?;
    let dir = RunDir::open()?;
    // Until all is changed.
    let _presence = Presence::announce(netns, plan.ifindex, dir.path(), Kind::Owner)?;
    Presence::check(netns, (plan.ifindex, &plan.device), dir.path())?;
    Ok(take(plan, nic, &dir, None, |_, _| Ok(()))?.changes)
}

/// Result of applying a plan.
struct Taken {
    file: String,
    claim: u64,
    changes: Vec<Change>,
    life: Option<Life>,
    owner: Option<Owner>,
}

/// Adds the claim and makes its changes; `ready` is called when its number is known and nothing is
/// written or changed yet.
fn take(
    plan: Plan,
    mut nic: Nic,
    dir: &RunDir,
    mut owner: Option<Owner>,
    ready: impl FnOnce(&str, u64) -> Result<(), Error>,
) -> Result<Taken, Error> {
    let locked = dir.lock()?;
    let mut file = JournalFile::of(&locked, nic.identity.clone())?;
    end_orphans(&mut nic, &mut file);
    check_there(&plan, &mut nic, None)?;
    check_queues(&plan, &file.journal)?;
    check_flows(&plan, &mut nic, &file.journal, &Leaving::default())?;
    let id = file.journal.new_id()?;
    let life = match &mut owner {
        Some(owner) => Some(owner.live(&locked, lock_name(&file.file, id))?),
        None => None,
    };
    ready(&file.file, id)?;
    let Plan { needs, flows, .. } = plan;
    file.journal.claims.push(Claim {
        id,
        owner: owner.clone(),
        needs,
        items: Vec::new(),
    });
    file.save()?;
    match make_true(&mut nic, &mut file, id, flows) {
        Ok(changes) => Ok(Taken {
            file: file.file,
            claim: id,
            changes,
            life,
            owner,
        }),
        Err(error) => match end_claim(&mut nic, &mut file, id) {
            Ok(()) => Err(error),
            Err(Error::NotRestored { device, failures }) => Err(Error::NotRestored {
                device,
                failures: [vec![with_sources(&error)], failures].concat(),
            }),
            Err(other) => Err(Error::NotRestored {
                device: nic.name(),
                failures: vec![with_sources(&error), with_sources(&other)],
            }),
        },
    }
}

/// Name of the lock file that shows that a claim's owner lives.
fn lock_name(file: &str, id: u64) -> String {
    format!("{}-{id}.lock", file.trim_end_matches(".json"))
}

/// Undoes the claims of owners that ended without doing so. A failure is logged and the claim kept.
fn end_orphans(nic: &mut Nic, file: &mut JournalFile<'_>) {
    let orphans = file.journal.claims.iter().filter(|claim| claim.is_orphan());
    for id in orphans.map(|claim| claim.id).collect::<Vec<_>>() {
        if let Err(error) = end_claim(nic, file, id) {
            tracing::warn!("{}", with_sources(&error));
        }
    }
}

/// Fails for a queue that the NIC doesn't have, even with the plan's channels. `will_be` is how many rx queues
/// the NIC will have by then, if not what it has now.
pub(crate) fn check_there(plan: &Plan, nic: &mut Nic, will_be: Option<u32>) -> Result<(), Error> {
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

/// Fails if a running receiver owns one of the plan's queues. Queues of `apply` have no owner.
pub(crate) fn check_queues(plan: &Plan, journal: &Journal) -> Result<(), Error> {
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

/// Fails if a rule has the plan's packets already and leads them elsewhere: which of the two rules counts
/// depends on the driver, if it takes both. Rules that are `leaving` don't count.
pub(crate) fn check_flows(
    plan: &Plan,
    nic: &mut Nic,
    journal: &Journal,
    leaving: &Leaving<'_>,
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

/// The shared settings, then rules and contexts.
fn make_true(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
    flows: Vec<(FlowRule, Vec<QueueId>)>,
) -> Result<Vec<Change>, Error> {
    let shared = settle::acquire(nic, file, id)?;
    let shared = shared.into_iter().flatten().map(|(from, to)| Change {
        from: Some(from),
        to,
    });
    let mut changes: Vec<Change> = shared.collect();
    changes.extend(add_flows(nic, file, id, flows)?);
    Ok(changes)
}
