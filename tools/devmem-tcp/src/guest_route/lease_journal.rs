//! Journal of what a lease changes outside of its netkit, in the runtime directory, so that its end
//! can restore everything.
//!
//! Each lease has a file `lease-NUMBER-DEVICE.json`: the inode of the namespace, and the name of
//! the netkit's owner end, which exists as long as the netkit. The file is written before the first
//! change. If leases share a sysctl, each has the value from before the first of them; the last one
//! to end restores it.

pub(crate) mod clear;

use std::net::IpAddr;

use anyhow::{Context, Result};
use netdev::link::{LinkInfo, Rule};
use netdev::{Ifindex, Link, NetNs};
use serde::{Deserialize, Serialize};
use undo::{Boot, Locked, RunDir, RunDirError};

use crate::remedy::Hint;

use super::forward_filter;
use super::sysctl::{Sysctl, SysctlChange};

/// Feature that a NIC loses when it forwards (`dev_disable_lro`), by the kernel's name, as in
/// `ethtool -k`.
pub(crate) const LRO: &str = "rx-lro";

/// Prefix of the lease records' file names.
const PREFIX: &str = "lease-";

/// A network device at the time of its record: name and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// Number of the device; `None` if the device did not exist yet.
    pub(crate) ifindex: Option<Ifindex>,
}

/// Proxy entry: an address that a device answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyEntry {
    pub(crate) device: Device,
    pub(crate) addr: IpAddr,
}

/// Record of what a lease changed outside of its netkit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    /// Id of the boot in which the record was written.
    pub(crate) boot: String,
    /// Name of the netkit that leases, and the name of its namespace.
    pub(crate) netkit: String,
    pub(crate) netns: String,
    /// Whether the netkit was made for the lease.
    pub(crate) made: bool,
    /// Owner end, which exists as long as the netkit: of a pair the host end, otherwise the device
    /// itself.
    #[serde(rename = "anchor")]
    pub(crate) owner_end: Device,
    /// Whether the owner end is the host end of a pair.
    pub(crate) pair: bool,
    /// Namespace of the owner end: device and inode of its file.
    #[serde(rename = "anchor_netns")]
    pub(crate) owner_netns: (u64, u64),
    /// Cookie of the owner end's namespace, a number that is not used again.
    #[serde(default, rename = "anchor_cookie")]
    pub(crate) owner_cookie: Option<u64>,
    /// Addresses of the guest, for people to read.
    pub(crate) addresses: Vec<String>,
    /// Destinations of the guest's routes that the user named, for people to read.
    #[serde(default)]
    pub(crate) routes: Vec<String>,
    /// Sysctls that were switched on, of devices in the owner end's namespace.
    pub(crate) settings: Vec<SysctlChange>,
    /// Policy routing rules that were added in the owner end's namespace.
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
    /// Proxy entries that were added in the owner end's namespace.
    pub(crate) proxies: Vec<ProxyEntry>,
    /// NIC whose large receive offload the kernel switched off, as it does for a device that
    /// forwards.
    pub(crate) lro: Option<Device>,
}

impl LeaseRecord {
    /// Name of the record's file.
    pub(crate) fn file(&self) -> String {
        format!(
            "{PREFIX}{}-{}.json",
            self.owner_netns.1, self.owner_end.name
        )
    }

    /// Whether the record may be of this boot, so that its changes may be in force.
    fn is_current(&self) -> Result<bool> {
        Ok(Boot::of(&self.boot)? != Boot::Another)
    }

    /// Whether the owner end's namespace is that of `links`, and not another that got its inode.
    fn is_in(&self, links: &Link) -> bool {
        match (self.owner_cookie, links.netns_cookie()) {
            (Some(known), Ok(cookie)) => known == cookie,
            _ => true,
        }
    }

    /// Finds the owner end in the namespace of `links`, if it still exists.
    pub(crate) fn find_owner_end(&self, links: &mut Link) -> Result<Option<LinkInfo>> {
        if !self.is_in(links) {
            return Ok(None);
        }
        let found = match self.owner_end.ifindex {
            // Numbers of devices are not used again in a namespace until they run out
            // (`dev_index_reserve`).
            Some(ifindex) => links.get(ifindex),
            None => links.by_name(&self.owner_end.name),
        };
        match found {
            Ok(link) => Ok(Some(link).filter(|link| link.kind.as_deref() == Some("netkit"))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl LeaseRecord {
    /// Finds the owner end in a namespace other than the current one, if it exists.
    ///
    /// # Errors
    /// Where it may be in a namespace that can't be seen or entered.
    pub(crate) fn find_elsewhere(&self) -> Result<Option<(NetNs, LinkInfo)>> {
        let Some(netns) = self.netns_elsewhere()? else {
            return Ok(None);
        };
        let found = self.find_owner_end(&mut Link::open_in(&netns)?)?;
        Ok(found.map(|link| (netns, link)))
    }

    /// Finds the owner end's namespace, which is not the current one; `None` if it is gone.
    ///
    /// # Errors
    /// Where the namespace can't be seen or entered.
    fn netns_elsewhere(&self) -> Result<Option<NetNs>> {
        let visible = NetNs::visible_or_held()?;
        let mut namespaces = visible.namespaces.iter();
        let unknown = |why: Option<netdev::Error>| {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            Hint::new(
                format!(
                    "{}: namespace {} can't be looked into from here, so the netkit may still exist{why}",
                    self.netkit, self.netns
                ),
                "run it as root of the host, where all processes can be seen",
            )
        };
        match namespaces.find(|seen| seen.identity() == self.owner_netns) {
            Some(seen) => {
                let netns = seen.open().map_err(|error| unknown(Some(error)))?;
                let links = Link::open_in(&netns).map_err(|error| unknown(Some(error)))?;
                Ok(Some(netns).filter(|_| self.is_in(&links)))
            }
            None if visible.hidden.is_some() => Err(unknown(visible.hidden).into()),
            None => Ok(None),
        }
    }
}

/// Policy routing rules that leases need and the kernel does not have.
#[derive(Debug)]
pub(crate) struct MissingRules {
    /// Namespace of the rules.
    pub(crate) netns: NetNs,
    identity: (u64, u64),
    /// Names of the netkits whose leases need the rules.
    pub(crate) netkits: Vec<String>,
    /// The missing rules, in the order in which they must be added.
    pub(crate) rules: Vec<Rule>,
}

/// Turns an error of the runtime directory into an error with a remedy.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<RunDirError>() {
        Ok(error) => nic::Error::from(error).into(),
        Err(error) => error,
    }
}

/// Journal with the records of all leases, under the lock of the runtime directory.
#[derive(Debug)]
pub(crate) struct LeaseJournal {
    /// The runtime directory under its lock; `None` for a dry run.
    locked: Option<Locked>,
    /// Id of this boot.
    boot: String,
    here: NetNs,
    links: Link,
    all: Vec<LeaseRecord>,
}

impl LeaseJournal {
    /// Reads the records of all leases under the lock. Records of another boot are removed; a file
    /// that can't be read is renamed, with a warning. A dry run neither locks nor changes anything.
    pub(crate) fn open(dry_run: bool) -> Result<Self> {
        Self::read(dry_run).map_err(with_remedy)
    }

    fn read(dry_run: bool) -> Result<Self> {
        let dir = match dry_run {
            true => RunDir::existing()?,
            false => Some(RunDir::open()?),
        };
        let locked = match &dir {
            Some(dir) if !dry_run => Some(dir.lock()?),
            _ => None,
        };
        let mut journal = Self {
            locked,
            boot: Boot::id()?,
            here: NetNs::current()?,
            links: Link::open()?,
            all: Vec::new(),
        };
        let Some(dir) = dir else { return Ok(journal) };
        for name in dir.names(PREFIX)? {
            match dir.read::<LeaseRecord>(&name) {
                Ok(Some(record)) if record.is_current()? && record.file() == name => {
                    journal.all.push(record);
                }
                Ok(Some(_)) => {
                    if let Some(locked) = &journal.locked {
                        locked.remove(&name)?;
                    }
                }
                Ok(None) => {}
                Err(error @ RunDirError::Damaged { .. }) if dry_run => {
                    tracing::warn!("{error}: it would be renamed");
                }
                Err(error @ RunDirError::Damaged { .. }) => {
                    let aside = journal.locked()?.set_aside(&name)?;
                    tracing::warn!(
                        "{error}: renamed to {}; unlease treats the netkit as one that it did not make",
                        aside.display()
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(journal)
    }

    /// Creates the record of a lease, without changes yet.
    pub(crate) fn begin(
        &self,
        (netkit, netns): (&str, &str),
        made: bool,
        (owner_end, pair): (Device, bool),
        owner_netns: &NetNs,
    ) -> Result<LeaseRecord> {
        Ok(LeaseRecord {
            boot: self.boot.clone(),
            netkit: netkit.to_owned(),
            netns: netns.to_owned(),
            made,
            owner_end,
            pair,
            owner_netns: owner_netns.identity()?,
            owner_cookie: Link::open_in(owner_netns)?.netns_cookie().ok(),
            addresses: Vec::new(),
            routes: Vec::new(),
            settings: Vec::new(),
            rules: Vec::new(),
            proxies: Vec::new(),
            lro: None,
        })
    }

    /// Writes a lease's record, in place of one of the same device.
    pub(crate) fn write(&mut self, record: LeaseRecord) -> Result<()> {
        let file = record.file();
        let written = self.locked()?.write(&file, &record);
        written.map_err(nic::Error::from)?;
        self.all.retain(|other| other.file() != file);
        self.all.push(record);
        Ok(())
    }

    /// Removes a lease's record.
    pub(crate) fn remove(&mut self, record: &LeaseRecord) -> Result<()> {
        let file = record.file();
        let removed = self.locked()?.remove(&file);
        removed.map_err(nic::Error::from)?;
        self.all.retain(|other| other.file() != file);
        Ok(())
    }

    fn locked(&self) -> Result<&Locked> {
        self.locked.as_ref().context("a dry run writes nothing")
    }

    /// Records of all leases.
    pub(crate) fn all(&self) -> &[LeaseRecord] {
        &self.all
    }

    /// Finds the lease record of an owner end.
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

    /// Lists the lease records whose owner end is, or was, in the current namespace.
    fn records_of_this_namespace(&self) -> Result<impl Iterator<Item = &LeaseRecord>> {
        let here = self.here.identity()?;
        Ok(self
            .all
            .iter()
            .filter(move |record| record.owner_netns == here && record.is_in(&self.links)))
    }

    /// Finds the change of a sysctl in the current namespace that a lease recorded, whether or not
    /// its netkit exists.
    pub(crate) fn noted(
        &self,
        ifindex: Option<Ifindex>,
        key: Sysctl,
    ) -> Result<Option<&SysctlChange>> {
        let mut changes = self
            .records_of_this_namespace()?
            .flat_map(|record| &record.settings);
        Ok(changes.find(|change| change.is_same(ifindex, key)))
    }

    /// Whether a lease recorded that the large receive offload of this NIC in the current namespace
    /// was switched off.
    pub(crate) fn noted_lro(&self, nic: Ifindex) -> Result<bool> {
        Ok(self.records_of_this_namespace()?.any(|record| {
            let device = record.lro.as_ref();
            device.is_some_and(|device| device.ifindex == Some(nic))
        }))
    }

    /// Finds the owner end of a lease record, if it exists.
    ///
    /// # Errors
    /// Where it may be in a namespace that can't be seen or entered: not found does not mean gone.
    fn find(&mut self, record: &LeaseRecord) -> Result<Option<(NetNs, LinkInfo)>> {
        if record.owner_netns == self.here.identity()? {
            let found = record.find_owner_end(&mut self.links)?;
            return Ok(found.map(|link| (self.here.clone(), link)));
        }
        record.find_elsewhere()
    }

    /// Lists the lease records whose netkit is gone, and whose changes can be undone from here.
    /// With `sure`, fails where it is not known whether a netkit is gone.
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

    /// Lists the policy routing rules that leases in the current namespace need whose netkits
    /// exist.
    pub(crate) fn needed_rules(&mut self) -> Result<Vec<Rule>> {
        let mut needed = Vec::new();
        let ours: Vec<LeaseRecord> = self.records_of_this_namespace()?.cloned().collect();
        for record in ours {
            if record.find_owner_end(&mut self.links)?.is_some() {
                needed.extend(record.rules);
            }
        }
        Ok(needed)
    }

    /// Lists, for each namespace, the policy routing rules that leases need whose netkits exist,
    /// and that the kernel does not have. Namespaces that can't be looked into are left out.
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
