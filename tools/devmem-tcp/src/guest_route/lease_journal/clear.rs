//! Restoring what a lease changed.

use std::collections::BTreeSet;
use std::mem;

use anyhow::Result;
use netdev::link::Rule;
use netdev::{Ethtool, Ifindex, Link, NetNs};
use serde::Serialize;

use super::{Device, LRO, LeaseJournal, LeaseRecord, ProxyEntry};
use crate::guest_route::sysctl::{Restored, Sysctl, SysctlChange};

/// Changes of a lease that were undone, for the report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cleared {
    /// Sysctls that have their former value: `net.ipv4.conf.eth0.forwarding = 0`.
    pub(crate) restored: Vec<String>,
    /// Sysctls that were not restored, each with the reason.
    pub(crate) kept: Vec<String>,
    /// Policy routing rules that were removed, in the syntax of `ip rule`.
    pub(crate) rules: Vec<String>,
    /// Proxy entries that were removed: `192.0.2.9 on eth0`.
    pub(crate) proxies: Vec<String>,
}

impl LeaseJournal {
    /// Restores what the lease of this record changed outside of its netkit, except for what other
    /// leases need, and removes the record. The netkit must be gone.
    ///
    /// All changes are in the owner end's namespace, and restored there. If something fails, the
    /// rest is still done, and the record stays.
    ///
    /// # Errors
    /// Where that namespace can't be seen or entered.
    pub(crate) fn clear(&mut self, record: &LeaseRecord, dry_run: bool) -> Result<Cleared> {
        let Some(netns) = self.netns_of(record)? else {
            // All changes are gone with the namespace.
            if !dry_run {
                self.remove(record)?;
            }
            return Ok(Cleared::default());
        };
        let links = Link::open_in(&netns)?;
        let here = mem::replace(&mut self.here, netns.clone());
        let links = mem::replace(&mut self.links, links);
        let cleared = netns.run(|| self.clear_here(record, dry_run));
        (self.here, self.links) = (here, links);
        cleared?
    }

    /// Restores what an earlier netkit with an owner end of this name left, which is gone: its record would be
    /// overwritten with that of the next one.
    pub(crate) fn clear_namesake(&mut self, owner_end: &Device, netns: &NetNs) -> Result<()> {
        let netns = netns.identity()?;
        for stale in self.stale(false)? {
            if stale.owner_end.name == owner_end.name && stale.owner_netns == netns {
                self.clear(&stale, false)?;
            }
        }
        Ok(())
    }

    /// Namespace that a record's changes were made in; `None` if it is gone.
    fn netns_of(&self, record: &LeaseRecord) -> Result<Option<NetNs>> {
        // Nothing is changed outside of a single.
        if !record.pair {
            return Ok(Some(self.here.clone()));
        }
        if record.owner_netns != self.here.identity()? {
            return record.netns_elsewhere();
        }
        Ok(Some(self.here.clone()).filter(|_| record.is_in(&self.links)))
    }

    /// Restores the changes of a lease like [`LeaseJournal::clear`], in this namespace.
    fn clear_here(&mut self, record: &LeaseRecord, dry_run: bool) -> Result<Cleared> {
        let mut cleared = Cleared::default();
        let mut failures = Vec::new();
        let needed = self.needed_by_others(record)?;
        for proxy in &record.proxies {
            let text = format!("{} on {}", proxy.addr, proxy.device.name);
            match self.drop_proxy(proxy, dry_run) {
                Ok(true) => cleared.proxies.push(text),
                Ok(false) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        for change in &record.settings {
            let other = needed
                .iter()
                .find(|(ifindex, key, _)| change.is_same(*ifindex, *key));
            let done = match other {
                Some((.., netkit)) => {
                    cleared
                        .kept
                        .push(format!("{change}: {netkit} still needs it"));
                    continue;
                }
                None => self.restore_sysctl(change, dry_run),
            };
            match done {
                Ok(Some(Restored::Yes)) => {
                    cleared
                        .restored
                        .push(format!("{change} = {}", change.setting.before));
                }
                Ok(Some(Restored::ChangedByOthers)) => {
                    let text = format!("{change}: another program has set it since");
                    cleared.kept.push(text);
                }
                // The sysctls are gone with the device.
                Ok(None) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        // After the sysctls: until then the rules keep others' packets out.
        for rule in self.rules_of_no_other_lease(record)? {
            match self.drop_rule(&rule, dry_run) {
                Ok(true) => cleared.rules.push(rule.to_string()),
                Ok(false) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        if let Some(nic) = &record.lro {
            // Leases of another NIC don't need this one.
            let forwards = needed.iter().any(|(of, key, _)| {
                *of == nic.ifindex
                    && matches!(key, Sysctl::Forward4 | Sysctl::Forward6 | Sysctl::Router6)
            });
            match self.restore_lro(nic, forwards, dry_run) {
                Ok(Some(text)) => cleared.restored.push(text),
                Ok(None) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        if !failures.is_empty() {
            anyhow::bail!("not everything was put back: {}", failures.join("; "));
        }
        if !dry_run {
            self.remove(record)?;
        }
        Ok(cleared)
    }

    /// Finds the sysctls that other leases need, whose netkits exist.
    fn needed_by_others(
        &mut self,
        record: &LeaseRecord,
    ) -> Result<Vec<(Option<Ifindex>, Sysctl, String)>> {
        let mut needed = Vec::new();
        let others: Vec<LeaseRecord> = self
            .all
            .iter()
            .filter(|other| {
                other.file() != record.file() && other.owner_netns == record.owner_netns
            })
            .cloned()
            .collect();
        for other in others {
            // If it is not known whether the netkit exists, its lease may need them.
            if !matches!(self.find(&other), Ok(None)) {
                let switches = other.settings.iter();
                needed.extend(
                    switches.map(|change| (change.ifindex, change.key, other.netkit.clone())),
                );
            }
        }
        Ok(needed)
    }

    /// Finds the policy routing rules of a lease that no other lease needs.
    fn rules_of_no_other_lease(&mut self, record: &LeaseRecord) -> Result<Vec<Rule>> {
        let mut rules = record.rules.clone();
        let others = self.all.iter().filter(|other| {
            other.file() != record.file() && other.owner_netns == record.owner_netns
        });
        for other in others.cloned().collect::<Vec<_>>() {
            // If it is not known whether the netkit exists, its lease may need them.
            if !matches!(self.find(&other), Ok(None)) {
                rules.retain(|rule| !other.rules.contains(rule));
            }
        }
        Ok(rules)
    }

    /// Removes a policy routing rule, and returns whether it existed, which a dry run assumes.
    fn drop_rule(&mut self, rule: &Rule, dry_run: bool) -> Result<bool> {
        if dry_run {
            return Ok(true);
        }
        match self.links.delete_rule(rule) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a proxy entry, and returns whether it existed.
    fn drop_proxy(&mut self, proxy: &ProxyEntry, dry_run: bool) -> Result<bool> {
        let Some(ifindex) = proxy.device.ifindex else {
            return Ok(false);
        };
        let entries = self.links.proxies()?;
        let there = entries
            .iter()
            .any(|entry| entry.ifindex == ifindex && entry.addr == proxy.addr);
        if there && !dry_run {
            self.links.delete_proxy(ifindex, proxy.addr)?;
        }
        Ok(there)
    }

    /// Switches a NIC's large receive offload on again, unless it still forwards, and describes
    /// that.
    fn restore_lro(&mut self, nic: &Device, needed: bool, dry_run: bool) -> Result<Option<String>> {
        let Some(ifindex) = nic.ifindex.filter(|_| !needed) else {
            return Ok(None);
        };
        let link = match self.links.get(ifindex) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut ethtool = Ethtool::open()?;
        if ethtool.features(ifindex)?.active.contains(LRO) {
            return Ok(None);
        }
        if !dry_run {
            // If another program made a router of the device since, it stays off.
            for key in [Sysctl::Forward4, Sysctl::Router6] {
                if key.read(&link.name).is_ok_and(|value| value != "0") {
                    return Ok(None);
                }
            }
            ethtool.set_feature(ifindex, LRO, true)?;
        }
        Ok(Some(format!("{LRO} of {} = on", link.name)))
    }

    /// Restores a sysctl; `None` if its device is gone.
    fn restore_sysctl(&mut self, change: &SysctlChange, dry_run: bool) -> Result<Option<Restored>> {
        let Some(ifindex) = change.ifindex else {
            return Ok(None);
        };
        // By its number, because the device may have another name now.
        let link = match self.links.get(ifindex) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(change.restore(&link.name, dry_run)?))
    }
}

/// Restores what leases changed whose netkits are gone, with a report of each.
pub(crate) fn clear_stale(dry_run: bool) -> Result<Vec<(LeaseRecord, Cleared)>> {
    let mut journal = LeaseJournal::open(dry_run)?;
    let mut done = Vec::new();
    let mut failures = BTreeSet::new();
    for record in journal.stale(true)? {
        match journal.clear(&record, dry_run) {
            Ok(cleared) => done.push((record, cleared)),
            Err(error) => {
                failures.insert(format!("{}: {error:#}", record.netkit));
            }
        }
    }
    match failures.is_empty() {
        true => Ok(done),
        false => anyhow::bail!("{}", failures.into_iter().collect::<Vec<_>>().join("; ")),
    }
}
