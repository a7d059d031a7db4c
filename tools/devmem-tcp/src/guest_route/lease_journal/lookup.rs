//! Lookups in the journal: what the leases of all records have, need, or left behind.

use anyhow::Result;
use netdev::link::{LinkInfo, Rule};
use netdev::{Ifindex, Link, NetNs};

use super::{LeaseJournal, LeaseRecord};
use crate::guest_route::forward_filter;
use crate::guest_route::sysctl::{Sysctl, SysctlChange};

/// Rules of leases that the kernel does not have.
#[derive(Debug)]
pub(crate) struct MissingRules {
    /// Namespace of the rules.
    pub(crate) netns: NetNs,
    identity: (u64, u64),
    /// Netkits whose leases need them.
    pub(crate) netkits: Vec<String>,
    /// The rules, in the order in which they must be added.
    pub(crate) rules: Vec<Rule>,
}

impl LeaseJournal {
    /// Finds the record of an owner end.
    pub(crate) fn record_of(
        &self,
        netns: &NetNs,
        owner_end: &LinkInfo,
    ) -> Result<Option<&LeaseRecord>> {
        let identity = netns.identity()?;
        let links = Link::open_in(netns)?;
        Ok(self.all.iter().find(|record| {
            let known = record.owner_end.ifindex;
            record.owner_netns == identity
                && record.is_in(&links)
                && known.map_or(record.owner_end.name == owner_end.name, |it| {
                    it == owner_end.ifindex
                })
        }))
    }

    /// Records whose owner end is, or was, in the current namespace.
    fn here(&self) -> Result<impl Iterator<Item = &LeaseRecord>> {
        let here = self.here.identity()?;
        Ok(self
            .all
            .iter()
            .filter(move |record| record.owner_netns == here && record.is_in(&self.links)))
    }

    /// Change of a sysctl here that a lease recorded, whether or not its netkit exists.
    pub(crate) fn noted(
        &self,
        ifindex: Option<Ifindex>,
        key: Sysctl,
    ) -> Result<Option<&SysctlChange>> {
        let mut changes = self.here()?.flat_map(|record| &record.settings);
        Ok(changes.find(|change| change.is_same(ifindex, key)))
    }

    /// Whether a lease recorded that the large receive offload of this NIC, which is in this
    /// namespace, was switched off.
    pub(crate) fn noted_lro(&self, nic: Ifindex) -> Result<bool> {
        Ok(self.here()?.any(|record| {
            let device = record.lro.as_ref();
            device.is_some_and(|device| device.ifindex == Some(nic))
        }))
    }

    /// Finds the owner end of a record, if it exists.
    ///
    /// # Errors
    /// Where it may be in a namespace that can't be seen or entered: not found does not mean gone.
    pub(super) fn find(&mut self, record: &LeaseRecord) -> Result<Option<(NetNs, LinkInfo)>> {
        if record.owner_netns == self.here.identity()? {
            let found = record.find_owner_end(&mut self.links)?;
            return Ok(found.map(|link| (self.here.clone(), link)));
        }
        record.find_elsewhere()
    }

    /// Records whose netkit is gone, and which can be cleared from here. With `sure`, fails where
    /// that is not known of one.
    pub(crate) fn stale(&mut self, sure: bool) -> Result<Vec<LeaseRecord>> {
        let here = self.here.identity()?;
        let mut stale = Vec::new();
        for record in self.all.clone() {
            // A host end in another namespace is left to commands in that one, unless that is gone.
            if record.owner_netns != here && record.pair {
                if sure && matches!(record.netns_elsewhere(), Ok(None)) {
                    stale.push(record);
                }
                continue;
            }
            match self.find(&record) {
                Ok(None) => stale.push(record),
                Err(error) if sure => return Err(error),
                _ => {}
            }
        }
        Ok(stale)
    }

    /// Rules that leases in the current namespace need whose netkits exist.
    pub(crate) fn needed_rules(&mut self) -> Result<Vec<Rule>> {
        let mut needed = Vec::new();
        let ours: Vec<LeaseRecord> = self.here()?.cloned().collect();
        for record in ours {
            if record.find_owner_end(&mut self.links)?.is_some() {
                needed.extend(record.rules);
            }
        }
        Ok(needed)
    }

    /// Rules that leases need whose netkits exist, and that the kernel does not have, for each
    /// namespace. Namespaces that can't be looked into are left out.
    pub(crate) fn missing_rules(&mut self) -> Result<Vec<MissingRules>> {
        let mut all: Vec<MissingRules> = Vec::new();
        for record in self.all.clone() {
            if record.rules.is_empty() {
                continue;
            }
            let Ok(Some((netns, _))) = self.find(&record) else {
                continue;
            };
            let known = Link::open_in(&netns)?.rules()?;
            let mut rules = record.rules;
            rules.retain(|rule| !known.contains(rule));
            if rules.is_empty() {
                continue;
            }
            let identity = netns.identity()?;
            let same = |other: &&mut MissingRules| other.identity == identity;
            match all.iter_mut().find(same) {
                Some(missing) => {
                    missing.netkits.push(record.netkit);
                    rules.retain(|rule| !missing.rules.contains(rule));
                    missing.rules.extend(rules);
                }
                None => all.push(MissingRules {
                    netns,
                    identity,
                    netkits: vec![record.netkit],
                    rules,
                }),
            }
        }
        for missing in &mut all {
            forward_filter::sort(&mut missing.rules);
        }
        Ok(all)
    }
}
