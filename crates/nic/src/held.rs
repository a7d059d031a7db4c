//! The rules, contexts and queues of a NIC that belong to a running receiver, or to `apply`.

use netdev::{Ifindex, NetNs, QueueId, RssContextId};

use crate::claim::Item;
use crate::journal::JournalFile;
use crate::nic::Nic;
use crate::{Error, Owner, RunDir};

/// List of rules, contexts or queues, each with its owner; `None` for one that `apply` made, which
/// stays.
type Owned<T> = Vec<(T, Option<Owner>)>;

/// Flow rules, RSS contexts and reserved queues of a NIC, each with its owner.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Held {
    /// Reserved queues, each with its owner.
    pub queues: Owned<QueueId>,
    /// Locations of flow rules, each with its owner.
    pub rules: Owned<u32>,
    /// RSS contexts, each with its owner.
    pub contexts: Owned<RssContextId>,
}

impl Held {
    /// The running receiver that owns this queue; `None` if there is none.
    pub fn queue_owner(&self, queue: QueueId) -> Option<&Owner> {
        let mut held = self.queues.iter().filter(|(held, _)| *held == queue);
        held.find_map(|(_, owner)| owner.as_ref())
    }
}

/// Reads the owners of the rules, contexts and queues of this NIC. Changes nothing.
///
/// # Errors
/// [`Error::RunDir`] for a journal that can't be read; those of asking the kernel about the NIC.
pub fn held(netns: &NetNs, ifindex: Ifindex) -> Result<Held, Error> {
    let nic = Nic::open(netns, ifindex)?;
    let journal = JournalFile::read_unlocked(RunDir::existing()?.as_ref(), &nic.identity)?;
    let mut held = Held::default();
    for claim in journal.claims.iter().filter(|claim| !claim.is_orphan()) {
        let owned = |queue: &QueueId| (*queue, claim.owner.clone());
        held.queues.extend(claim.needs.reserved.iter().map(owned));
        for item in &claim.items {
            match item {
                Item::Rule {
                    location: Some(place),
                    ..
                } => held.rules.push((*place, claim.owner.clone())),
                Item::Context { id: Some(id), .. } => {
                    held.contexts.push((*id, claim.owner.clone()));
                }
                _ => {}
            }
        }
    }
    Ok(held)
}
