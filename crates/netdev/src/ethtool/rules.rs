//! The table of flow rules, by ioctl: netlink has none.

use std::collections::BTreeSet;
use std::io;

use netlink::{Error, Result};
use serde::Serialize;

use super::places::Places;
use super::{Ethtool, FlowRule, Location};
use crate::sys::{self, RxNfc, cmd};
use crate::{Ifindex, ParseError};

/// In the table's size: the driver can choose a rule's place (`RX_CLS_LOC_SPECIAL`).
const SPECIAL: u64 = 0x8000_0000;

const INSERT: &str = "ntuple-insert";

/// How often a table is listed at most while rules come and go.
const LISTINGS: usize = 32;

/// A table of flow rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RuleTable {
    /// How many rules it holds.
    pub count: u32,
    /// For how many it has room; `None` where the driver does not say.
    pub size: Option<u32>,
    /// Whether the driver takes [`super::Location::Any`].
    pub chooses: bool,
}

impl Ethtool {
    /// The table of flow rules (`ETHTOOL_GRXCLSRLCNT`). Some drivers give its size only with
    /// the list of the rules (`ETHTOOL_GRXCLSRLALL`): mlx5, ixgbe, igb.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without flow rules.
    pub fn rule_table(&mut self, ifindex: Ifindex) -> Result<RuleTable> {
        let name = self.name(ifindex, "ntuple-get")?;
        let table = self.table(&name)?;
        match table.size {
            Some(_) => Ok(table),
            None => Ok(self.listed(&name)?.0),
        }
    }

    /// The places of all rules, of kinds that [`super::Flow`] lacks, too
    /// (`ETHTOOL_GRXCLSRLALL`).
    ///
    /// # Errors
    /// As for [`Ethtool::rule_table`].
    pub fn rule_places(&mut self, ifindex: Ifindex) -> Result<Vec<u32>> {
        let name = self.name(ifindex, "ntuple-get")?;
        Ok(self.listed(&name)?.1)
    }

    /// All rules of the kinds that [`super::Flow`] has; others are left out, and so are those that
    /// are deleted while they are listed (`ETHTOOL_GRXCLSRLALL`).
    ///
    /// # Errors
    /// As for [`Ethtool::rule_table`].
    pub fn rules(&mut self, ifindex: Ifindex) -> Result<Vec<FlowRule>> {
        let name = self.name(ifindex, "ntuple-get")?;
        let mut rules = Vec::new();
        for location in self.listed(&name)?.1 {
            match self.read(&name, location) {
                Ok(Ok(rule)) => rules.push(rule),
                // Another kind of rule is none of ours.
                Ok(Err(_)) => {}
                Err(error) if is_no_rule(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }

    /// Whether a rule is at this place, of whatever kind.
    ///
    /// # Errors
    /// What the driver says, other than that there is none.
    pub fn has_rule(&mut self, ifindex: Ifindex, location: u32) -> Result<bool> {
        let name = self.name(ifindex, "ntuple-get")?;
        match self.read(&name, location) {
            Ok(_) => Ok(true),
            Err(error) if is_no_rule(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One rule (`ETHTOOL_GRXCLSRULE`).
    ///
    /// # Errors
    /// `ENOENT`, or what else the driver says, where there is none at that place.
    pub fn rule(&mut self, ifindex: Ifindex, location: u32) -> Result<FlowRule> {
        let name = self.name(ifindex, "ntuple-get")?;
        let rule = self.read(&name, location)?;
        rule.map_err(|e| Error::malformed("ntuple-get", format!("{name} rule {location}"), e))
    }

    /// Adds a rule and returns its place in the table (`ETHTOOL_SRXCLSRLINS`).
    ///
    /// At [`Location::Any`] the driver chooses, or, as most don't, a free place is looked for, from the
    /// top downwards as `ethtool -N` does.
    ///
    /// # Errors
    /// `EINVAL` for a queue, a context or a place that does not exist; `ENOSPC` for a full table;
    /// `EOPNOTSUPP` for what the device can't. The ioctl knows no texts.
    pub fn insert_rule(&mut self, ifindex: Ifindex, rule: &FlowRule) -> Result<u32> {
        self.insert_rule_noted(ifindex, rule, |_| Ok(()))
    }

    /// The same. Where the driver does not choose, `note` is given each place before the rule is put
    /// there: until then no rule was.
    ///
    /// # Errors
    /// As for [`Ethtool::insert_rule`]; those of `note`, before anything is put there.
    pub fn insert_rule_noted<E: From<Error>>(
        &mut self,
        ifindex: Ifindex,
        rule: &FlowRule,
        mut note: impl FnMut(u32) -> std::result::Result<(), E>,
    ) -> std::result::Result<u32, E> {
        let name = self.name(ifindex, INSERT)?;
        if rule.location != Location::Any {
            return Ok(self.insert(&name, rule)?);
        }
        let table = match self.table(&name) {
            // A driver without rules says so when it is given one.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => None,
            table => Some(table?).filter(|table| !table.chooses),
        };
        if table.is_none() {
            return Ok(self.insert(&name, rule)?);
        }
        // The list may be old, and a driver may replace what it finds: each place is looked at once more.
        let (table, taken) = self.listed(&name)?;
        let mut places = Places::new(taken, table.size);
        let mut place = places.first();
        let mut refusal = None;
        while let Some(at) = place {
            if self.has_rule(ifindex, at)? {
                place = places.after_clash(at);
                continue;
            }
            note(at)?;
            let placed = FlowRule {
                location: Location::At(at),
                ..rule.clone()
            };
            let error = match self.insert(&name, &placed) {
                Ok(location) => return Ok(location),
                Err(error) => error,
            };
            place = match error.raw_os_error() {
                // Of the rule itself, unless another one has come there.
                Some(libc::EEXIST | libc::EBUSY) if self.has_rule(ifindex, at)? => {
                    places.after_clash(at)
                }
                Some(libc::ENOSPC | libc::ERANGE | libc::E2BIG) => places.after_refusal(at),
                _ => return Err(error.into()),
            };
            refusal = refusal.or(Some(error));
        }
        let full = || Error::from_errno(INSERT, &name, libc::ENOSPC);
        Err(refusal.unwrap_or_else(full).into())
    }

    fn insert(&self, name: &str, rule: &FlowRule) -> Result<u32> {
        let nfc = rule.encode(cmd::SRXCLSRLINS);
        let mut nfc = nfc.map_err(|why| Error::invalid(INSERT, name, why))?;
        self.command(name, &mut nfc)
            .map_err(|e| Error::from_io(INSERT, name, &e))?;
        Ok(nfc.fs.location)
    }

    /// Removes a rule (`ETHTOOL_SRXCLSRLDEL`).
    ///
    /// # Errors
    /// `ENOENT`, or what else the driver says, where there is none at that place.
    pub fn delete_rule(&mut self, ifindex: Ifindex, location: u32) -> Result<()> {
        let op = "ntuple-delete";
        let name = self.name(ifindex, op)?;
        let mut nfc = RxNfc::new(cmd::SRXCLSRLDEL);
        nfc.fs.location = location;
        let done = self.command(&name, &mut nfc);
        done.map_err(|e| Error::from_io(op, format!("{name} rule {location}"), &e))
    }

    fn table(&self, name: &str) -> Result<RuleTable> {
        let mut nfc = RxNfc::new(cmd::GRXCLSRLCNT);
        let done = self.command(name, &mut nfc);
        done.map_err(|e| Error::from_io("ntuple-get", name, &e))?;
        let size = u32::try_from(nfc.data & !SPECIAL)
            .ok()
            .filter(|&size| size != 0);
        Ok(RuleTable {
            count: nfc.count_or_context,
            size,
            chooses: nfc.data & SPECIAL != 0,
        })
    }

    /// The table and where its rules are. While rules come and go it is listed until two lists agree, or
    /// else until some have been made: then wherever a rule was seen. One list may leave rules out
    /// without a word: mlx5 cuts it off where there are more than were counted.
    fn listed(&self, name: &str) -> Result<(RuleTable, Vec<u32>)> {
        let mut table = self.table(name)?;
        let (mut last, mut seen) = (None, BTreeSet::new());
        let mut failed = None;
        for _ in 0..LISTINGS {
            let answer = sys::locations(&self.0.socket, name, table.count);
            let now = self.table(name)?;
            // With the wrong count rules are left out, or the driver fails: `EMSGSIZE` of most,
            // `EINVAL` of mlx5.
            match answer {
                Ok(locations) => {
                    let size = u32::try_from(locations.size & !SPECIAL).ok();
                    table.size = table.size.or(size.filter(|&size| size != 0));
                    let places = locations.rules;
                    let complete = places.len() as u64 == u64::from(table.count);
                    if complete && now.count == table.count && last.as_ref() == Some(&places) {
                        return Ok((table, places));
                    }
                    seen.extend(&places);
                    last = Some(places);
                }
                Err(error) => failed = Some(Error::from_io("ntuple-get", name, &error)),
            }
            table = RuleTable {
                size: table.size,
                ..now
            };
        }
        match (last, failed) {
            (None, Some(error)) => Err(error),
            _ => Ok((table, seen.into_iter().collect())),
        }
    }

    fn read(&self, name: &str, location: u32) -> Result<std::result::Result<FlowRule, ParseError>> {
        let mut nfc = RxNfc::new(cmd::GRXCLSRULE);
        nfc.fs.location = location;
        let done = self.command(name, &mut nfc);
        done.map_err(|e| Error::from_io("ntuple-get", format!("{name} rule {location}"), &e))?;
        Ok(FlowRule::decode(&nfc))
    }

    fn command(&self, name: &str, nfc: &mut RxNfc) -> io::Result<()> {
        sys::rxnfc(&self.0.socket, name, nfc)
    }
}

/// Whether an error says that no rule is at a place: `ENOENT` of most drivers, `EINVAL` of gve, bnxt and
/// fbnic.
fn is_no_rule(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))
}
