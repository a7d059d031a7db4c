//! Channels, and the RSS table that changes with them.

use crate::Error;
use crate::claim::Claim;
use crate::goals::channels_goal;
use crate::journal::{Journal, JournalFile};
use crate::nic::Nic;
use crate::shared_setting::{Channels, SettingChange, SharedSetting, Table};

/// Sets the number of channels that the claims need; describes the change.
pub(crate) fn acquire(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    id: u64,
) -> Result<SettingChange, Error> {
    match change_and_record_table(nic, file, Channels::acquire) {
        Err(Error::Refused(error)) if is_refusal_for_the_table(&error) && nic.table_is_set()? => {
            Err(Error::TableIsSet {
                device: nic.name(),
                error,
                needed: file
                    .journal
                    .claims
                    .iter()
                    .any(|claim| claim.id != id && !claim.needs.reserved.is_empty()),
            })
        }
        channels => channels,
    }
}

/// Sets the number of channels that the remaining claims need.
///
/// Before Linux 7.3 some drivers refuse while any RSS table is set, the original one too. The default table
/// contains the queues that other claims reserve, so only the last claim asks for it.
pub(crate) fn release(nic: &mut Nic, file: &mut JournalFile<'_>) -> Result<SettingChange, Error> {
    match change_and_record_table(nic, file, Channels::release) {
        Err(Error::Refused(error))
            if is_refusal_for_the_table(&error) && file.journal.table.is_some() => {}
        step => return step,
    }
    if !file.journal.reserved().is_empty() {
        return Ok(None);
    }
    change_and_record_table(nic, file, |nic, file| {
        file.save()?;
        nic.default_table()
    })?;
    let step = change_and_record_table(nic, file, Channels::release);
    if !matches!(step, Ok(Some(_))) {
        Table::release(nic, file)?;
    }
    step
}

/// Whether an error is the one by which a driver refuses channels while an RSS table is set
/// (`mlx5e_ethtool_set_channels`): `EINVAL` without a text. The core's refusals have texts, and are
/// for other reasons (`ethtool_check_max_channel`, `netdev_queue_busy`).
fn is_refusal_for_the_table(error: &netdev::Error) -> bool {
    error.op() == "channels-set"
        && error.raw_os_error() == Some(libc::EINVAL)
        && error.message().is_none()
}

/// Restores the original RSS table, which may be the default again now that the queues are as
/// before.
pub(crate) fn restore_default_table(nic: &mut Nic, file: &JournalFile<'_>) -> Result<(), Error> {
    match &file.journal.table {
        Some(table) => nic.reset_table(&table.before),
        None => Ok(()),
    }
}

/// Makes a change that may change the RSS table, too, and records the table that it leaves as one
/// of ours, even after a kill in between: the journal is saved first, with the table from before.
fn change_and_record_table<T>(
    nic: &mut Nic,
    file: &mut JournalFile<'_>,
    change: impl FnOnce(&mut Nic, &mut JournalFile<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    if file.journal.table.is_none() {
        return change(nic, file);
    }
    file.journal.table_moves = Some(nic.table()?);
    let made = change(nic, file);
    record_moved_table(nic, &mut file.journal)?;
    file.save()?;
    made
}

/// Records the RSS table as one of ours if it has changed since the beginning of a change that may
/// change the table, too.
pub(crate) fn record_moved_table(nic: &mut Nic, journal: &mut Journal) -> Result<(), Error> {
    if let (Some(from), Some(setting)) = (&journal.table_moves, &mut journal.table) {
        let now = nic.table()?;
        if now != *from {
            setting.intend(&now);
        }
    }
    journal.table_moves = None;
    Ok(())
}

/// Number of rx queues that the NIC has with the channels that these claims need; `None` if the
/// channels were not changed.
pub(crate) fn rx_queues_with(
    nic: &mut Nic,
    journal: &Journal,
    claims: &[Claim],
) -> Result<Option<u32>, Error> {
    let Some(setting) = &journal.channels else {
        return Ok(None);
    };
    let now = nic.channels()?;
    let goal = match setting.knows(&now) {
        true => channels_goal(setting.before, claims),
        false => channels_goal(now, claims),
    };
    Ok(Some(goal.combined.saturating_add(goal.rx)))
}
