//! What those left who ended without putting a NIC back, and their guardians with them.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::end::end_claim;
use crate::journal::{Journal, Open, PREFIX};
use crate::nic::Nic;
use crate::{Error, Owner, RunDir};

/// How long a binding of a killed process may take to go.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of one journal.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The NIC; the journal's name where that is damaged.
    pub device: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one journal.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The NIC is as it was before these, but for what `kept` need.
    Restored {
        /// Who ended without putting it back; `None`: it was applied to stay.
        ended: Vec<Option<Owner>>,
        /// Who still needs it otherwise; `None`: what was applied to stay.
        kept: Vec<Option<Owner>>,
    },
    /// All who changed it still run, or it was applied to stay.
    InUse {
        /// Who.
        kept: Vec<Option<Owner>>,
    },
    /// The NIC is not there any more, and its settings with it: the journal was removed.
    Gone,
    /// It is of another boot, which ended all settings: the journal was removed.
    OtherBoot,
    /// It could not be put back, or its journal not be read.
    Failed(Error),
}

/// Finishes what ended processes have left on all NICs, or on the one called `only`; on that one,
/// what was applied to stay ends, too.
///
/// # Errors
/// Those of the runtime directory. What goes wrong with one NIC is in its own outcome.
pub fn restore(dir: &RunDir, only: Option<&str>) -> Result<Vec<Restored>, Error> {
    let locked = dir.lock()?;
    let mut all = Vec::new();
    for file in locked.names(PREFIX)? {
        let open = match Open::named(&locked, &file) {
            Ok(Some(open)) => open,
            Ok(None) => continue,
            Err(error) => {
                all.push(Restored {
                    device: file,
                    outcome: Outcome::Failed(error),
                });
                continue;
            }
        };
        let device = open.journal.nic.name.clone();
        // It may have been given another name since.
        let is_called = |name: &str| match open.journal.nic.find() {
            Ok(Some((_, link))) => link.is_called(name),
            _ => false,
        };
        if only.is_none_or(|only| only == device || is_called(only)) {
            let outcome = one(open, only.is_some()).unwrap_or_else(Outcome::Failed);
            all.push(Restored { device, outcome });
        }
    }
    Ok(all)
}

/// One NIC.
fn one(mut open: Open<'_>, all_but_running: bool) -> Result<Outcome, Error> {
    if !open.journal.nic.is_of_this_boot()? {
        open.dir.remove(&open.file)?;
        return Ok(Outcome::OtherBoot);
    }
    let Some(mut nic) = Nic::find(&open.journal.nic)? else {
        open.dir.remove(&open.file)?;
        return Ok(Outcome::Gone);
    };
    let (over, kept): (Vec<_>, Vec<_>) = open
        .journal
        .claims
        .clone()
        .into_iter()
        .partition(|claim| claim.is_orphan() || (all_but_running && claim.owner.is_none()));
    let kept = kept.into_iter().map(|claim| claim.owner).collect();
    if over.is_empty() {
        return Ok(Outcome::InUse { kept });
    }
    let mut ended = Vec::new();
    for claim in over {
        end_with_patience(&mut nic, &mut open, claim.id)?;
        ended.push(claim.owner);
    }
    Ok(Outcome::Restored { ended, kept })
}

/// A binding ends some time after its owner, and only then the kernel lets header split go.
fn end_with_patience(nic: &mut Nic, open: &mut Open<'_>, id: u64) -> Result<(), Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        match end_claim(nic, open, id) {
            Err(Error::NotRestored { .. }) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            ended => return ended,
        }
    }
}

/// A journal, for who only looks.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct State {
    /// The NIC; the journal's name where that is damaged.
    pub device: String,
    /// What is wrong with the journal.
    pub damaged: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
    /// Whose settings are in force; `None`: they were applied to stay.
    pub owners: Vec<Option<Owner>>,
    /// Who ended without putting it back.
    pub orphans: Vec<Owner>,
}

/// All journals. Changes nothing.
///
/// # Errors
/// Those of the runtime directory.
pub fn state() -> Result<Vec<State>, Error> {
    let Some(dir) = RunDir::existing()? else {
        return Ok(Vec::new());
    };
    let mut states = Vec::new();
    for file in dir.names(PREFIX)? {
        let mut state = State {
            device: file.clone(),
            damaged: None,
            remedy: None,
            owners: Vec::new(),
            orphans: Vec::new(),
        };
        match dir.read::<Journal>(&file) {
            Ok(None) => continue,
            Err(error) => {
                let error = Error::from(error);
                state.remedy = error.remedy();
                state.damaged = Some(error.to_string());
            }
            Ok(Some(journal)) => {
                state.device = journal.nic.name;
                for claim in journal.claims {
                    match (claim.is_orphan(), claim.owner) {
                        (true, Some(owner)) => state.orphans.push(owner),
                        (_, owner) => state.owners.push(owner),
                    }
                }
            }
        }
        states.push(state);
    }
    Ok(states)
}
