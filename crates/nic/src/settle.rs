//! Shared settings: the original values, combined with what the claims need.

use netdev::ethtool::HeaderSplit;
use undo::Setting;

use crate::claim::{Claim, Item};
use crate::journal::{Journal, JournalFile};
use crate::nic::{self, Nic};
use crate::shared_setting::{Channels, GroHw, Ntuple, Rings, SettingChange, SharedSetting, Table};
use crate::values::RingValues;
use crate::{Error, channels};

/// Describes the changes that these claims would make to the shared settings. Changes nothing.
pub(crate) fn preview(
    nic: &mut Nic,
    journal: &mut Journal,
    claims: &[Claim],
) -> Result<Vec<SettingChange>, Error> {
    channels::record_moved_table(nic, journal)?;
    Ok(vec![
        Channels::preview(nic, journal, claims)?,
        Rings::preview(nic, journal, claims)?,
        Table::preview(nic, journal, claims)?,
    ])
}

/// Shared settings that could not be restored, each with the error.
#[derive(Debug, Default)]
pub(crate) struct RestoreFailures {
    pub(crate) table: Option<Error>,
    pub(crate) rings: Option<Error>,
    pub(crate) channels: Option<Error>,
    pub(crate) ntuple: Option<Error>,
}

/// Sets the shared settings to what the remaining claims need, after one has ended.
pub(crate) fn release(nic: &mut Nic, file: &mut JournalFile<'_>) -> RestoreFailures {
    let table = channels::record_moved_table(nic, &mut file.journal)
        .and_then(|()| Table::release(nic, file));
    let mut failures = RestoreFailures {
        table: table.err(),
        rings: release_rings(nic, file).err(),
        channels: None,
        ntuple: release_ntuple(nic, file).err(),
    };
    match channels::release(nic, file) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let table = match file.journal.reserved().is_empty() {
                true => channels::restore_default_table(nic, file),
                false => Table::release(nic, file).map(drop),
            };
            failures.table = failures.table.or(table.err());
        }
        Err(error) => failures.channels = Some(error),
    }
    failures
}

/// Sets the ring settings that the claims need, and features that the driver requires for header
/// split.
fn acquire_rings(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
) -> Result<(SettingChange, SettingChange), Error> {
    // A claim that builds on another's rx-gro-hw needs it, too.
    let mut needs_gro_hw = file.journal.gro_hw.is_some();
    let rings = match Rings::acquire(nic, file) {
        Err(Error::Refused(error)) if wants_gro_hw(&error) && !nic.feature(nic::GRO_HW)? => {
            needs_gro_hw = true;
            None
        }
        rings => Some(rings?),
    };
    if let Some(claim) = file.journal.claim(id).filter(|claim| claim.needs.split) {
        claim.needs.gro_hw = needs_gro_hw;
    }
    let gro_hw = GroHw::acquire(nic, file)?;
    let rings = match rings {
        Some(rings) => rings,
        None => Rings::acquire(nic, file)?,
    };
    let splits = file.journal.claims.iter().any(|claim| claim.needs.split);
    if splits && file.journal.split_was_auto.is_none() {
        let was = file.journal.rings.as_ref().map(|rings| rings.before.split);
        if was == Some(Some(HeaderSplit::Enabled)) {
            // A split that reads as on may be the driver's choice, and counts as such until that is known.
            file.journal.split_was_auto = Some(true);
            file.save()?;
            let asked = nic.ask_for_split();
            file.journal.split_was_auto = asked.as_ref().ok().copied();
            file.save()?;
            asked?;
        }
    }
    Ok((gro_hw, rings))
}

/// Whether an error says that the driver requires `rx-gro-hw` for header split, as mlx5 does
/// (`mlx5e_ethtool_set_tcp_data_split`).
fn wants_gro_hw(error: &netdev::Error) -> bool {
    let text = error.message().unwrap_or_default();
    error.op() == "rings-set" && text.contains("GRO HW")
}

/// Sets the ring settings that the remaining claims need.
fn release_rings(nic: &mut Nic, file: &mut JournalFile<'_>) -> Result<(), Error> {
    Rings::release(nic, file)?;
    let splits = file.journal.claims.iter().any(|claim| claim.needs.split);
    if !splits && file.journal.split_was_auto == Some(true) {
        let mut was = None;
        if let Some(rings) = &mut file.journal.rings {
            was = rings.before.split;
            // The driver's choice may be off: then that is of our making.
            rings.intend(&RingValues {
                split: Some(HeaderSplit::Disabled),
                ..rings.before
            });
        }
        file.save()?;
        nic.leave_split(was)?;
    }
    if !splits {
        file.journal.split_was_auto = None;
    }
    GroHw::release(nic, file)?;
    Ok(())
}

/// Switches flow rules on for a claim; describes the change.
pub(crate) fn acquire_ntuple(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
) -> Result<SettingChange, Error> {
    if file.journal.ntuple.is_none() {
        file.journal.rules_before = nic.rule_places()?;
    }
    Ntuple::acquire(nic, file)
}

/// Location of a flow rule that another program has added since rules were switched on. A rule of a
/// claim that could not be removed doesn't count.
fn foreign_rule(nic: &mut Nic, journal: &Journal) -> Result<Option<u32>, Error> {
    let items = || journal.claims.iter().flat_map(|claim| &claim.items);
    for place in nic.rule_places()? {
        let is_noted = |item: &Item| match item {
            Item::Rule {
                location: Some(noted),
                ..
            } => *noted == place,
            _ => false,
        };
        if journal.rules_before.contains(&place) || items().any(is_noted) {
            continue;
        }
        // The process that made a rule may have been killed before it could note the place.
        let mut unplaced = items().filter_map(|item| match item {
            Item::Rule {
                rule,
                before,
                location: None,
            } => (!before.contains(&place)).then_some(rule),
            _ => None,
        });
        let is_ours = unplaced.try_fold(false, |is, rule| {
            Ok::<_, Error>(is || nic.has_rule(place, rule)?)
        })?;
        if !is_ours {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Switches flow rules off again, unless another program has added a rule: many drivers would
/// remove it.
fn release_ntuple(nic: &mut Nic, file: &mut JournalFile<'_>) -> Result<SettingChange, Error> {
    let needed = file.journal.claims.iter().any(Ntuple::is_needed);
    if file.journal.ntuple.is_some() && !needed && nic.feature(nic::NTUPLE)? {
        if let Some(place) = foreign_rule(nic, &file.journal)? {
            let device = &nic.identity.name;
            tracing::warn!("{device}: ntuple stays on: another program has added rule {place}");
            file.journal.ntuple = None;
            return Ok(None);
        }
    }
    Ntuple::release(nic, file)
}

/// Sets the shared settings that the claims need; describes the changes.
pub(crate) fn acquire(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
) -> Result<Vec<SettingChange>, Error> {
    channels::record_moved_table(nic, &mut file.journal)?;
    // The original table, before the channels change it.
    if file.journal.table.is_none() && file.journal.claims.iter().any(Table::is_needed) {
        file.journal.table = Some(Setting::new(nic.table()?));
    }
    let channels = channels::acquire(nic, file, id)?;
    let (gro_hw, rings) = acquire_rings(nic, file, id)?;
    let table = Table::acquire(nic, file)?;
    Ok(vec![channels, gro_hw, rings, table])
}
