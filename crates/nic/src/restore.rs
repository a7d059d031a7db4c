//! Restoring of NICs whose owners ended without doing so, together with their guardians.

use std::thread;
use std::time::{Duration, Instant};

use netdev::{Link, NetNs};
use undo::Boot;

use crate::claim::{Claim, Item};
use crate::end::end_claim;
use crate::identity::Identity;
use crate::journal::{self, Journal, JournalFile, PREFIX};
use crate::nic::Nic;
use crate::presence::{Kind, Presence};
use crate::values::{rule_text, table_text};
use crate::{Change, Error, Owner, RunDir, settle};

/// Longest wait for a killed process's binding to end.
const UNBIND_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of restoring one NIC from its journal.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// Name of the NIC; the journal's file name where that is damaged.
    pub device: String,
    /// Outcome of restoring the NIC.
    pub outcome: Outcome,
}

/// Outcome of restoring one NIC from its journal.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The NIC is restored, except for what the claims of `kept` need.
    Restored {
        /// Owners that ended without restoring the NIC; `None` for changes that were applied to
        /// stay.
        ended: Vec<Option<Owner>>,
        /// Owners that still need changes of the NIC; `None` for changes that were applied to stay.
        kept: Vec<Option<Owner>>,
    },
    /// The NIC is not restored: all owners of its changes still run, or the changes were applied to
    /// stay.
    InUse {
        /// Owners of the changes; `None` for changes that were applied to stay.
        kept: Vec<Option<Owner>>,
    },
    /// The NIC does not exist any more, and its settings neither: the journal was removed.
    Gone,
    /// The journal is of another boot, which ended all settings: the journal was removed.
    OtherBoot,
    /// The NIC was not found and was forgotten by force: its journal was removed.
    Forgotten,
    /// Result of [`would_restore`]: the NIC would be restored, except for what the claims of `kept`
    /// need.
    Would {
        /// Changes that would be made; a rule or context that would be removed may be gone already.
        changes: Vec<Change>,
        /// Owners that ended without restoring the NIC; `None` for changes that were applied to
        /// stay.
        ended: Vec<Option<Owner>>,
        /// Owners that still need changes of the NIC; `None` for changes that were applied to stay.
        kept: Vec<Option<Owner>>,
    },
    /// The NIC could not be restored, or its journal could not be read.
    Failed(Error),
}

/// Selection of the NICs to restore.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Which<'a> {
    /// All NICs that have a journal.
    All,
    /// The NIC of this name in the current namespace; if there is none, the NIC of this name in
    /// another.
    Named(&'a str),
    /// The NIC of this name in this network namespace.
    In(&'a NetNs, &'a str),
}

/// Restores the selected NICs: undoes the changes that ended processes have left. On a NIC that is
/// named, changes that were applied to stay end, too. With `force`, all changes are undone, also
/// what a running process needs, and a NIC that can't be found is forgotten.
///
/// # Errors
/// Those of the runtime directory, and of looking for the NIC. What goes wrong with one NIC is in its own
/// outcome.
pub fn restore(dir: &RunDir, which: Which<'_>, force: bool) -> Result<Vec<Restored>, Error> {
    let wanted = Selection::new(which, force)?;
    let locked = dir.lock()?;
    let mut all = Vec::new();
    for name in locked.names(PREFIX)? {
        let (device, outcome) = match JournalFile::open(&locked, &name) {
            Ok(Some(file)) if !wanted.selects(&file.journal) => continue,
            Ok(Some(file)) => {
                let device = file.journal.nic.name.clone();
                (device, wanted.take_back(file))
            }
            Ok(None) => continue,
            Err(error) => (name, Err(error)),
        };
        all.push(Restored {
            device,
            outcome: outcome.unwrap_or_else(Outcome::Failed),
        });
    }
    Ok(all)
}

/// Tells what [`restore`] would do. Changes nothing.
///
/// # Errors
/// As for [`restore`].
pub fn would_restore(which: Which<'_>, force: bool) -> Result<Vec<Restored>, Error> {
    let wanted = Selection::new(which, force)?;
    let Some(dir) = RunDir::existing()? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for file in dir.names(PREFIX)? {
        let (device, outcome) = match journal::read(&dir, &file) {
            Ok(Some(journal)) if !wanted.selects(&journal) => continue,
            Ok(Some(journal)) => (journal.nic.name.clone(), wanted.preview_outcome(journal)),
            Ok(None) => continue,
            Err(error) => (file, Err(error)),
        };
        all.push(Restored {
            device,
            outcome: outcome.unwrap_or_else(Outcome::Failed),
        });
    }
    Ok(all)
}

/// Selection of NICs to restore, with the device that is named.
struct Selection<'a> {
    which: Which<'a>,
    /// Identity of the device of the given name, if it exists.
    there: Option<Identity>,
    force: bool,
}

impl<'a> Selection<'a> {
    fn new(which: Which<'a>, force: bool) -> Result<Self, Error> {
        let there = match which {
            Which::All => None,
            Which::Named(name) => find_identity(&NetNs::current()?, name)?,
            Which::In(netns, name) => find_identity(netns, name)?,
        };
        Ok(Self {
            which,
            there,
            force,
        })
    }

    /// Whether a journal's NIC is selected. A device goes before a name: it may have been renamed
    /// since the journal was written, and its old name may be another's.
    fn selects(&self, journal: &Journal) -> bool {
        let (name, anywhere) = match self.which {
            Which::All => return true,
            Which::Named(name) => (name, self.there.is_none()),
            Which::In(_, name) => (name, false),
        };
        if self
            .there
            .as_ref()
            .is_some_and(|it| journal.nic.is_same_nic(it))
        {
            return true;
        }
        let noted = journal.nic.name == name;
        // Of the name's old owner no more than its journal is left.
        if !matches!(journal.boot(), Ok(Boot::This)) {
            return noted;
        }
        match journal.nic.find() {
            Ok(Some((_, link))) => anywhere && link.name == name,
            Ok(None) => noted,
            Err(_) => anywhere && noted,
        }
    }

    /// Divides the journal's claims into those that end and those that stay.
    fn split_claims(&self, journal: &Journal) -> (Vec<Claim>, Vec<Claim>) {
        let named = !matches!(self.which, Which::All);
        journal
            .claims
            .iter()
            .cloned()
            .partition(|claim| self.force || claim.is_orphan() || (named && claim.owner.is_none()))
    }

    /// Whether the journal is of another boot. With force, a journal that may be of this boot is
    /// taken for one of this boot.
    fn is_of_another_boot(&self, journal: &Journal) -> Result<bool, Error> {
        match journal.boot()? {
            Boot::This => Ok(false),
            Boot::Another => Ok(true),
            Boot::Unknown if self.force => Ok(false),
            Boot::Unknown => Err(journal.unknown_boot()),
        }
    }

    /// Restores the NIC of one journal.
    fn take_back(&self, mut file: JournalFile<'_>) -> Result<Outcome, Error> {
        if self.is_of_another_boot(&file.journal)? {
            file.dir.remove(&file.file)?;
            return Ok(Outcome::OtherBoot);
        }
        let (netns, link) = match file.journal.nic.find() {
            Ok(Some(found)) => found,
            Ok(None) => {
                file.dir.remove(&file.file)?;
                return Ok(Outcome::Gone);
            }
            Err(Error::Hidden { .. }) if self.force => {
                file.dir.remove(&file.file)?;
                return Ok(Outcome::Forgotten);
            }
            Err(error) => return Err(error),
        };
        let mut nic = Nic::open(&netns, link.ifindex)?;
        let (over, kept) = self.split_claims(&file.journal);
        let kept = owners(kept);
        if over.is_empty() {
            return Ok(Outcome::InUse { kept });
        }
        // Until all is put back.
        let _presence = Presence::announce(&netns, link.ifindex, file.dir.path(), Kind::Owner)?;
        Presence::check(&netns, (link.ifindex, &link.name), file.dir.path())?;
        // One that can't be ended yet keeps no other.
        let ends = over
            .iter()
            .map(|claim| end_with_patience(&mut nic, &mut file, claim.id));
        let failed: Vec<Error> = ends.filter_map(Result::err).collect();
        if let Some(error) = failed.into_iter().next() {
            return Err(error);
        }
        let ended = owners(over);
        Ok(Outcome::Restored { ended, kept })
    }

    /// Computes the outcome that [`Selection::take_back`] would have for one journal.
    fn preview_outcome(&self, mut journal: Journal) -> Result<Outcome, Error> {
        if self.is_of_another_boot(&journal)? {
            return Ok(Outcome::OtherBoot);
        }
        let mut nic = match Nic::find(&journal.nic) {
            Ok(Some(nic)) => nic,
            Ok(None) => return Ok(Outcome::Gone),
            Err(Error::Hidden { .. }) if self.force => return Ok(Outcome::Forgotten),
            Err(error) => return Err(error),
        };
        let (over, kept) = self.split_claims(&journal);
        if over.is_empty() {
            let kept = owners(kept);
            return Ok(Outcome::InUse { kept });
        }
        let stays = |item: &&Item| {
            let mut items = kept.iter().flat_map(|claim| &claim.items);
            items.any(|other| other.is_same_item(item))
        };
        let items = over.iter().flat_map(|claim| &claim.items);
        let items = items.filter(|item| !stays(item));
        let mut changes: Vec<Change> = items.map(removal_of).collect();
        let shared = settle::preview(&mut nic, &mut journal, &kept)?;
        changes.extend(shared.into_iter().flatten().map(|(from, to)| Change {
            from: Some(from),
            to,
        }));
        Ok(Outcome::Would {
            changes,
            ended: owners(over),
            kept: owners(kept),
        })
    }
}

fn owners(claims: Vec<Claim>) -> Vec<Option<Owner>> {
    claims.into_iter().map(|claim| claim.owner).collect()
}

/// Describes the removal of a rule or context.
fn removal_of(item: &Item) -> Change {
    let what = match item {
        Item::Rule { rule, .. } => rule_text(rule),
        Item::Context { table, .. } => format!("rss context {}", table_text(table)),
    };
    Change {
        from: Some(what),
        to: "removed".to_owned(),
    }
}

/// Identity of the device of this name in a namespace; `None` if there is none.
fn find_identity(netns: &NetNs, name: &str) -> Result<Option<Identity>, Error> {
    match Link::open_in(netns)?.by_name(name) {
        Ok(link) => Ok(Some(Identity::of(netns, &link)?)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ends a claim, and tries again for a while: a binding ends some time after its owner, and only
/// then the kernel allows header split to be switched off.
fn end_with_patience(nic: &mut Nic, file: &mut JournalFile<'_>, id: u64) -> Result<(), Error> {
    let end = Instant::now() + UNBIND_TIMEOUT;
    loop {
        match end_claim(nic, file, id) {
            Err(Error::NotRestored { .. }) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            ended => return ended,
        }
    }
}

/// State of a NIC that has a journal, for programs that only show it.
#[derive(Debug)]
#[non_exhaustive]
pub struct State {
    /// Name of the NIC, the present one where the NIC is found; the journal's file name where that
    /// is damaged.
    pub device: String,
    /// Network namespace of the NIC, where it was looked for, because a process ended without
    /// restoring the NIC, and found.
    pub netns: Option<NetNs>,
    /// What is wrong with the journal, or why the NIC can't be found.
    pub damaged: Option<Error>,
    /// Owners of the settings in force; `None` for settings that were applied to stay.
    pub owners: Vec<Option<Owner>>,
    /// Owners that ended without restoring the NIC.
    pub orphans: Vec<Owner>,
}

/// Reads the state of all NICs that have a journal. Changes nothing.
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
            netns: None,
            damaged: None,
            owners: Vec::new(),
            orphans: Vec::new(),
        };
        match journal::read(&dir, &file) {
            Ok(None) => continue,
            Err(error) => state.damaged = Some(error),
            Ok(Some(journal)) => {
                state.device.clone_from(&journal.nic.name);
                let current = matches!(journal.boot(), Ok(Boot::This));
                if current && journal.claims.iter().any(Claim::is_orphan) {
                    match journal.nic.find() {
                        Ok(Some((netns, link))) => {
                            state.device = link.name;
                            state.netns = Some(netns);
                        }
                        Ok(None) => {}
                        Err(error) => state.damaged = Some(error),
                    }
                }
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
