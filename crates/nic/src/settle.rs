//! The settings that all on a NIC share: what they were, with what the claims need.

use netdev::{HeaderSplit, QueueId};

use crate::Error;
use crate::claim::Claim;
use crate::journal::{Journal, Open, Setting};
use crate::nic::{self, Nic};
use crate::rss::without_queues;
use crate::values::{ChannelCounts, RingValues, fit, table_text};

/// The rings that these claims need.
pub(crate) fn rings_goal(before: &RingValues, claims: &[Claim]) -> RingValues {
    let wished = claims.iter().filter_map(|claim| claim.needs.rx_ring).max();
    let goal = RingValues {
        rx: wished.max(before.rx),
        ..*before
    };
    match claims.iter().any(|claim| claim.needs.split) {
        true => goal.split(),
        false => goal,
    }
}

/// The channels that these claims need.
pub(crate) fn channels_goal(before: ChannelCounts, claims: &[Claim]) -> ChannelCounts {
    let wished = claims.iter().filter_map(|claim| claim.needs.channels).max();
    before.with_rx_queues(wished.unwrap_or(0))
}

/// The table without the queues that are reserved; `None` if no queue is left for it.
///
/// The others are those that RSS used, so that none comes into use that was kept out of it; all
/// `queues` of the NIC if it used only reserved ones.
pub(crate) fn table_goal(
    before: &[QueueId],
    reserved: &[QueueId],
    queues: u32,
) -> Option<Vec<QueueId>> {
    let mut others = before.to_vec();
    others.sort_unstable();
    others.dedup();
    if others.iter().all(|queue| reserved.contains(queue)) {
        others = (0..queues).map(QueueId::new).collect();
    }
    without_queues(before, reserved, &others)
}

/// Whether claims are added or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Taking,
    Leaving,
}

/// How a kind of setting is read and changed.
struct Kind<T> {
    /// What somebody else has made of it is what it was, from now on.
    adopt: fn(&mut Setting<T>, &T),
    slot: fn(&mut Journal) -> &mut Option<Setting<T>>,
    needed: fn(&Claim) -> bool,
    read: fn(&mut Nic) -> Result<T, Error>,
    goal: fn(&mut Nic, &T, &[Claim]) -> Result<T, Error>,
    set: fn(&mut Nic, &T) -> Result<T, Error>,
    /// Back to what it was.
    reset: fn(&mut Nic, &T) -> Result<T, Error>,
    /// In words: what it was, what it becomes.
    words: fn(&T, &T) -> (String, String),
}

const CHANNELS: Kind<ChannelCounts> = Kind {
    adopt: |setting, now| setting.before = *now,
    slot: |journal| &mut journal.channels,
    needed: |claim| claim.needs.channels.is_some(),
    read: Nic::channels,
    goal: |_, before, claims| Ok(channels_goal(*before, claims)),
    set: |nic, to| nic.set_channels(to).map(|()| *to),
    reset: |nic, to| nic.set_channels(to).map(|()| *to),
    words: |from, to| (format!("channels {from}"), to.to_string()),
};

const RINGS: Kind<RingValues> = Kind {
    // The other values are not his.
    adopt: |setting, now| {
        if !setting.knows_part(now, |rings| &rings.rx) {
            setting.before.rx = now.rx;
        }
        if !setting.knows_part(now, |rings| &rings.split) {
            setting.before.split = now.split;
        }
        if !setting.knows_part(now, |rings| &rings.threshold) {
            setting.before.threshold = now.threshold;
        }
    },
    slot: |journal| &mut journal.rings,
    needed: |claim| claim.needs.split || claim.needs.rx_ring.is_some(),
    read: Nic::rings,
    goal: |_, before, claims| Ok(rings_goal(before, claims)),
    set: Nic::set_rings,
    reset: Nic::reset_rings,
    words: RingValues::differ,
};

const TABLE: Kind<Vec<QueueId>> = Kind {
    adopt: |setting, now| setting.before.clone_from(now),
    slot: |journal| &mut journal.table,
    // A change of the channels may change the table.
    needed: |claim| !claim.needs.reserved.is_empty() || claim.needs.channels.is_some(),
    read: Nic::table,
    goal: |nic, before, claims| {
        let needs = claims.iter().map(|claim| &claim.needs);
        let reserved: Vec<QueueId> = needs.flat_map(|needs| needs.reserved.clone()).collect();
        let queues = nic.rx_queues()?;
        let goal = table_goal(before, &reserved, queues)
            .ok_or_else(|| Error::NoOtherQueue { device: nic.name() })?;
        // With more channels some drivers have longer tables.
        Ok(fit(&goal, nic.table()?.len()))
    },
    set: |nic, to| nic.set_table(to).map(|()| to.clone()),
    reset: |nic, to| nic.reset_table(to).map(|()| to.clone()),
    words: |from, to| (format!("rss {}", table_text(from)), table_text(to)),
};

const NTUPLE: Kind<bool> = Kind {
    adopt: |setting, now| setting.before = *now,
    slot: |journal| &mut journal.ntuple,
    needed: |claim| claim.needs.ntuple,
    read: |nic| nic.feature(nic::NTUPLE),
    goal: |_, before, claims| Ok(*before || claims.iter().any(|claim| claim.needs.ntuple)),
    set: |nic, to| nic.set_feature(nic::NTUPLE, *to).map(|()| *to),
    reset: |nic, to| nic.set_feature(nic::NTUPLE, *to).map(|()| *to),
    words: |from, to| (format!("ntuple {}", switch(from)), switch(to).to_owned()),
};

const GRO_HW: Kind<bool> = Kind {
    adopt: |setting, now| setting.before = *now,
    slot: |journal| &mut journal.gro_hw,
    needed: |claim| claim.needs.gro_hw,
    read: |nic| nic.feature(nic::GRO_HW),
    goal: |_, before, claims| Ok(*before || claims.iter().any(|claim| claim.needs.gro_hw)),
    set: |nic, to| nic.set_feature(nic::GRO_HW, *to).map(|()| *to),
    reset: |nic, to| nic.set_feature(nic::GRO_HW, *to).map(|()| *to),
    words: |from, to| (format!("rx-gro-hw {}", switch(from)), switch(to).to_owned()),
};

fn switch(on: &bool) -> &'static str {
    if *on { "on" } else { "off" }
}

/// What would become of a setting: what it is, what it would be; `None` where it stays.
pub(crate) type Step = Option<(String, String)>;

impl<T: PartialEq + Clone> Kind<T> {
    /// What `claims`, with the journal's own, would make of it. Changes nothing.
    fn preview(
        &self,
        nic: &mut Nic,
        journal: &mut Journal,
        claims: &[Claim],
    ) -> Result<Step, Error> {
        // As `settle` has it: what nobody needs any more goes back.
        if (self.slot)(journal).is_none() && !claims.iter().any(self.needed) {
            return Ok(None);
        }
        let now = (self.read)(nic)?;
        let before = match (self.slot)(journal) {
            Some(setting) => {
                self.heed(setting, &now);
                setting.before.clone()
            }
            None => now.clone(),
        };
        let goal = (self.goal)(nic, &before, claims)?;
        let setting = (self.slot)(journal).as_ref();
        let made = setting.is_some_and(|setting| setting.is_made(&goal, &now));
        Ok((goal != now && !made).then(|| (self.words)(&now, &goal)))
    }

    /// Takes what somebody else has made of it for what it was; says what that is, if it is so.
    fn heed(&self, setting: &mut Setting<T>, now: &T) -> Option<String> {
        let before = setting.before.clone();
        if !setting.knows(now) {
            (self.adopt)(setting, now);
        }
        (setting.before != before).then(|| {
            let (was, is) = (self.words)(&before, &setting.before);
            format!("{was} -> {is}")
        })
    }

    /// Makes it what the journal's claims need; says what it was and what it is, if that differs.
    fn settle(&self, nic: &mut Nic, open: &mut Open<'_>, way: Way) -> Result<Step, Error> {
        let claims = open.journal.claims.clone();
        if (self.slot)(&mut open.journal).is_none() && !claims.iter().any(self.needed) {
            return Ok(None);
        }
        let now = (self.read)(nic)?;
        let slot = (self.slot)(&mut open.journal);
        if slot.is_none() && way == Way::Leaving {
            return Ok(None);
        }
        let setting = slot.get_or_insert_with(|| Setting::new(now.clone()));
        if let Some(words) = self.heed(setting, &now) {
            let device = &nic.identity.name;
            tracing::warn!("{device}: somebody else has changed it: {words}, which stays");
        }
        let goal = (self.goal)(nic, &setting.before, &claims)?;
        if setting.is_made(&goal, &now) {
            return Ok(None);
        }
        let back = goal == setting.before;
        setting.intend(&goal);
        open.save()?;
        let made = match back {
            true => (self.reset)(nic, &goal),
            false => (self.set)(nic, &goal),
        };
        // Whatever a refusal left is of our making, too.
        let left = match &made {
            Ok(_) => None,
            Err(_) => Some((self.read)(nic).unwrap_or_else(|_| now.clone())),
        };
        if let Some(setting) = (self.slot)(&mut open.journal) {
            match (&made, left) {
                (Ok(kept), _) => setting.became(&goal, kept.clone()),
                (Err(_), left) => setting.stayed(left.unwrap_or_else(|| now.clone())),
            }
        }
        open.save()?;
        made.map(|kept| Some((self.words)(&now, &kept)))
    }
}

/// What these claims would change, before anything is.
pub(crate) fn preview(
    nic: &mut Nic,
    journal: &mut Journal,
    claims: &[Claim],
) -> Result<Vec<Step>, Error> {
    Ok(vec![
        CHANNELS.preview(nic, journal, claims)?,
        RINGS.preview(nic, journal, claims)?,
        TABLE.preview(nic, journal, claims)?,
    ])
}

/// What could not be taken back of the shared settings.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) table: Option<Error>,
    pub(crate) rings: Option<Error>,
    pub(crate) channels: Option<Error>,
    pub(crate) ntuple: Option<Error>,
}

/// Makes the shared settings what the claims that are left need.
pub(crate) fn leave(nic: &mut Nic, open: &mut Open<'_>) -> Kept {
    let mut kept = Kept {
        table: TABLE.settle(nic, open, Way::Leaving).err(),
        rings: leave_rings(nic, open).err(),
        channels: None,
        ntuple: leave_ntuple(nic, open).err(),
    };
    match leave_channels(nic, open) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let table = match open.journal.reserved().is_empty() {
                true => default_again(nic, open),
                false => follow(nic, open).and_then(|()| {
                    let _changed = TABLE.settle(nic, open, Way::Leaving)?;
                    Ok(())
                }),
            };
            kept.table = kept.table.or(table.err());
        }
        Err(error) => kept.channels = Some(error),
    }
    kept
}

/// The channels that the claims that are left need.
///
/// Before Linux 7.3 some drivers refuse while an RSS table is set, the one that was there before, too. The
/// default one has queues of others in it: it is for the last of them to ask for that.
fn leave_channels(nic: &mut Nic, open: &mut Open<'_>) -> Result<Step, Error> {
    match CHANNELS.settle(nic, open, Way::Leaving) {
        Err(Error::Refused(error)) if keeps_channels(&error) && open.journal.table.is_some() => {}
        step => return step,
    }
    if !open.journal.reserved().is_empty() {
        return Ok(None);
    }
    nic.default_table()?;
    follow(nic, open)?;
    let step = CHANNELS.settle(nic, open, Way::Leaving);
    if step.is_err() {
        TABLE.settle(nic, open, Way::Leaving)?;
    }
    step
}

/// As a driver says it that keeps its channels while an RSS table is set (`mlx5e_ethtool_set_channels`).
fn keeps_channels(error: &netdev::Error) -> bool {
    error.op() == "channels-set" && error.raw_os_error() == Some(libc::EINVAL)
}

/// Now that there are as many queues as before, it may be the default table again.
fn default_again(nic: &mut Nic, open: &Open<'_>) -> Result<(), Error> {
    match &open.journal.table {
        Some(table) => nic.reset_table(&table.before),
        None => Ok(()),
    }
}

/// Takes the table that a change of the channels has made for one of ours.
fn follow(nic: &mut Nic, open: &mut Open<'_>) -> Result<(), Error> {
    let table = nic.table()?;
    if let Some(setting) = &mut open.journal.table {
        setting.intend(&table);
    }
    open.save()
}

/// The rings that the claims need, and what the driver wants before it splits headers.
fn take_rings(nic: &mut Nic, open: &mut Open<'_>, id: u64) -> Result<(Step, Step), Error> {
    // Who builds on what was switched on for another one needs it, too.
    let mut needs_gro_hw = open.journal.gro_hw.is_some();
    let rings = match RINGS.settle(nic, open, Way::Taking) {
        Err(Error::Refused(error)) if wants_gro_hw(&error) && !nic.feature(nic::GRO_HW)? => {
            needs_gro_hw = true;
            None
        }
        rings => Some(rings?),
    };
    if let Some(claim) = open.journal.claim(id).filter(|claim| claim.needs.split) {
        claim.needs.gro_hw = needs_gro_hw;
    }
    let gro_hw = GRO_HW.settle(nic, open, Way::Taking)?;
    let rings = match rings {
        Some(rings) => rings,
        None => RINGS.settle(nic, open, Way::Taking)?,
    };
    let splits = open.journal.claims.iter().any(|claim| claim.needs.split);
    if splits && open.journal.split_was_auto.is_none() {
        let was = open.journal.rings.as_ref().map(|rings| rings.before.split);
        if was == Some(Some(HeaderSplit::Enabled)) {
            // What reads as on may be the driver's choice. Until that is known, it is taken for one.
            open.journal.split_was_auto = Some(true);
            open.save()?;
            let asked = nic.ask_for_split();
            open.journal.split_was_auto = asked.as_ref().ok().copied();
            open.save()?;
            asked?;
        }
    }
    Ok((gro_hw, rings))
}

/// As mlx5 says it (`mlx5e_ethtool_set_tcp_data_split`).
fn wants_gro_hw(error: &netdev::Error) -> bool {
    let text = error.message().unwrap_or_default();
    error.op() == "rings-set" && text.contains("GRO HW")
}

/// The rings that the claims that are left need.
fn leave_rings(nic: &mut Nic, open: &mut Open<'_>) -> Result<(), Error> {
    RINGS.settle(nic, open, Way::Leaving)?;
    let splits = open.journal.claims.iter().any(|claim| claim.needs.split);
    if !splits && open.journal.split_was_auto == Some(true) {
        let was = open.journal.rings.as_ref();
        nic.leave_split(was.and_then(|rings| rings.before.split))?;
    }
    if !splits {
        open.journal.split_was_auto = None;
    }
    GRO_HW.settle(nic, open, Way::Leaving)?;
    Ok(())
}

/// Switches flow rules on for a claim; says what changed.
pub(crate) fn take_ntuple(nic: &mut Nic, open: &mut Open<'_>) -> Result<Step, Error> {
    if open.journal.ntuple.is_none() {
        open.journal.rules_before = nic.rule_places()?;
    }
    NTUPLE.settle(nic, open, Way::Taking)
}

/// Switches flow rules off again, unless others have added some meanwhile: many drivers would remove them.
fn leave_ntuple(nic: &mut Nic, open: &mut Open<'_>) -> Result<Step, Error> {
    let needed = open.journal.claims.iter().any(NTUPLE.needed);
    if open.journal.ntuple.is_some() && !needed && nic.feature(nic::NTUPLE)? {
        let places = nic.rule_places()?;
        let before = &open.journal.rules_before;
        if let Some(place) = places.iter().find(|place| !before.contains(place)) {
            let device = &nic.identity.name;
            tracing::warn!("{device}: ntuple stays on: somebody has added rule {place} meanwhile");
            open.journal.ntuple = None;
            return Ok(None);
        }
    }
    NTUPLE.settle(nic, open, Way::Leaving)
}

/// Makes the shared settings what the claims need; says what changed.
pub(crate) fn take(nic: &mut Nic, open: &mut Open<'_>, id: u64) -> Result<Vec<Step>, Error> {
    // What the table was, before the channels change it.
    if open.journal.table.is_none() && open.journal.claims.iter().any(TABLE.needed) {
        open.journal.table = Some(Setting::new(nic.table()?));
    }
    let channels = match CHANNELS.settle(nic, open, Way::Taking) {
        Err(Error::Refused(error)) if keeps_channels(&error) && nic.table_is_set()? => {
            return Err(Error::TableIsSet {
                device: nic.name(),
                error,
                needed: open
                    .journal
                    .claims
                    .iter()
                    .any(|claim| claim.id != id && !claim.needs.reserved.is_empty()),
            });
        }
        channels => channels?,
    };
    if channels.is_some() {
        follow(nic, open)?;
    }
    let (gro_hw, rings) = take_rings(nic, open, id)?;
    let table = TABLE.settle(nic, open, Way::Taking)?;
    Ok(vec![channels, gro_hw, rings, table])
}

#[cfg(test)]
mod tests {
    use netdev::HeaderSplit;
    use proptest::prelude::*;

    use super::*;
    use crate::claim::Needs;

    fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<QueueId> {
        ids.into_iter().map(QueueId::new).collect()
    }

    fn claim(needs: Needs) -> Claim {
        Claim {
            id: 1,
            owner: None,
            needs,
            items: Vec::new(),
        }
    }

    const RINGS_BEFORE: RingValues = RingValues {
        rx: Some(256),
        split: Some(HeaderSplit::Disabled),
        threshold: Some(512),
    };

    const COMBINED: ChannelCounts = ChannelCounts {
        combined: 4,
        rx: 0,
        tx: 0,
    };

    #[test]
    fn without_claims_it_is_what_it_was() {
        assert_eq!(rings_goal(&RINGS_BEFORE, &[]), RINGS_BEFORE);
        assert_eq!(channels_goal(COMBINED, &[]), COMBINED);
        assert_eq!(table_goal(&ids([3, 1]), &[], 4), Some(ids([3, 1])));
    }

    #[test]
    fn what_one_of_two_needs_stays_when_the_other_ends() {
        let split = claim(Needs {
            split: true,
            ..Needs::default()
        });
        let ring = claim(Needs {
            rx_ring: Some(1024),
            channels: Some(8),
            ..Needs::default()
        });
        let both = rings_goal(&RINGS_BEFORE, &[split.clone(), ring.clone()]);
        assert_eq!(both.rx, Some(1024));
        assert_eq!(both.split, Some(HeaderSplit::Enabled));
        assert_eq!(both.threshold, Some(0));
        let one = rings_goal(&RINGS_BEFORE, &[split]);
        assert_eq!((one.rx, one.threshold), (Some(256), Some(0)));
        assert_eq!(
            rings_goal(&RINGS_BEFORE, std::slice::from_ref(&ring)).split,
            RINGS_BEFORE.split
        );
        let more = ChannelCounts {
            combined: 8,
            ..COMBINED
        };
        assert_eq!(channels_goal(COMBINED, &[ring]), more);
    }

    #[test]
    fn a_table_of_reserved_queues_alone_is_dealt_out_to_the_others() {
        assert_eq!(table_goal(&ids([1, 1]), &ids([1]), 3), Some(ids([0, 2])));
        assert_eq!(table_goal(&ids([0, 0]), &ids([0]), 1), None);
    }

    proptest! {
        /// In whatever order two end, none sees its queue in the table before it has ended.
        #[test]
        fn each_keeps_its_queues_until_it_ends(
            before in prop::collection::vec(0u32..8, 1..64),
            one in 0u32..4,
            other in 4u32..8,
        ) {
            let (before, one, other) = (ids(before), ids([one]), ids([other]));
            let both: Vec<_> = one.iter().chain(&other).copied().collect();
            let goal = table_goal(&before, &both, 9).unwrap();
            prop_assert!(goal.iter().all(|queue| !both.contains(queue)));
            let goal = table_goal(&before, &other, 9).unwrap();
            prop_assert!(goal.iter().all(|queue| !other.contains(queue)));
            prop_assert_eq!(table_goal(&before, &[], 9).unwrap(), before);
        }
    }
}
