//! Journal of what a lease changes outside of its netkit, in the runtime directory, so that its end
//! can restore everything.
//!
//! Each lease has a file `lease-NUMBER-DEVICE.json`: the inode of the namespace, and the name of
//! the netkit's owner end, which exists as long as the netkit. The file is written before the first
//! change. If leases share a sysctl, each has the value from before the first of them; the last one
//! to end restores it.

pub(crate) mod clear;
mod lookup;
mod record;

use anyhow::{Context, Result};
use netdev::{Link, NetNs};
use undo::{Boot, Locked, RunDir, RunDirError};

pub(crate) use lookup::MissingRules;
use record::PREFIX;
pub(crate) use record::{Device, LRO, LeaseRecord, ProxyEntry};

/// Turns an error of the runtime directory into an error with a remedy.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<RunDirError>() {
        Ok(error) => nic::Error::from(error).into(),
        Err(error) => error,
    }
}

/// Journal with the records of all leases, under the lock of the runtime directory.
#[derive(Debug)]
pub(crate) struct LeaseJournal {
    /// The runtime directory under its lock; `None` for a dry run.
    locked: Option<Locked>,
    /// Id of this boot.
    boot: String,
    here: NetNs,
    links: Link,
    all: Vec<LeaseRecord>,
}

impl LeaseJournal {
    /// Reads the records of all leases under the lock. Records of another boot are removed; a file
    /// that can't be read is renamed, with a warning. A dry run neither locks nor changes anything.
    pub(crate) fn open(dry_run: bool) -> Result<Self> {
        Self::read(dry_run).map_err(with_remedy)
    }

    fn read(dry_run: bool) -> Result<Self> {
        let dir = match dry_run {
            true => RunDir::existing()?,
            false => Some(RunDir::open()?),
        };
        let locked = match &dir {
            Some(dir) if !dry_run => Some(dir.lock()?),
            _ => None,
        };
        let mut journal = Self {
            locked,
            boot: Boot::id()?,
            here: NetNs::current()?,
            links: Link::open()?,
            all: Vec::new(),
        };
        let Some(dir) = dir else { return Ok(journal) };
        for name in dir.names(PREFIX)? {
            match dir.read::<LeaseRecord>(&name) {
                Ok(Some(record)) if record.is_current()? && record.file() == name => {
                    journal.all.push(record);
                }
                Ok(Some(_)) => {
                    if let Some(locked) = &journal.locked {
                        locked.remove(&name)?;
                    }
                }
                Ok(None) => {}
                Err(error @ RunDirError::Damaged { .. }) if dry_run => {
                    tracing::warn!("{error}: it would be renamed");
                }
                Err(error @ RunDirError::Damaged { .. }) => {
                    let aside = journal.locked()?.set_aside(&name)?;
                    tracing::warn!(
                        "{error}: renamed to {}; unlease treats the netkit as one that it did not make",
                        aside.display()
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(journal)
    }

    /// Begins a record, without changes yet, or continues that of an earlier lease of the same netkit.
    pub(crate) fn begin(
        &self,
        (netkit, netns): (&str, &str),
        made: bool,
        (owner_end, pair): (Device, bool),
        owner_netns: &NetNs,
    ) -> Result<LeaseRecord> {
        let record = LeaseRecord {
            boot: self.boot.clone(),
            netkit: netkit.to_owned(),
            netns: netns.to_owned(),
            made,
            owner_end,
            pair,
            owner_netns: owner_netns.identity()?,
            owner_cookie: Link::open_in(owner_netns)?.netns_cookie().ok(),
            addresses: Vec::new(),
            routes: Vec::new(),
            settings: Vec::new(),
            rules: Vec::new(),
            proxies: Vec::new(),
            lro: None,
        };
        let earlier = self.all.iter().find(|it| it.is_of_same_netkit(&record));
        Ok(earlier.cloned().unwrap_or(record))
    }

    /// Writes a record, in place of one of the same device, which is returned.
    pub(crate) fn write(&mut self, record: LeaseRecord) -> Result<Option<LeaseRecord>> {
        let file = record.file();
        let written = self.locked()?.write(&file, &record);
        written.map_err(nic::Error::from)?;
        let before = self.all.iter().position(|other| other.file() == file);
        let before = before.map(|index| self.all.remove(index));
        self.all.push(record);
        Ok(before)
    }

    /// Removes a lease's record.
    pub(crate) fn remove(&mut self, record: &LeaseRecord) -> Result<()> {
        let file = record.file();
        let removed = self.locked()?.remove(&file);
        removed.map_err(nic::Error::from)?;
        self.all.retain(|other| other.file() != file);
        Ok(())
    }

    fn locked(&self) -> Result<&Locked> {
        self.locked.as_ref().context("a dry run writes nothing")
    }

    /// Records of all leases.
    pub(crate) fn all(&self) -> &[LeaseRecord] {
        &self.all
    }
}
