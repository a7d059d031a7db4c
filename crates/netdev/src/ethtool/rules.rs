//! Flow rules of a device, by ioctl: netlink has none.

use std::collections::BTreeSet;
use std::io;

use netlink::{Error, Result};
use serde::Serialize;

use super::free_locations::FreeLocations;
use super::{Ethtool, FlowRule, Location};
use crate::sys::{self, RxNfc, cmd};
use crate::{Ifindex, ParseError};

/// Flag in the flow rule table's size of a driver that chooses a rule's location
/// (`RX_CLS_LOC_SPECIAL`).
const SPECIAL: u64 = 0x8000_0000;

const INSERT: &str = "ntuple-insert";

/// Greatest number of times that a table of flow rules is listed while rules come and go.
const MAX_LISTINGS: usize = 32;

/// Size and use of a device's table of flow rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RuleTable {
    /// Number of flow rules in the table.
    pub count: u32,
    /// Number of flow rules that the table has room for; `None` where the driver does not say.
    pub size: Option<u32>,
    /// Whether the driver accepts [`super::Location::Any`].
    pub chooses: bool,
}

impl Ethtool {
    /// Reads size and use of the table of flow rules (`ETHTOOL_GRXCLSRLCNT`). Some drivers report
    /// the size only with the list of the rules (`ETHTOOL_GRXCLSRLALL`): mlx5, ixgbe, igb.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device without flow rules.
    #[doc(alias = "ETHTOOL_GRXCLSRLCNT")]
    pub fn rule_table(&mut self, ifindex: Ifindex) -> Result<RuleTable> {
        let name = self.name(ifindex, "ntuple-get")?;
        let table = self.table(&name)?;
        match table.size {
            Some(_) => Ok(table),
            None => Ok(self.read_table_and_locations(&name)?.0),
        }
    }

    /// Lists the locations of all flow rules, also of kinds that [`super::Flow`] lacks
    /// (`ETHTOOL_GRXCLSRLALL`).
    ///
    /// # Errors
    /// As for [`Ethtool::rule_table`].
    #[doc(alias = "ETHTOOL_GRXCLSRLALL")]
    pub fn rule_locations(&mut self, ifindex: Ifindex) -> Result<Vec<u32>> {
        let name = self.name(ifindex, "ntuple-get")?;
        Ok(self.read_table_and_locations(&name)?.1)
    }

    /// Lists all flow rules of the kinds that [`super::Flow`] has. Rules of other kinds are left
    /// out, and so are rules that are deleted while they are listed (`ETHTOOL_GRXCLSRLALL`).
    ///
    /// # Errors
    /// As for [`Ethtool::rule_table`].
    #[doc(alias = "ETHTOOL_GRXCLSRLALL")]
    pub fn rules(&mut self, ifindex: Ifindex) -> Result<Vec<FlowRule>> {
        let name = self.name(ifindex, "ntuple-get")?;
        let mut rules = Vec::new();
        for location in self.read_table_and_locations(&name)?.1 {
            match self.read(&name, location) {
                Ok(Ok(rule)) => rules.push(rule),
                // A rule of another kind.
                Ok(Err(_)) => {}
                Err(error) if is_no_rule(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }

    /// Whether a flow rule of any kind is at this location.
    ///
    /// # Errors
    /// Those of the driver, other than that no rule is there.
    pub fn has_rule(&mut self, ifindex: Ifindex, location: u32) -> Result<bool> {
        let name = self.name(ifindex, "ntuple-get")?;
        match self.read(&name, location) {
            Ok(_) => Ok(true),
            Err(error) if is_no_rule(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads one flow rule (`ETHTOOL_GRXCLSRULE`).
    ///
    /// # Errors
    /// `ENOENT`, or another error of the driver, where no rule is at that location.
    #[doc(alias = "ETHTOOL_GRXCLSRULE")]
    pub fn rule(&mut self, ifindex: Ifindex, location: u32) -> Result<FlowRule> {
        let name = self.name(ifindex, "ntuple-get")?;
        let rule = self.read(&name, location)?;
        rule.map_err(|e| Error::malformed("ntuple-get", format!("{name} rule {location}"), e))
    }

    /// Adds a flow rule and returns its location in the table (`ETHTOOL_SRXCLSRLINS`).
    ///
    /// For [`Location::Any`] the driver chooses. Most drivers can't: then the highest free location
    /// is taken, as by `ethtool -N`.
    ///
    /// # Errors
    /// `EINVAL` for a queue, a context or a location that does not exist; `ENOSPC` for a full
    /// table; `EOPNOTSUPP` for what the device can't match. An ioctl has no error text.
    #[doc(alias = "ETHTOOL_SRXCLSRLINS")]
    pub fn insert_rule(&mut self, ifindex: Ifindex, rule: &FlowRule) -> Result<u32> {
        self.insert_rule_noted(ifindex, rule, |_| Ok(()))
    }

    /// Adds a flow rule like [`Ethtool::insert_rule`]. Where the driver does not choose, `note` is
    /// called with each location before the rule is put there; no rule was there until then.
    ///
    /// # Errors
    /// As for [`Ethtool::insert_rule`]; those of `note`, before a rule is put there.
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
            // A driver without rules refuses the insertion itself.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => None,
            table => Some(table?).filter(|table| !table.chooses),
        };
        if table.is_none() {
            return Ok(self.insert(&name, rule)?);
        }
        // The list may be outdated, and a driver may replace a rule: look at each location again.
        let (table, taken) = self.read_table_and_locations(&name)?;
        let mut locations = FreeLocations::new(taken, table.size);
        let mut location = locations.first();
        let mut refusal = None;
        while let Some(at) = location {
            if self.has_rule(ifindex, at)? {
                location = locations.after_clash(at);
                continue;
            }
            note(at)?;
            let located = FlowRule {
                location: Location::At(at),
                ..rule.clone()
            };
            let error = match self.insert(&name, &located) {
                Ok(location) => return Ok(location),
                Err(error) => error,
            };
            location = match error.raw_os_error() {
                // The rule itself was refused, unless another rule has come to the location.
                Some(libc::EEXIST | libc::EBUSY) if self.has_rule(ifindex, at)? => {
                    locations.after_clash(at)
                }
                Some(libc::ENOSPC | libc::ERANGE | libc::E2BIG) => locations.after_refusal(at),
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

    /// Deletes a flow rule (`ETHTOOL_SRXCLSRLDEL`).
    ///
    /// # Errors
    /// `ENOENT`, or another error of the driver, where no rule is at that location.
    #[doc(alias = "ETHTOOL_SRXCLSRLDEL")]
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

    /// Reads size and use of the flow rule table, and the locations of the rules. While rules come
    /// and go, they are listed until two lists agree, or after some tries all locations that were
    /// seen are returned. One list may silently be incomplete: mlx5 cuts it off where there are
    /// more rules than were counted.
    fn read_table_and_locations(&self, name: &str) -> Result<(RuleTable, Vec<u32>)> {
        let mut table = self.table(name)?;
        let (mut last, mut seen) = (None, BTreeSet::new());
        let mut failed = None;
        for _ in 0..MAX_LISTINGS {
            let answer = sys::locations(&self.0.socket, name, table.count);
            let now = self.table(name)?;
            // With a wrong count rules are left out, or the driver fails: `EMSGSIZE` of most,
            // `EINVAL` of mlx5.
            match answer {
                Ok(locations) => {
                    let size = u32::try_from(locations.size & !SPECIAL).ok();
                    table.size = table.size.or(size.filter(|&size| size != 0));
                    let locations = locations.rules;
                    let complete = locations.len() as u64 == u64::from(table.count);
                    if complete && now.count == table.count && last.as_ref() == Some(&locations) {
                        return Ok((table, locations));
                    }
                    seen.extend(&locations);
                    last = Some(locations);
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

/// Whether an error says that no flow rule is at a location: `ENOENT` of most drivers, `EINVAL` of
/// gve, bnxt and fbnic.
fn is_no_rule(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))
}
