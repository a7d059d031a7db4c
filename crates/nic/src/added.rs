//! Rules and contexts that are added for one owner: each is noted before it is made, and read back.

use netdev::{FlowRule, Location, QueueId, RssContextId};

use crate::Error;
use crate::claim::Item;
use crate::journal::Open;
use crate::nic::{Nic, Placing};
use crate::place::Places;

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
    let (before, placing) = nic.rule_table()?;
    let item = Item::Rule {
        rule: rule.clone(),
        before: before.clone(),
        location: None,
    };
    note(open, id, item)?;
    let inserted = match placing {
        Placing::Driver => nic.insert_rule(&rule).map_err(Error::from),
        Placing::Ours(places) => insert_at_a_free_place(nic, open, id, &rule, places),
    };
    let location = match inserted {
        Ok(location) => location,
        Err(error) => {
            // Refused, so that none of that kind is ours.
            forget(open, id);
            return Err(error);
        }
    };
    note_location(open, id, location)?;
    // Ours whatever the driver made of it, if nothing was there before.
    if let Err(error) = nic.check_rule(location, &rule) {
        if !before.contains(&location) && nic.delete_any_rule(location).is_ok() {
            forget(open, id);
        }
        return Err(error);
    }
    Ok(location)
}

/// Tries free places, one after the other, each noted first and looked at once more: the list may have
/// been old, and a driver may replace what it finds there.
fn insert_at_a_free_place(
    nic: &mut Nic,
    open: &mut Open<'_>,
    id: u64,
    rule: &FlowRule,
    mut places: Places,
) -> Result<u32, Error> {
    let mut place = places.first();
    let mut refusal = None;
    while let Some(at) = place {
        if nic.has_any_rule(at)? {
            place = places.after_clash(at);
            continue;
        }
        note_location(open, id, at)?;
        let placed = FlowRule {
            location: Location::At(at),
            ..rule.clone()
        };
        let error = match nic.insert_rule(&placed) {
            Ok(location) => return Ok(location),
            Err(error) => error,
        };
        place = match error.raw_os_error() {
            // Of the rule itself, unless another one has come there.
            Some(libc::EEXIST | libc::EBUSY) if nic.has_any_rule(at)? => places.after_clash(at),
            Some(libc::ENOSPC | libc::ERANGE | libc::E2BIG) => places.after_refusal(at),
            _ => return Err(error.into()),
        };
        refusal = refusal.or(Some(error));
    }
    Err(match refusal {
        Some(error) => error.into(),
        None => nic.no_place_for(rule).into(),
    })
}

fn note_location(open: &mut Open<'_>, id: u64, location: u32) -> Result<(), Error> {
    renote(open, id, |item| {
        if let Item::Rule { location: at, .. } = item {
            *at = Some(location);
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
