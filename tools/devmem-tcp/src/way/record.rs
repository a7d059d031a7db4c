//! What a lease leaves outside of its netkit, noted in the runtime directory, so that its end can
//! put everything back.
//!
//! A file for each lease, `lease-NUMBER-DEVICE.json`: the inode of the namespace and the name of the
//! netkit's end that decides over its life. It is written before the first change. When a switch is
//! shared, each lease that needs it notes the value from before the first of them; the last one
//! to end puts it back.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use netdev::{Ethtool, Ifindex, Link, LinkInfo, NetNs, Rule};
use nic::{Locked, RunDir, RunDirError, boot_id};
use serde::{Deserialize, Serialize};

use crate::remedy::Hint;

use super::setting::{Change, Key, Restored};

/// The feature that a NIC loses when it forwards (`dev_disable_lro`), as `ethtool -k` has it in the
/// kernel's own names.
pub(crate) const LRO: &str = "rx-lro";

/// What the files' names begin with.
const PREFIX: &str = "lease-";

/// A device as it was when it was noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// `None` if it was yet to be made.
    pub(crate) ifindex: Option<Ifindex>,
}

/// An address that a device answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyEntry {
    pub(crate) device: Device,
    pub(crate) addr: IpAddr,
}

/// What was noted of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The boot in which that was.
    pub(crate) boot: String,
    /// The netkit that leases, and how its namespace was called.
    pub(crate) netkit: String,
    pub(crate) netns: String,
    /// Whether the netkit was made for the lease.
    pub(crate) made: bool,
    /// The end that decides over the netkit's life: of a pair the host end, else the device itself.
    pub(crate) anchor: Device,
    /// Whether that is a host end.
    pub(crate) pair: bool,
    /// The namespace that the anchor is in: device and inode.
    pub(crate) anchor_netns: (u64, u64),
    /// The same by a number that is not used again.
    #[serde(default)]
    pub(crate) anchor_cookie: Option<u64>,
    /// The guest's addresses, for people to read.
    pub(crate) addresses: Vec<String>,
    /// Switches that were put on, of devices in the anchor's namespace.
    pub(crate) settings: Vec<Change>,
    /// Policy routing rules that were made there.
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
    /// Proxy entries that were made there.
    pub(crate) proxies: Vec<ProxyEntry>,
    /// The NIC whose large receive offload the kernel switched off, as it does for one that
    /// forwards.
    pub(crate) lro: Option<Device>,
}

impl Record {
    /// Its file.
    pub(crate) fn file(&self) -> String {
        format!("{PREFIX}{}-{}.json", self.anchor_netns.1, self.anchor.name)
    }

    /// Whether the anchor's namespace is that of `links`, and not one that got its inode.
    fn is_in(&self, links: &Link) -> bool {
        match (self.anchor_cookie, links.netns_cookie()) {
            (Some(known), Ok(cookie)) => known == cookie,
            _ => true,
        }
    }

    /// The anchor, if it is still there, in the namespace of `links`.
    pub(crate) fn find_anchor(&self, links: &mut Link) -> Result<Option<LinkInfo>> {
        if !self.is_in(links) {
            return Ok(None);
        }
        let found = match self.anchor.ifindex {
            // Numbers are not used twice in a namespace until they run out (`dev_index_reserve`).
            Some(ifindex) => links.get(ifindex),
            None => links.by_name(&self.anchor.name),
        };
        match found {
            Ok(link) => Ok(Some(link).filter(|link| link.kind.as_deref() == Some("netkit"))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Record {
    /// The anchor in a namespace other than the present one, if it is there.
    ///
    /// # Errors
    /// Where it may be in a namespace that can't be seen or entered.
    pub(crate) fn find_elsewhere(&self) -> Result<Option<(NetNs, LinkInfo)>> {
        let visible = NetNs::visible_or_held()?;
        let mut spaces = visible.spaces.iter();
        let unknown = |why: Option<netdev::Error>| {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            Hint::new(
                format!(
                    "{}: namespace {} can't be looked into from here, so the netkit may live{why}",
                    self.netkit, self.netns
                ),
                "do it as root of the host, where all processes can be seen",
            )
        };
        match spaces.find(|seen| seen.identity() == self.anchor_netns) {
            Some(seen) => {
                let netns = seen.open().map_err(|error| unknown(Some(error)))?;
                let links = Link::open_in(&netns);
                let mut links = links.map_err(|error| unknown(Some(error)))?;
                let found = self.find_anchor(&mut links)?;
                Ok(found.map(|link| (netns, link)))
            }
            None if visible.hidden.is_some() => Err(unknown(visible.hidden).into()),
            None => Ok(None),
        }
    }
}

/// What was done when a lease was cleared away, for the report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cleared {
    /// Switches that are again what they were: `net.ipv4.conf.eth0.forwarding = 0`.
    pub(crate) restored: Vec<String>,
    /// Switches that were left, each with the reason.
    pub(crate) kept: Vec<String>,
    /// Policy routing rules that were removed, as `ip rule` has them.
    pub(crate) rules: Vec<String>,
    /// Proxy entries that were removed: `192.0.2.9 on eth0`.
    pub(crate) proxies: Vec<String>,
}

/// All records, under the lock.
#[derive(Debug)]
pub(crate) struct Records {
    /// `None` for who only looks.
    locked: Option<Locked>,
    boot: String,
    here: NetNs,
    links: Link,
    all: Vec<Record>,
}

impl Records {
    /// Reads them and keeps others out. Those of another boot are history and go; what cannot be
    /// read is put aside, with a warning. A dry run changes nothing of this, and keeps nobody out.
    pub(crate) fn open(dry_run: bool) -> Result<Self> {
        let dir = match dry_run {
            true => RunDir::existing()?,
            false => Some(RunDir::open()?),
        };
        let locked = match &dir {
            Some(dir) if !dry_run => Some(dir.lock()?),
            _ => None,
        };
        let mut records = Self {
            locked,
            boot: boot_id()?,
            here: NetNs::current()?,
            links: Link::open()?,
            all: Vec::new(),
        };
        let Some(dir) = dir else { return Ok(records) };
        for name in dir.names(PREFIX)? {
            match dir.read::<Record>(&name) {
                Ok(Some(record)) if record.boot == records.boot && record.file() == name => {
                    records.all.push(record);
                }
                Ok(Some(_)) => {
                    if let Some(locked) = &records.locked {
                        locked.remove(&name)?;
                    }
                }
                Ok(None) => {}
                Err(error @ RunDirError::Damaged { .. }) if dry_run => {
                    tracing::warn!("{error}: it would be put aside");
                }
                Err(error @ RunDirError::Damaged { .. }) => {
                    let path = dir.path().join(&name);
                    let aside = path.with_extension("damaged");
                    fs::rename(&path, &aside).with_context(|| format!("{}", path.display()))?;
                    let aside = aside.display();
                    tracing::warn!(
                        "{error}: put aside as {aside}; its lease is now as one of another's netkit"
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    /// What a new record of this namespace begins with.
    pub(crate) fn begin(
        &self,
        (netkit, netns): (&str, &str),
        made: bool,
        (anchor, pair): (Device, bool),
        anchor_netns: &NetNs,
    ) -> Result<Record> {
        Ok(Record {
            boot: self.boot.clone(),
            netkit: netkit.to_owned(),
            netns: netns.to_owned(),
            made,
            anchor,
            pair,
            anchor_netns: anchor_netns.identity()?,
            anchor_cookie: Link::open_in(anchor_netns)?.netns_cookie().ok(),
            addresses: Vec::new(),
            settings: Vec::new(),
            rules: Vec::new(),
            proxies: Vec::new(),
            lro: None,
        })
    }

    /// Notes a record, in place of one of the same device.
    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        let file = record.file();
        self.locked()?.write(&file, &record)?;
        self.all.retain(|other| other.file() != file);
        self.all.push(record);
        Ok(())
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, record: &Record) -> Result<()> {
        let file = record.file();
        self.locked()?.remove(&file)?;
        self.all.retain(|other| other.file() != file);
        Ok(())
    }

    fn locked(&self) -> Result<&Locked> {
        self.locked.as_ref().context("a dry run writes nothing")
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Record] {
        &self.all
    }

    /// The one of this anchor.
    pub(crate) fn of_anchor(&self, netns: &NetNs, anchor: &LinkInfo) -> Result<Option<&Record>> {
        let identity = netns.identity()?;
        let links = Link::open_in(netns)?;
        Ok(self.all.iter().find(|record| {
            let known = record.anchor.ifindex;
            record.anchor_netns == identity
                && record.is_in(&links)
                && known.map_or(record.anchor.name == anchor.name, |it| it == anchor.ifindex)
        }))
    }

    /// What a lease noted of a switch here, be it there still or not.
    pub(crate) fn noted(&self, ifindex: Option<Ifindex>, key: Key) -> Result<Option<&Change>> {
        let here = self.here.identity()?;
        let ours = self.all.iter().filter(|record| record.anchor_netns == here);
        let mut changes = ours.flat_map(|record| &record.settings);
        Ok(changes.find(|change| change.is_same(ifindex, key)))
    }

    /// Whether the large receive offload of this NIC, which is here, went off for a lease.
    pub(crate) fn noted_lro(&self, nic: Ifindex) -> Result<bool> {
        let here = self.here.identity()?;
        let mut ours = self.all.iter().filter(|record| record.anchor_netns == here);
        Ok(ours.any(|record| {
            let device = record.lro.as_ref();
            device.is_some_and(|device| device.ifindex == Some(nic))
        }))
    }

    /// The netkit of this record, if it is there.
    ///
    /// # Errors
    /// Where it may be in a namespace that can't be seen or entered: not found is not gone.
    fn find(&mut self, record: &Record) -> Result<Option<(NetNs, LinkInfo)>> {
        if record.anchor_netns == self.here.identity()? {
            let found = record.find_anchor(&mut self.links)?;
            return Ok(found.map(|link| (self.here.clone(), link)));
        }
        record.find_elsewhere()
    }

    /// The records whose netkit went by itself and that can be cleared from here. With `sure`, an error
    /// where that is not known of one.
    pub(crate) fn stale(&mut self, sure: bool) -> Result<Vec<Record>> {
        let here = self.here.identity()?;
        let mut stale = Vec::new();
        for record in self.all.clone() {
            // What is outside of this namespace's reach is left to who is there.
            if record.anchor_netns != here && record.pair {
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

    /// Puts back what the lease of this record changed outside of its netkit, as far as no other
    /// one needs it, and forgets the record. The netkit itself must be gone.
    ///
    /// If something fails, the rest is done all the same and the record stays.
    pub(crate) fn clear(&mut self, record: &Record, dry_run: bool) -> Result<Cleared> {
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
                None => self.put_back(change, dry_run),
            };
            match done {
                Ok(Some(Restored::Back)) => {
                    cleared
                        .restored
                        .push(format!("{change} = {}", change.before));
                }
                Ok(Some(Restored::Others)) => {
                    let text = format!("{change}: somebody else has set it since");
                    cleared.kept.push(text);
                }
                // With the device its switches went.
                Ok(None) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        // Behind the switches: until then they keep others' packets out.
        for rule in self.rules_of_nobody(record)? {
            match self.drop_rule(&rule, dry_run) {
                Ok(true) => cleared.rules.push(rule.to_string()),
                Ok(false) => {}
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        if let Some(nic) = &record.lro {
            // Of another NIC's leases this one needs nothing.
            let forwards = needed.iter().any(|(of, key, _)| {
                *of == nic.ifindex && matches!(key, Key::Forward4 | Key::Forward6 | Key::Router6)
            });
            match self.lro_back(nic, forwards, dry_run) {
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

    /// The switches that other leases need, whose netkits are there.
    fn needed_by_others(&mut self, record: &Record) -> Result<Vec<(Option<Ifindex>, Key, String)>> {
        let mut needed = Vec::new();
        let others: Vec<Record> = self
            .all
            .iter()
            .filter(|other| {
                other.file() != record.file() && other.anchor_netns == record.anchor_netns
            })
            .cloned()
            .collect();
        for other in others {
            // Where that is not known it may need them.
            if !matches!(self.find(&other), Ok(None)) {
                let switches = other.settings.iter();
                needed.extend(
                    switches.map(|change| (change.ifindex, change.key, other.netkit.clone())),
                );
            }
        }
        Ok(needed)
    }

    /// The rules that no other lease needs.
    fn rules_of_nobody(&mut self, record: &Record) -> Result<Vec<Rule>> {
        let mut rules = record.rules.clone();
        let others = self.all.iter().filter(|other| {
            other.file() != record.file() && other.anchor_netns == record.anchor_netns
        });
        for other in others.cloned().collect::<Vec<_>>() {
            // Where that is not known it may need them.
            if !matches!(self.find(&other), Ok(None)) {
                rules.retain(|rule| !other.rules.contains(rule));
            }
        }
        Ok(rules)
    }

    /// Removes a rule; whether there was one, which a dry run does not ask.
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

    /// Whether a lease has made this rule here.
    pub(crate) fn has_rule(&self, rule: &Rule) -> Result<bool> {
        let here = self.here.identity()?;
        let mut ours = self.all.iter().filter(|record| record.anchor_netns == here);
        Ok(ours.any(|record| record.rules.contains(rule)))
    }

    /// Removes a proxy entry; whether there was one.
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

    /// Switches a NIC's large receive offload on again, unless it still forwards; what was done.
    fn lro_back(&mut self, nic: &Device, needed: bool, dry_run: bool) -> Result<Option<String>> {
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
            // Somebody else has made a router of it since: then it stays off.
            for key in [Key::Forward4, Key::Router6] {
                if key.read(&link.name).is_ok_and(|value| value != "0") {
                    return Ok(None);
                }
            }
            ethtool.set_feature(ifindex, LRO, true)?;
        }
        Ok(Some(format!("{LRO} of {} = on", link.name)))
    }

    /// Puts a switch back; `None` if its device is gone.
    fn put_back(&mut self, change: &Change, dry_run: bool) -> Result<Option<Restored>> {
        let Some(ifindex) = change.ifindex else {
            return Ok(None);
        };
        // By its number: the device may have another name by now.
        let link = match self.links.get(ifindex) {
            Ok(link) => link,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(change.restore(&link.name, dry_run)?))
    }
}

/// Clears away what leases left whose netkits went by themselves; a line for each thing done.
pub(crate) fn clear_stale(dry_run: bool) -> Result<Vec<(Record, Cleared)>> {
    let mut records = Records::open(dry_run)?;
    let mut done = Vec::new();
    let mut failures = BTreeSet::new();
    for record in records.stale(true)? {
        match records.clear(&record, dry_run) {
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
