//! Flow rules and RSS contexts that are added for one owner: each is noted in the journal before it
//! is made, and read back.

use netdev::ethtool::{Action, FlowRule, Location};
use netdev::{QueueId, RssContextId};

use crate::claim::{Item, same_rule};
use crate::journal::JournalFile;
use crate::leaving::LeavingItems;
use crate::nic::{NTUPLE, Nic};
use crate::spread::{Spread, spread};
use crate::values::{flow_text, rule_text, table_text};
use crate::{Change, Error, settle};

/// Adds flow rules, and RSS contexts where flows go to several queues; returns the changes.
pub(crate) fn add_flows(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
    flows: Vec<(FlowRule, Vec<QueueId>)>,
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let device = nic.name();
    let queues: Vec<&[QueueId]> = flows.iter().map(|(_, to)| to.as_slice()).collect();
    let new_context = |queues: &[QueueId]| {
        let size = nic.table()?.len();
        let table: Vec<QueueId> = queues.iter().copied().cycle().take(size).collect();
        let context = add_context(nic, file, id, &table)?;
        if let Some(context) = context {
            changes.push(added_change(format!(
                "rss context {context} {}",
                table_text(&table)
            )));
        }
        Ok(context)
    };
    let ways = spread(&queues, new_context, |queues| no_contexts(&device, queues))?;
    let there = nic.rules().unwrap_or_default();
    for ((flow, _), way) in flows.into_iter().zip(ways) {
        let action = match way {
            Spread::Queue(queue) => Action::Queue(queue),
            Spread::Context(context) => Action::Context(context),
        };
        let rule = FlowRule { action, ..flow };
        // Another program's stays. A claim's stays until the last claim that wants it ends.
        if let Some(same) = there.iter().find(|other| same_rule(other, &rule)) {
            note_shared_rule(file, id, same)?;
            continue;
        }
        let text = rule_text(&rule);
        let place = match add_rule(nic, file, id, &rule) {
            Err(Error::Refused(error)) if may_be_off(nic, &error)? => {
                if let Some((from, to)) = switch_on(nic, file, id)? {
                    changes.push(Change {
                        from: Some(from),
                        to,
                    });
                }
                add_rule(nic, file, id, &rule)
            }
            place => place,
        }?;
        changes.push(added_change(format!("{text}, at {place}")));
    }
    Ok(changes)
}

fn added_change(to: String) -> Change {
    Change { from: None, to }
}

/// Whether a driver may have refused a flow rule because flow rules are switched off: `EPERM` of
/// bnxt, `EOPNOTSUPP` of most. Not all drivers mind: mlx5 takes rules although they are off.
fn may_be_off(nic: &mut Nic, error: &netdev::Error) -> Result<bool, Error> {
    let off = matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)
    );
    Ok(off && error.op() == "ntuple-insert" && !nic.feature(NTUPLE)?)
}

fn switch_on(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
) -> Result<crate::shared_setting::SettingChange, Error> {
    if let Some(claim) = file.journal.claim(id) {
        claim.needs.ntuple = true;
    }
    settle::acquire_ntuple(nic, file)
}

/// Describes the changes that [`add_flows`] would make.
pub(crate) fn preview_flows(
    nic: &mut Nic,
    flows: &[(FlowRule, Vec<QueueId>)],
    leaving: &LeavingItems<'_>,
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    if !flows.is_empty() && !nic.feature(NTUPLE)? {
        changes.push(Change {
            from: Some("ntuple off".to_owned()),
            to: "on, if the driver takes no rule otherwise".to_owned(),
        });
    }
    let device = nic.name();
    let queues: Vec<&[QueueId]> = flows.iter().map(|(_, to)| to.as_slice()).collect();
    let new_context = |queues: &[QueueId]| {
        let mut room = nic.has_room_for_context()?;
        if !room && !leaving.is_empty() {
            let mut contexts = nic.contexts()?.into_iter();
            room = contexts.any(|(id, table)| leaving.has_context(id, &table));
        }
        if room {
            changes.push(added_change(format!("rss context {}", table_text(queues))));
        }
        Ok(room.then_some(()))
    };
    let ways = spread(&queues, new_context, |queues| no_contexts(&device, queues))?;
    let mut there = nic.rules().unwrap_or_default();
    there.retain(|rule| !leaving.has_rule(rule));
    for ((flow, _), way) in flows.iter().zip(ways) {
        let rule = match way {
            Spread::Context(()) => {
                changes.push(added_change(format!("{} to that context", flow_text(flow))));
                continue;
            }
            Spread::Queue(queue) => FlowRule {
                action: Action::Queue(queue),
                ..flow.clone()
            },
        };
        if !there.iter().any(|other| same_rule(other, &rule)) {
            changes.push(added_change(rule_text(&rule)));
        }
    }
    Ok(changes)
}

fn no_contexts(device: &str, queues: &[QueueId]) -> Error {
    Error::NoContexts {
        device: device.to_owned(),
        queues: queues.to_vec(),
    }
}

/// Creates an RSS context, noted in the journal before and after, and reads it back; `None` where
/// the driver has no contexts, or none left.
fn add_context(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
    table: &[QueueId],
) -> Result<Option<RssContextId>, Error> {
    let before = nic.contexts()?.into_iter().map(|(id, _)| id).collect();
    let item = |id| Item::Context {
        table: table.to_vec(),
        before,
        id,
    };
    note_item(file, id, item(None))?;
    let context = match nic.create_context(table) {
        Err(Error::Refused(error)) if is_no_context(&error) => {
            tracing::debug!("{}: {error}", nic.identity.name);
            forget_last_item(file, id);
            return Ok(None);
        }
        context => context?,
    };
    update_last_item(file, id, |item| {
        if let Item::Context { id, .. } = item {
            *id = Some(context);
        }
    })?;
    // Ours whatever the driver made of it; what can't be removed now stays noted.
    if let Err(error) = nic.check_context(context, table) {
        if nic.delete_context(context).is_ok() {
            forget_last_item(file, id);
        }
        return Err(error);
    }
    Ok(Some(context))
}

/// Whether an error says that the driver has no RSS contexts, or that all are taken
/// (`ethnl_rss_create_doit`: `EBUSY` of `xa_alloc`).
fn is_no_context(error: &netdev::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EBUSY | libc::ENOSPC)
    )
}

/// Notes in the journal, for this claim too, a flow rule that exists, if another claim added the
/// rule.
fn note_shared_rule(file: &mut JournalFile<'_>, id: u64, rule: &FlowRule) -> Result<(), Error> {
    let Location::At(place) = rule.location else {
        return Ok(());
    };
    let item = Item::Rule {
        rule: rule.clone(),
        before: Vec::new(),
        location: Some(place),
    };
    let claims = file.journal.claims.iter();
    if !claims
        .flat_map(|claim| &claim.items)
        .any(|other| other.is_same_item(&item))
    {
        return Ok(());
    }
    note_need_of_ntuple(file, id);
    note_item(file, id, item)
}

/// Notes that a claim needs flow rules switched on, if they were switched on for another claim.
fn note_need_of_ntuple(file: &mut JournalFile<'_>, id: u64) {
    if file.journal.ntuple.is_some() {
        if let Some(claim) = file.journal.claim(id) {
            claim.needs.ntuple = true;
        }
    }
}

/// Inserts a flow rule at a location of its own and reads it back; returns the location.
fn add_rule(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
    rule: &FlowRule,
) -> Result<u32, Error> {
    note_need_of_ntuple(file, id);
    let before = nic.rule_places()?;
    let item = Item::Rule {
        rule: rule.clone(),
        before: before.clone(),
        location: None,
    };
    note_item(file, id, item)?;
    let inserted = nic.insert_rule(rule, |place| note_place(file, id, place));
    let place = match inserted {
        Ok(place) => place,
        Err(error) => {
            // Refused, so that none of that kind is ours.
            forget_last_item(file, id);
            return Err(error);
        }
    };
    note_place(file, id, place)?;
    // Ours whatever the driver made of it, if nothing was there before.
    if let Err(error) = nic.check_rule(place, rule) {
        if !before.contains(&place) && nic.delete_any_rule(place).is_ok() {
            forget_last_item(file, id);
        }
        return Err(error);
    }
    Ok(place)
}

fn note_place(file: &mut JournalFile<'_>, id: u64, place: u32) -> Result<(), Error> {
    update_last_item(file, id, |item| {
        if let Item::Rule { location, .. } = item {
            *location = Some(place);
        }
    })
}

/// Notes in the journal a rule or context that is about to be made.
fn note_item(file: &mut JournalFile<'_>, id: u64, item: Item) -> Result<(), Error> {
    if let Some(claim) = file.journal.claim(id) {
        claim.items.push(item);
    }
    file.save()
}

/// Removes from a claim's record the last rule or context noted, which does not exist.
fn forget_last_item(file: &mut JournalFile<'_>, id: u64) {
    if let Some(claim) = file.journal.claim(id) {
        claim.items.pop();
    }
}

/// Changes a claim's record of the last rule or context noted, and saves the journal.
fn update_last_item(
    file: &mut JournalFile<'_>,
    id: u64,
    change: impl FnOnce(&mut Item),
) -> Result<(), Error> {
    if let Some(item) = file
        .journal
        .claim(id)
        .and_then(|claim| claim.items.last_mut())
    {
        change(item);
    }
    file.save()
}
