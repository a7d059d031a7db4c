//! Preview of the changes that a plan would make.

use std::path::Path;

use netdev::NetNs;

use crate::added::preview_flows;
use crate::checks::{check_flows, check_queue_owners, check_queues_exist};
use crate::claim::Claim;
use crate::journal::JournalFile;
use crate::leaving::LeavingItems;
use crate::nic::Nic;
use crate::plan::{Change, Plan};
use crate::presence::Presence;
use crate::{Error, RunDir, channels, settle};

impl Plan {
    /// Computes what [`Plan::apply`] would change now, in its order. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchQueue`], [`Error::QueueTaken`], [`Error::FlowTaken`], [`Error::NoOtherQueue`]; what the kernel says when it is asked.
    pub fn preview(&self, netns: &NetNs) -> Result<Vec<Change>, Error> {
        let mut nic = Nic::open(netns, self.ifindex)?;
        let dir = RunDir::existing()?;
        let place = dir.as_ref().map_or(Path::new(""), RunDir::path);
        Presence::check(netns, (self.ifindex, &self.device), place)?;
        let mut journal = JournalFile::read_unlocked(dir.as_ref(), &nic.identity)?;
        // Those of dead owners end first.
        let (orphans, mut claims): (Vec<_>, Vec<_>) =
            journal.claims.iter().cloned().partition(Claim::is_orphan);
        let leaving = LeavingItems::of(&orphans, &claims);
        let queues = match orphans.is_empty() {
            true => None,
            false => channels::rx_queues_with(&mut nic, &journal, &claims)?,
        };
        check_queues_exist(self, &mut nic, queues)?;
        check_queue_owners(self, &journal)?;
        check_flows(self, &mut nic, &journal, &leaving)?;
        claims.push(Claim {
            id: 0,
            owner: None,
            needs: self.needs.clone(),
            items: Vec::new(),
        });
        let shared = settle::preview(&mut nic, &mut journal, &claims)?;
        let shared = shared.into_iter().flatten().map(|(from, to)| Change {
            from: Some(from),
            to,
        });
        let mut changes: Vec<Change> = shared.collect();
        changes.extend(preview_flows(&mut nic, &self.flows, &leaving)?);
        Ok(changes)
    }
}
