//! A setting that all receivers on a NIC share, and the five that there are.

use netdev::QueueId;
use undo::Setting;

use crate::Error;
use crate::claim::Claim;
use crate::goals::{channels_goal, rings_goal, table_goal};
use crate::journal::{Journal, JournalFile};
use crate::nic::{self, Nic};
use crate::values::{ChannelCounts, RingValues, fit_table, table_text};

/// Change of a shared setting, described by the old value and the new one; `None` where the value
/// stays.
pub(crate) type SettingChange = Option<(String, String)>;

/// A setting of a NIC that all its receivers share. Its value is the original one, combined with
/// what the receivers' claims need.
pub(crate) trait SharedSetting {
    /// Type of the setting's value.
    type Value: PartialEq + Clone;

    /// The journal's entry for the setting.
    fn entry(journal: &mut Journal) -> &mut Option<Setting<Self::Value>>;

    /// Whether the claim needs the setting to be changed.
    fn is_needed(claim: &Claim) -> bool;

    /// Reads the setting's present value.
    fn read(nic: &mut Nic) -> Result<Self::Value, Error>;

    /// Computes the value that these claims need, from the original one.
    fn goal(nic: &mut Nic, before: &Self::Value, claims: &[Claim]) -> Result<Self::Value, Error>;

    /// Changes the setting; returns the value that the driver made of `to`.
    fn set(nic: &mut Nic, to: &Self::Value) -> Result<Self::Value, Error>;

    /// Restores the setting's original value; returns the value that the driver made of it.
    fn restore(nic: &mut Nic, to: &Self::Value) -> Result<Self::Value, Error> {
        Self::set(nic, to)
    }

    /// Describes a change of the setting in words.
    fn describe(from: &Self::Value, to: &Self::Value) -> (String, String);

    /// Records a value that another program has set as the setting's original value.
    fn adopt(setting: &mut Setting<Self::Value>, now: &Self::Value) {
        setting.before = now.clone();
    }

    /// Describes how `claims`, beside the journal's own, would change the setting. Changes nothing.
    fn preview(
        nic: &mut Nic,
        journal: &mut Journal,
        claims: &[Claim],
    ) -> Result<SettingChange, Error> {
        // A setting that no claim needs any more goes back, too.
        if Self::entry(journal).is_none() && !claims.iter().any(Self::is_needed) {
            return Ok(None);
        }
        let now = Self::read(nic)?;
        let before = match Self::entry(journal) {
            Some(setting) => {
                Self::adopt_external_change(setting, &now);
                setting.before.clone()
            }
            None => now.clone(),
        };
        let goal = Self::goal(nic, &before, claims)?;
        let setting = Self::entry(journal).as_ref();
        let made = setting.is_some_and(|setting| setting.is_made(&goal, &now));
        Ok((goal != now && !made).then(|| Self::describe(&now, &goal)))
    }

    /// Records the present value as the original one, if it is neither that nor one of ours:
    /// another program has set it. Returns a description of the change.
    fn adopt_external_change(
        setting: &mut Setting<Self::Value>,
        now: &Self::Value,
    ) -> Option<String> {
        let before = setting.before.clone();
        if !setting.knows(now) {
            Self::adopt(setting, now);
        }
        (setting.before != before).then(|| {
            let (was, is) = Self::describe(&before, &setting.before);
            format!("{was} -> {is}")
        })
    }

    /// Changes the setting to what the journal's claims need, among them a new one.
    fn acquire(nic: &mut Nic, file: &mut JournalFile<'_>) -> Result<SettingChange, Error> {
        let needed = file.journal.claims.iter().any(Self::is_needed);
        let entry = Self::entry(&mut file.journal);
        if entry.is_none() && !needed {
            return Ok(None);
        }
        let now = Self::read(nic)?;
        entry.get_or_insert_with(|| Setting::new(now.clone()));
        Self::settle(nic, file, now)
    }

    /// Changes the setting to what the journal's claims still need, after one has ended.
    fn release(nic: &mut Nic, file: &mut JournalFile<'_>) -> Result<SettingChange, Error> {
        if Self::entry(&mut file.journal).is_none() {
            return Ok(None);
        }
        let now = Self::read(nic)?;
        Self::settle(nic, file, now)
    }

    /// Changes the setting, whose value is `now` and which has an entry in the journal, to what the
    /// journal's claims need.
    fn settle(
        nic: &mut Nic,
        file: &mut JournalFile<'_>,
        now: Self::Value,
    ) -> Result<SettingChange, Error> {
        let claims = file.journal.claims.clone();
        let Some(setting) = Self::entry(&mut file.journal) else {
            return Ok(None);
        };
        if let Some(change) = Self::adopt_external_change(setting, &now) {
            let device = &nic.identity.name;
            tracing::warn!("{device}: another program has changed it: {change}, which stays");
        }
        let goal = Self::goal(nic, &setting.before, &claims)?;
        if setting.is_made(&goal, &now) {
            return Ok(None);
        }
        let back = goal == setting.before;
        setting.intend(&goal);
        file.save()?;
        let made = match back {
            true => Self::restore(nic, &goal),
            false => Self::set(nic, &goal),
        };
        // Whatever a refusal left is of our making, too.
        let left = match &made {
            Ok(_) => None,
            Err(_) => Some(Self::read(nic).unwrap_or_else(|_| now.clone())),
        };
        if let Some(setting) = Self::entry(&mut file.journal) {
            match (&made, left) {
                (Ok(kept), _) => setting.became(&goal, kept.clone()),
                (Err(_), left) => setting.stayed(left.unwrap_or_else(|| now.clone())),
            }
        }
        file.save()?;
        made.map(|kept| Some(Self::describe(&now, &kept)))
    }
}

/// Number of a NIC's channels, as a shared setting.
pub(crate) struct Channels;

impl SharedSetting for Channels {
    type Value = ChannelCounts;

    fn entry(journal: &mut Journal) -> &mut Option<Setting<ChannelCounts>> {
        &mut journal.channels
    }

    fn is_needed(claim: &Claim) -> bool {
        claim.needs.channels.is_some()
    }

    fn read(nic: &mut Nic) -> Result<ChannelCounts, Error> {
        nic.channels()
    }

    fn goal(_: &mut Nic, before: &ChannelCounts, claims: &[Claim]) -> Result<ChannelCounts, Error> {
        Ok(channels_goal(*before, claims))
    }

    fn set(nic: &mut Nic, to: &ChannelCounts) -> Result<ChannelCounts, Error> {
        nic.set_channels(to).map(|()| *to)
    }

    fn describe(from: &ChannelCounts, to: &ChannelCounts) -> (String, String) {
        (format!("channels {from}"), to.to_string())
    }
}

/// Ring sizes, header split and its threshold, as a shared setting.
pub(crate) struct Rings;

impl SharedSetting for Rings {
    type Value = RingValues;

    fn entry(journal: &mut Journal) -> &mut Option<Setting<RingValues>> {
        &mut journal.rings
    }

    fn is_needed(claim: &Claim) -> bool {
        claim.needs.split || claim.needs.rx_ring.is_some()
    }

    fn read(nic: &mut Nic) -> Result<RingValues, Error> {
        nic.rings()
    }

    fn goal(_: &mut Nic, before: &RingValues, claims: &[Claim]) -> Result<RingValues, Error> {
        Ok(rings_goal(before, claims))
    }

    fn set(nic: &mut Nic, to: &RingValues) -> Result<RingValues, Error> {
        nic.set_rings(to)
    }

    fn restore(nic: &mut Nic, to: &RingValues) -> Result<RingValues, Error> {
        nic.reset_rings(to)
    }

    fn describe(from: &RingValues, to: &RingValues) -> (String, String) {
        RingValues::differ(from, to)
    }

    /// Records each of the three ring values alone: the others may still be ours.
    fn adopt(setting: &mut Setting<RingValues>, now: &RingValues) {
        if !setting.knows_part(now, |rings| &rings.rx) {
            setting.before.rx = now.rx;
        }
        if !setting.knows_part(now, |rings| &rings.split) {
            setting.before.split = now.split;
        }
        if !setting.knows_part(now, |rings| &rings.threshold) {
            setting.before.threshold = now.threshold;
        }
    }
}

/// RSS table without reserved queues, as a shared setting.
pub(crate) struct Table;

impl SharedSetting for Table {
    type Value = Vec<QueueId>;

    fn entry(journal: &mut Journal) -> &mut Option<Setting<Vec<QueueId>>> {
        &mut journal.table
    }

    /// Whether the claim needs the RSS table to be changed; a change of the channels may change the
    /// table, too.
    fn is_needed(claim: &Claim) -> bool {
        !claim.needs.reserved.is_empty() || claim.needs.channels.is_some()
    }

    fn read(nic: &mut Nic) -> Result<Vec<QueueId>, Error> {
        nic.table()
    }

    fn goal(nic: &mut Nic, before: &Vec<QueueId>, claims: &[Claim]) -> Result<Vec<QueueId>, Error> {
        let needs = claims.iter().map(|claim| &claim.needs);
        let reserved: Vec<QueueId> = needs.flat_map(|needs| needs.reserved.clone()).collect();
        let free = nic.free_queues()?;
        let goal = table_goal(before, &reserved, &free)
            .ok_or_else(|| Error::NoOtherQueue { device: nic.name() })?;
        // With more channels some drivers have longer tables.
        Ok(fit_table(&goal, nic.table()?.len()))
    }

    fn set(nic: &mut Nic, to: &Vec<QueueId>) -> Result<Vec<QueueId>, Error> {
        nic.set_table(to).map(|()| to.clone())
    }

    fn restore(nic: &mut Nic, to: &Vec<QueueId>) -> Result<Vec<QueueId>, Error> {
        nic.reset_table(to).map(|()| to.clone())
    }

    fn describe(from: &Vec<QueueId>, to: &Vec<QueueId>) -> (String, String) {
        (format!("rss {}", table_text(from)), table_text(to))
    }
}

/// Whether flow rules are switched on, as a shared setting.
pub(crate) struct Ntuple;

impl SharedSetting for Ntuple {
    type Value = bool;

    fn entry(journal: &mut Journal) -> &mut Option<Setting<bool>> {
        &mut journal.ntuple
    }

    fn is_needed(claim: &Claim) -> bool {
        claim.needs.ntuple
    }

    fn read(nic: &mut Nic) -> Result<bool, Error> {
        nic.feature(nic::NTUPLE)
    }

    fn goal(_: &mut Nic, before: &bool, claims: &[Claim]) -> Result<bool, Error> {
        Ok(*before || claims.iter().any(Self::is_needed))
    }

    fn set(nic: &mut Nic, to: &bool) -> Result<bool, Error> {
        nic.set_feature(nic::NTUPLE, *to).map(|()| *to)
    }

    fn describe(from: &bool, to: &bool) -> (String, String) {
        (format!("ntuple {}", switch(*from)), switch(*to).to_owned())
    }
}

/// Whether the NIC coalesces packets (`rx-gro-hw`), as a shared setting.
pub(crate) struct GroHw;

impl SharedSetting for GroHw {
    type Value = bool;

    fn entry(journal: &mut Journal) -> &mut Option<Setting<bool>> {
        &mut journal.gro_hw
    }

    fn is_needed(claim: &Claim) -> bool {
        claim.needs.gro_hw
    }

    fn read(nic: &mut Nic) -> Result<bool, Error> {
        nic.feature(nic::GRO_HW)
    }

    fn goal(_: &mut Nic, before: &bool, claims: &[Claim]) -> Result<bool, Error> {
        Ok(*before || claims.iter().any(Self::is_needed))
    }

    fn set(nic: &mut Nic, to: &bool) -> Result<bool, Error> {
        nic.set_feature(nic::GRO_HW, *to).map(|()| *to)
    }

    fn describe(from: &bool, to: &bool) -> (String, String) {
        (
            format!("rx-gro-hw {}", switch(*from)),
            switch(*to).to_owned(),
        )
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
