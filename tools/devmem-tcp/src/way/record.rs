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
use netdev::{Ethtool, Ifindex, Link, LinkInfo, NetNs};
use nic::{Locked, RunDir, RunDirError, boot_id};
use serde::{Deserialize, Serialize};

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
    /// The guest's addresses, for people to read.
    pub(crate) addresses: Vec<String>,
    /// Switches that were put on, of devices in the anchor's namespace.
    pub(crate) settings: Vec<Change>,
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

    /// The anchor, if it is still there, in the namespace of `links`.
    pub(crate) fn find_anchor(&self, links: &mut Link) -> Result<Option<LinkInfo>> {
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

/// What was done when a lease was cleared away, for the report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cleared {
    /// Switches that are again what they were: `net.ipv4.conf.eth0.forwarding = 0`.
    pub(crate) restored: Vec<String>,
    /// Switches that were left, each with the reason.
    pub(crate) kept: Vec<String>,
    /// Proxy entries that were removed: `192.0.2.9 on eth0`.
    pub(crate) proxies: Vec<String>,
}

/// All records, under the lock.
#[derive(Debug)]
pub(crate) struct Records {
    locked: Locked,
    boot: String,
    here: NetNs,
    links: Link,
    all: Vec<Record>,
}

impl Records {
    /// Reads them and keeps others out. Those of another boot are history and go; what cannot be
    /// read is put aside, with a warning.
    pub(crate) fn open() -> Result<Self> {
        let dir = RunDir::open()?;
        let mut records = Self {
            locked: dir.lock()?,
            boot: boot_id()?,
            here: NetNs::current()?,
            links: Link::open()?,
            all: Vec::new(),
        };
        for name in records.locked.names(PREFIX)? {
            match records.locked.read::<Record>(&name) {
                Ok(Some(record)) if record.boot == records.boot && record.file() == name => {
                    records.all.push(record);
                }
                Ok(Some(_)) => records.locked.remove(&name)?,
                Ok(None) => {}
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
            addresses: Vec::new(),
            settings: Vec::new(),
            proxies: Vec::new(),
            lro: None,
        })
    }

    /// Notes a record, in place of one of the same device.
    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        let file = record.file();
        self.locked.write(&file, &record)?;
        self.all.retain(|other| other.file() != file);
        self.all.push(record);
        Ok(())
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, record: &Record) -> Result<()> {
        let file = record.file();
        self.locked.remove(&file)?;
        self.all.retain(|other| other.file() != file);
        Ok(())
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Record] {
        &self.all
    }

    /// The one of this anchor.
    pub(crate) fn of_anchor(&self, netns: &NetNs, anchor: &LinkInfo) -> Result<Option<&Record>> {
        let identity = netns.identity()?;
        Ok(self.all.iter().find(|record| {
            let known = record.anchor.ifindex;
            record.anchor_netns == identity
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

    /// Whether the large receive offload of this NIC went off for a lease.
    pub(crate) fn noted_lro(&self, nic: Ifindex) -> bool {
        let mut noted = self.all.iter().filter_map(|record| record.lro.as_ref());
        noted.any(|device| device.ifindex == Some(nic))
    }

    /// Whether the netkit of this record is there. One in a namespace that cannot be seen is not.
    fn lives(&mut self, record: &Record) -> Result<bool> {
        if record.anchor_netns == self.here.identity()? {
            return Ok(record.find_anchor(&mut self.links)?.is_some());
        }
        for netns in NetNs::visible()? {
            if netns.identity()? == record.anchor_netns {
                return Ok(record.find_anchor(&mut Link::open_in(&netns)?)?.is_some());
            }
        }
        Ok(false)
    }

    /// The records whose netkit went by itself and that can be cleared from here.
    pub(crate) fn stale(&mut self) -> Result<Vec<Record>> {
        let here = self.here.identity()?;
        let mut stale = Vec::new();
        for record in self.all.clone() {
            // What is outside of this namespace's reach is left to who is there.
            let reachable = record.anchor_netns == here || !record.pair;
            if reachable && !self.lives(&record)? {
                stale.push(record);
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
        if let Some(nic) = &record.lro {
            match self.lro_back(nic, !needed.is_empty(), dry_run) {
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
            if self.lives(&other)? {
                let switches = other.settings.iter();
                needed.extend(
                    switches.map(|change| (change.ifindex, change.key, other.netkit.clone())),
                );
            }
        }
        Ok(needed)
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
        if dry_run {
            return Ok(Some(Restored::Back));
        }
        Ok(Some(change.restore(&link.name)?))
    }
}

/// Clears away what leases left whose netkits went by themselves; a line for each thing done.
pub(crate) fn clear_stale(dry_run: bool) -> Result<Vec<(Record, Cleared)>> {
    let mut records = Records::open()?;
    let mut done = Vec::new();
    let mut failures = BTreeSet::new();
    for record in records.stale()? {
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
