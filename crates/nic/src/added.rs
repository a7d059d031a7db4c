//! Rules and contexts that are added for one owner: each is noted before it is made, and read back.

use netdev::{FlowRule, QueueId, RssContextId};

use crate::Error;
use crate::claim::Item;
use crate::journal::Open;
use crate::nic::Nic;

/// Notes a context, makes it, notes its number, reads it back.
pub(crate) fn add_context(
    nic: &mut Nic,
    open: &mut Open<'_>,
    id: u64,
    table: Vec<QueueId>,
) -> Result<RssContextId, Error> {
    let before = nic.contexts()?.into_iter().map(|(id, _)| id).collect();
    let item = |id| Item::Context {
        table: table.clone(),
        before,
        id,
    };
    note(open, id, item(None))?;
    let context = nic.create_context(&table)?;
    renote(open, id, |item| {
        if let Item::Context { id, .. } = item {
            *id = Some(context);
        }
    })?;
    // Ours whatever the driver made of it; what can't be removed now stays noted.
    if let Err(error) = nic.check_context(context, &table) {
        if nic.delete_context(context).is_ok() {
            forget(open, id);
        }
        return Err(error);
    }
    Ok(context)
}

/// Inserts a rule at a place of its own, reads it back; says where it is.
pub(crate) fn add_rule(
    nic: &mut Nic,
    open: &mut Open<'_>,
    id: u64,
    rule: FlowRule,
) -> Result<u32, Error> {
    let before = nic.rule_places()?;
    let item = Item::Rule {
        rule: rule.clone(),
        before: before.clone(),
        location: None,
    };
    note(open, id, item)?;
    let inserted = nic.insert_rule(&rule, |place| note_place(open, id, place));
    let place = match inserted {
        Ok(place) => place,
        Err(error) => {
            // Refused, so that none of that kind is ours.
            forget(open, id);
            return Err(error);
        }
    };
    note_place(open, id, place)?;
    // Ours whatever the driver made of it, if nothing was there before.
    if let Err(error) = nic.check_rule(place, &rule) {
        if !before.contains(&place) && nic.delete_any_rule(place).is_ok() {
            forget(open, id);
        }
        return Err(error);
    }
    Ok(place)
}

fn note_place(open: &mut Open<'_>, id: u64, place: u32) -> Result<(), Error> {
    renote(open, id, |item| {
        if let Item::Rule { location, .. } = item {
            *location = Some(place);
        }
    })
}

/// Writes down what is about to be made.
fn note(open: &mut Open<'_>, id: u64, item: Item) -> Result<(), Error> {
    if let Some(claim) = open.journal.claim(id) {
        claim.items.push(item);
    }
    open.save()
}

/// The last one is not there any more, or never was.
fn forget(open: &mut Open<'_>, id: u64) {
    if let Some(claim) = open.journal.claim(id) {
        claim.items.pop();
    }
}

/// Writes down what has become of the last one.
fn renote(open: &mut Open<'_>, id: u64, change: impl FnOnce(&mut Item)) -> Result<(), Error> {
    if let Some(item) = open
        .journal
        .claim(id)
        .and_then(|claim| claim.items.last_mut())
    {
        change(item);
    }
    open.save()
}
