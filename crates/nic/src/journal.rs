//! The journal of a NIC: its original settings, the changes, and the claims that need them.

use std::path::PathBuf;
use std::time::Duration;

use netdev::QueueId;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use undo::{Boot, Locked, Setting, with_sources};

use crate::claim::Claim;
use crate::identity::Identity;
use crate::values::{ChannelCounts, RingValues};
use crate::{Error, Owner, RunDir, RunDirError};

/// Prefix of the journals' file names.
pub(crate) const PREFIX: &str = "nic-";
/// Version of the journal's format. Earlier versions are understood, later ones are refused.
const VERSION: u32 = 2;

/// Contents of a NIC's journal: original settings, and claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    version: u32,
    pub(crate) nic: Identity,
    pub(crate) channels: Option<Setting<ChannelCounts>>,
    pub(crate) rings: Option<Setting<RingValues>>,
    pub(crate) table: Option<Setting<Vec<QueueId>>>,
    /// RSS table before a change of the channels that is under way, and that may change the table,
    /// too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) table_moves: Option<Vec<QueueId>>,
    /// Whether flow rules are switched on, originally and since.
    #[serde(default)]
    pub(crate) ntuple: Option<Setting<bool>>,
    /// Whether the NIC coalesces packets, originally and since.
    #[serde(default)]
    pub(crate) gro_hw: Option<Setting<bool>>,
    /// Whether the driver split headers by default before header split was set, which reads the
    /// same.
    #[serde(default)]
    pub(crate) split_was_auto: Option<bool>,
    /// Locations of the flow rules that existed when flow rules were switched on for a claim.
    #[serde(default)]
    pub(crate) rules_before: Vec<u32>,
    pub(crate) claims: Vec<Claim>,
}

impl Journal {
    fn new(nic: Identity) -> Self {
        Self {
            version: VERSION,
            nic,
            channels: None,
            rings: None,
            table: None,
            table_moves: None,
            ntuple: None,
            gro_hw: None,
            split_was_auto: None,
            rules_before: Vec::new(),
            claims: Vec::new(),
        }
    }

    /// Number for a new claim, which no other claim has or had: nanoseconds since the boot. A claim
    /// may have been ended by force, and its owner and guardian still know its number.
    pub(crate) fn new_id(&self) -> Result<u64, Error> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| {
            let path = PathBuf::from("CLOCK_BOOTTIME");
            let (op, source) = ("clock_gettime", errno.into());
            RunDirError::Io { op, path, source }
        })?;
        let now = u64::try_from(Duration::from(now).as_nanos()).unwrap_or(0);
        let last = self.claims.iter().map(|claim| claim.id).max();
        Ok(now.max(last.unwrap_or(0).saturating_add(1)))
    }

    /// Whether the journal was begun in this boot. While a process holds a claim's lock the answer
    /// is this boot, whatever the journal says.
    pub(crate) fn boot(&self) -> Result<Boot, Error> {
        let mut owners = self.claims.iter().filter_map(|claim| claim.owner.as_ref());
        match owners.any(Owner::holds_lock) {
            true => Ok(Boot::This),
            false => self.nic.boot(),
        }
    }

    /// Whether this journal is that of the NIC.
    ///
    /// # Errors
    /// [`Error::UnknownBoot`] if that depends on which boot it is of.
    fn is_of(&self, nic: &Identity) -> Result<bool, Error> {
        Ok(self.nic.is_same_nic(nic)
            && match self.boot()? {
                Boot::This => true,
                Boot::Another => false,
                Boot::Unknown => return Err(self.unknown_boot()),
            })
    }

    pub(crate) fn unknown_boot(&self) -> Error {
        Error::UnknownBoot {
            device: self.nic.name.clone(),
        }
    }

    pub(crate) fn claim(&mut self, id: u64) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.id == id)
    }

    /// Queues that any claim reserves.
    pub(crate) fn reserved(&self) -> Vec<QueueId> {
        let needs = self.claims.iter().map(|claim| &claim.needs);
        needs.flat_map(|needs| needs.reserved.clone()).collect()
    }
}

/// A journal and its file, under the directory's lock.
#[derive(Debug)]
pub(crate) struct JournalFile<'a> {
    pub(crate) dir: &'a Locked,
    pub(crate) file: String,
    pub(crate) journal: Journal,
    /// Whether a claim is being undone. In that case a note that can't be written is no reason to
    /// leave the NIC changed: the original values are in the file already.
    pub(crate) undoing: bool,
}

impl<'a> JournalFile<'a> {
    /// Opens the journal in this file; `None` if the file is gone.
    pub(crate) fn open(dir: &'a Locked, file: &str) -> Result<Option<Self>, Error> {
        Ok(read(dir, file)?.map(|journal| Self {
            dir,
            file: file.to_owned(),
            journal,
            undoing: false,
        }))
    }

    /// Opens the NIC's journal, or begins a journal that is not written yet. Journals of another
    /// boot are removed: the settings in them ended with that boot.
    pub(crate) fn open_or_begin(dir: &'a Locked, nic: Identity) -> Result<Self, Error> {
        for file in dir.names(PREFIX)? {
            match Self::open(dir, &file) {
                Ok(Some(open)) if open.journal.is_of(&nic)? => return Ok(open),
                Ok(Some(open)) if open.journal.boot()? == Boot::Another => dir.remove(&file)?,
                // A damaged journal: the file's name says which NIC it is about.
                Err(error) if nic.may_have(&file) => return Err(error),
                _ => {}
            }
        }
        Ok(Self {
            dir,
            file: free_name(dir, &nic)?,
            journal: Journal::new(nic),
            undoing: false,
        })
    }

    /// Reads the NIC's journal without the lock; returns an empty journal if there is none.
    pub(crate) fn read_unlocked(dir: Option<&RunDir>, nic: &Identity) -> Result<Journal, Error> {
        if let Some(dir) = dir {
            for file in dir.names(PREFIX)? {
                match read(dir, &file) {
                    Ok(Some(journal)) if journal.is_of(nic)? => return Ok(journal),
                    Err(error) if nic.may_have(&file) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(Journal::new(nic.clone()))
    }

    /// Removes from the journal a claim of which nothing is left on the NIC. The caller saves the
    /// journal.
    pub(crate) fn forget(&mut self, id: u64) {
        let claims = self.journal.claims.iter();
        let locks = claims.filter(|claim| claim.id == id);
        let locks = locks.filter_map(|claim| claim.owner.as_ref()?.lock().map(str::to_owned));
        for lock in locks.collect::<Vec<_>>() {
            if let Err(error) = self.dir.remove(&lock) {
                tracing::debug!("{error}");
            }
        }
        self.journal.claims.retain(|claim| claim.id != id);
    }

    /// Writes the journal's file, or removes it when no claim is left.
    pub(crate) fn save(&self) -> Result<(), Error> {
        let saved = match self.journal.claims.is_empty() {
            true => self.dir.remove(&self.file),
            false => self.dir.write(&self.file, &self.journal),
        };
        match saved {
            Err(error) if self.undoing => {
                tracing::debug!("{}", with_sources(&error));
                Ok(())
            }
            saved => Ok(saved?),
        }
    }
}

/// Unused file name for a new journal. Another NIC may have had this ifindex before and left its
/// journal under the usual name.
fn free_name(dir: &Locked, nic: &Identity) -> Result<String, Error> {
    let taken = dir.names(PREFIX)?;
    let whole = nic.file();
    let stem = whole.trim_end_matches(".json");
    let mut names = (2..).map(|n: u32| format!("{stem}-{n}.json"));
    Ok(match taken.contains(&whole) {
        false => whole,
        true => names.find(|name| !taken.contains(name)).unwrap_or(whole),
    })
}

/// Reads the journal in a file; `None` if there is no file. Fails on a journal of a later version
/// of this crate, which may mean something else by the same words.
pub(crate) fn read(dir: &RunDir, file: &str) -> Result<Option<Journal>, Error> {
    let Some(mut journal) = dir.read::<Journal>(file)? else {
        return Ok(None);
    };
    if (1..=VERSION).contains(&journal.version) {
        journal.version = VERSION;
        for claim in &mut journal.claims {
            if let Some(owner) = &mut claim.owner {
                owner.found_in(dir.path());
            }
        }
        return Ok(Some(journal));
    }
    let why = format!("version {}, not {VERSION}", journal.version);
    Err(Error::RunDir(RunDirError::Damaged {
        path: dir.path().join(file),
        source: serde::de::Error::custom(why),
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use netdev::NetNs;
    use netdev::link::LinkInfo;

    use super::*;
    use crate::claim::Needs;
    use crate::scratch::Scratch;

    fn claim() -> Claim {
        Claim {
            id: 7,
            owner: None,
            needs: Needs::default(),
            items: Vec::new(),
        }
    }

    /// Identity of this machine's loopback device, which stands for a NIC in tests.
    fn identity() -> Identity {
        let netns = NetNs::current().unwrap();
        let link: LinkInfo = netdev::Link::open().unwrap().by_name("lo").unwrap();
        Identity::of(&netns, &link).unwrap()
    }

    #[test]
    fn the_file_exists_while_there_is_a_claim() {
        let scratch = Scratch::new();
        let locked = scratch.0.lock().unwrap();
        let mut open = JournalFile::open_or_begin(&locked, identity()).unwrap();
        open.journal.rings = Some(Setting::new(RingValues {
            rx: Some(256),
            split: None,
            threshold: Some(0),
        }));
        open.journal.claims.push(claim());
        open.save().unwrap();
        assert_eq!(
            JournalFile::open_or_begin(&locked, identity())
                .unwrap()
                .journal,
            open.journal
        );
        let id = open.journal.new_id().unwrap();
        assert!(id > 7 && open.journal.new_id().unwrap() > id);
        open.journal.claims[0].id = u64::MAX - 1;
        assert_eq!(open.journal.new_id().unwrap(), u64::MAX);
        open.journal.claims.clear();
        open.save().unwrap();
        assert!(locked.names(PREFIX).unwrap().is_empty());
    }

    #[test]
    fn a_journal_of_another_boot_is_removed_and_a_damaged_one_is_an_error() {
        let scratch = Scratch::new();
        let locked = scratch.0.lock().unwrap();
        let mut open = JournalFile::open_or_begin(&locked, identity()).unwrap();
        open.journal.claims.push(claim());
        open.save().unwrap();
        let path = scratch.0.path().join(&open.file);
        let text = fs::read_to_string(&path).unwrap();
        let boot = Boot::id().unwrap();
        fs::write(&path, text.replace(&boot, "another")).unwrap();
        assert!(
            JournalFile::open_or_begin(&locked, identity())
                .unwrap()
                .journal
                .claims
                .is_empty()
        );
        assert!(!path.exists());
        for damaged in [
            &text[..text.len() / 2],
            "",
            "{}",
            "[]",
            &text.replace("claims", "clowns"),
            &text.replace("\"version\":2", "\"version\":3"),
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(
                JournalFile::open_or_begin(&locked, identity()).is_err(),
                "{damaged}"
            );
        }
    }
}
