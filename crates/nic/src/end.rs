//! The end of a claim: its changes of the NIC are undone.

use netdev::QueueId;
use undo::with_sources;

use crate::claim::{Item, same_rule};
use crate::journal::{Journal, JournalFile};
use crate::nic::Nic;
use crate::values::same_spread;
use crate::{Error, settle};

/// Ends a claim: removes its rules and contexts, and sets the shared settings to their original
/// values combined with what other claims need. What cannot be undone stays in the journal.
pub(crate) fn end_claim(nic: &mut Nic, file: &mut JournalFile<'_>, id: u64) -> Result<(), Error> {
    file.undoing = true;
    let ended = undo(nic, file, id);
    file.undoing = false;
    let saved = file.save();
    match (ended, saved) {
        (Err(Error::NotRestored { device, failures }), Err(error)) => Err(Error::NotRestored {
            device,
            failures: [failures, vec![with_sources(&error)]].concat(),
        }),
        (ended, saved) => ended.and(saved),
    }
}

/// Undoes a claim's changes as far as possible, without the last save of the journal.
fn undo(nic: &mut Nic, file: &mut JournalFile<'_>, id: u64) -> Result<(), Error> {
    let mut failures = Vec::new();
    let Some(claim) = file.journal.claim(id) else {
        return Ok(());
    };
    let needs = std::mem::take(&mut claim.needs);
    // The journal has each item until it is gone: after a kill the next process finishes.
    let mut left = claim.items.clone();
    while let Some(item) = left.pop() {
        let mut others = file.journal.claims.iter().filter(|claim| claim.id != id);
        let is_anothers =
            others.any(|claim| claim.items.iter().any(|other| other.is_same_item(&item)));
        let removed = match is_anothers {
            true => Ok(()),
            false => remove(nic, &file.journal, &item),
        };
        match removed {
            Ok(()) => {
                if let Some(claim) = file.journal.claim(id) {
                    claim.items.retain(|other| *other != item);
                }
            }
            Err(error) => failures.push(error),
        }
    }
    let bound = still_bound(nic, &file.journal, &needs.reserved);
    if let Some(claim) = file.journal.claim(id) {
        claim.needs.reserved = bound.queues;
    }
    let kept = settle::release(nic, file);
    if let Some(claim) = file.journal.claim(id) {
        if kept.table.is_some() {
            claim.needs.reserved = needs.reserved;
        }
        if kept.rings.is_some() {
            claim.needs.split = needs.split;
            claim.needs.rx_ring = needs.rx_ring;
            claim.needs.gro_hw = needs.gro_hw;
        }
        if kept.channels.is_some() {
            claim.needs.channels = needs.channels;
        }
        if kept.ntuple.is_some() {
            claim.needs.ntuple = needs.ntuple;
        }
    }
    failures.extend(bound.error);
    failures.extend(
        [kept.table, kept.rings, kept.channels, kept.ntuple]
            .into_iter()
            .flatten(),
    );
    if failures.is_empty() {
        file.forget(id);
        return Ok(());
    }
    Err(Error::NotRestored {
        device: nic.name(),
        failures: failures.iter().map(|error| with_sources(error)).collect(),
    })
}

/// Queues that RSS must not use yet, because they are still bound to device memory.
#[derive(Default)]
struct BoundQueues {
    queues: Vec<QueueId>,
    /// Error that says why RSS must not use the first of these queues.
    error: Option<Error>,
}

/// Finds the queues of a claim that are bound to device memory, or may be, and that no other claim
/// reserves. A packet that RSS leads there ends in that memory, and `recvmsg` of an ordinary socket
/// fails with `EFAULT`. Rules don't wait: without its rule a flow goes to other queues.
fn still_bound(nic: &mut Nic, journal: &Journal, queues: &[QueueId]) -> BoundQueues {
    let others = journal.reserved();
    let mut bound = BoundQueues::default();
    for queue in queues.iter().filter(|queue| !others.contains(queue)) {
        let error = match nic.bound_to(*queue) {
            Ok(None) => continue,
            Ok(Some(to)) => Error::StillBound {
                device: nic.name(),
                queue: *queue,
                to,
            },
            Err(error) => error,
        };
        bound.queues.push(*queue);
        bound.error.get_or_insert(error);
    }
    bound
}

/// Removes a rule or context of a claim from the NIC, if it exists and is still the claim's.
fn remove(nic: &mut Nic, journal: &Journal, item: &Item) -> Result<(), Error> {
    match item {
        Item::Context {
            id: Some(id),
            table,
            ..
        } => {
            let mut contexts = nic.contexts()?.into_iter();
            match contexts.find(|(other, _)| other == id) {
                Some((_, there)) if same_spread(&there, table) => nic.delete_context(*id),
                Some(_) => {
                    stays(nic, &format!("rss context {id}"));
                    Ok(())
                }
                None => Ok(()),
            }
        }
        // The process that made it was killed before it could note the number.
        Item::Context { table, before, .. } => {
            let others = contexts_of(journal);
            let made = nic.contexts()?.into_iter().find(|(id, there)| {
                same_spread(there, table) && !before.contains(id) && !others.contains(id)
            });
            made.map_or(Ok(()), |(id, _)| nic.delete_context(id))
        }
        Item::Rule {
            rule,
            location: Some(location),
            ..
        } => {
            if !nic.delete_rule(*location, rule)? {
                stays(nic, &format!("ntuple rule {location}"));
            }
            Ok(())
        }
        Item::Rule { rule, before, .. } => {
            let others = locations_of(journal);
            let made = nic.rules()?.into_iter().find_map(|there| {
                let netdev::ethtool::Location::At(location) = there.location else {
                    return None;
                };
                let new = !before.contains(&location) && !others.contains(&location);
                (new && same_rule(&there, rule)).then_some(location)
            });
            made.map_or(Ok(()), |location| nic.delete_rule(location, rule).map(drop))
        }
    }
}

fn stays(nic: &Nic, what: &str) {
    let device = &nic.identity.name;
    tracing::warn!("{device}: {what} is not what was made there: if there is one, it stays");
}

/// Numbers of the RSS contexts that belong to a claim.
fn contexts_of(journal: &Journal) -> Vec<netdev::RssContextId> {
    let items = journal.claims.iter().flat_map(|claim| &claim.items);
    items
        .filter_map(|item| match item {
            Item::Context { id, .. } => *id,
            Item::Rule { .. } => None,
        })
        .collect()
}

/// Locations of the flow rules that belong to a claim.
fn locations_of(journal: &Journal) -> Vec<u32> {
    let items = journal.claims.iter().flat_map(|claim| &claim.items);
    items
        .filter_map(|item| match item {
            Item::Rule { location, .. } => *location,
            Item::Context { .. } => None,
        })
        .collect()
}
