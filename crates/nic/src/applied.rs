//! Applying a plan, and undoing it.

use netdev::ethtool::FlowRule;
use netdev::{NetNs, QueueId};
use undo::{Life, with_sources};

use crate::added::add_flows;
use crate::checks::{check_flows, check_queue_owners, check_queues_exist};
use crate::claim::Claim;
use crate::end::end_claim;
use crate::guardian::Guardian;
use crate::identity::Identity;
use crate::journal::JournalFile;
use crate::leaving::LeavingItems;
use crate::nic::Nic;
use crate::plan::{Change, Plan};
use crate::presence::{Kind, Presence};
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
    /// This process, as the claim's owner.
    owner: Option<Owner>,
    /// Socket that shows the owner to processes with other runtime directories.
    presence: Option<Presence>,
}

impl Applied {
    /// Changes that were made to the NIC, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Restores the NIC, except for what other receivers on it need.
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

    /// Removes the claim and undoes its changes to the NIC, under the lock.
    fn end(&self, id: u64) -> Result<(), Error> {
        let locked = self.dir.lock()?;
        let Some(mut file) = JournalFile::open(&locked, &self.file)? else {
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

    /// Opens the NIC in the namespace that it is in now; `None` if the NIC is gone.
    fn nic(&self) -> Result<Option<Nic>, Error> {
        match Nic::open(&self.netns, self.identity.ifindex) {
            Ok(nic) if nic.identity.is_same_nic(&self.identity) => Ok(Some(nic)),
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

impl Plan {
    /// Applies the plan to the NIC in the network namespace `netns`, until the returned value is
    /// dropped or the calling process ends.
    ///
    /// # Errors
    /// The first step that is refused, or that the driver does not keep; those before it have been
    /// taken back. [`Error::QueueTaken`] for a queue of another receiver, [`Error::FlowTaken`] for packets
    /// that another rule has.
    pub fn apply(self, netns: &NetNs) -> Result<Applied, Error> {
        apply(self, netns)
    }

    /// Applies the plan until [`crate::restore`] is called for the NIC; returns the changes.
    ///
    /// # Errors
    /// As for [`Plan::apply`].
    pub fn apply_to_stay(self, netns: &NetNs) -> Result<Vec<Change>, Error> {
        apply_to_stay(self, netns)
    }
}

/// Applies a plan for as long as the calling process wants, with a guardian.
fn apply(plan: Plan, netns: &NetNs) -> Result<Applied, Error> {
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
    let taken = add_claim(plan, nic, &dir, Some(owner), |file, id| {
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

/// Applies a plan until [`crate::restore`] is called for the NIC.
fn apply_to_stay(plan: Plan, netns: &NetNs) -> Result<Vec<Change>, Error> {
    let nic = Nic::open(netns, plan.ifindex)?;
    let dir = RunDir::open()?;
    // Until all is changed.
    let _presence = Presence::announce(netns, plan.ifindex, dir.path(), Kind::Owner)?;
    Presence::check(netns, (plan.ifindex, &plan.device), dir.path())?;
    Ok(add_claim(plan, nic, &dir, None, |_, _| Ok(()))?.changes)
}

/// Journal file, claim and changes of a plan that was applied.
struct AppliedClaim {
    file: String,
    claim: u64,
    changes: Vec<Change>,
    life: Option<Life>,
    owner: Option<Owner>,
}

/// Adds a claim to the NIC's journal and makes the claim's changes; `ready` is called when the
/// claim's number is known and nothing is written or changed yet.
fn add_claim(
    plan: Plan,
    mut nic: Nic,
    dir: &RunDir,
    mut owner: Option<Owner>,
    ready: impl FnOnce(&str, u64) -> Result<(), Error>,
) -> Result<AppliedClaim, Error> {
    let locked = dir.lock()?;
    let mut file = JournalFile::open_or_begin(&locked, nic.identity.clone())?;
    end_orphans(&mut nic, &mut file);
    check_queues_exist(&plan, &mut nic, None)?;
    check_queue_owners(&plan, &file.journal)?;
    check_flows(&plan, &mut nic, &file.journal, &LeavingItems::default())?;
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
    match make_changes(&mut nic, &mut file, id, flows) {
        Ok(changes) => Ok(AppliedClaim {
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

/// Undoes the claims of owners that ended without doing so. After a failure, which is logged, the
/// claim is kept.
fn end_orphans(nic: &mut Nic, file: &mut JournalFile<'_>) {
    let orphans = file.journal.claims.iter().filter(|claim| claim.is_orphan());
    for id in orphans.map(|claim| claim.id).collect::<Vec<_>>() {
        if let Err(error) = end_claim(nic, file, id) {
            tracing::warn!("{}", with_sources(&error));
        }
    }
}

/// Makes the changes of a claim: the shared settings, then rules and contexts.
fn make_changes(
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
