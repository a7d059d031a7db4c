//! Record of what a lease changes outside of its netkit.

use std::net::IpAddr;

use anyhow::Result;
use netdev::link::{LinkInfo, Rule};
use netdev::{Ifindex, Link, NetNs};
use serde::{Deserialize, Serialize};
use undo::Boot;

use crate::guest_route::sysctl::SysctlChange;
use crate::remedy::Hint;

/// Feature that a NIC loses when it forwards (`dev_disable_lro`), by the kernel's name, as in
/// `ethtool -k`.
pub(crate) const LRO: &str = "rx-lro";

/// Begin of the files' names.
pub(super) const PREFIX: &str = "lease-";

/// A device at the time of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// `None` if the device did not exist yet.
    pub(crate) ifindex: Option<Ifindex>,
}

/// Proxy entry: an address that a device answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyEntry {
    pub(crate) device: Device,
    pub(crate) addr: IpAddr,
}

/// Record of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    /// Id of the boot in which the record was written.
    pub(crate) boot: String,
    /// Netkit that leases, and the name of its namespace.
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
    /// Namespace of the owner end: device and inode.
    #[serde(rename = "anchor_netns")]
    pub(crate) owner_netns: (u64, u64),
    /// Cookie of the owner end's namespace, a number that is not used again.
    #[serde(default, rename = "anchor_cookie")]
    pub(crate) owner_cookie: Option<u64>,
    /// Addresses of the guest, for people to read.
    pub(crate) addresses: Vec<String>,
    /// Destinations of the guest's routes that were named, for people to read.
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

    /// Whether the record may be of this boot.
    pub(super) fn is_current(&self) -> Result<bool> {
        Ok(Boot::of(&self.boot)? != Boot::Another)
    }

    /// Whether both records are of one netkit, which exists. A record may have no cookie.
    pub(super) fn is_of_same_netkit(&self, other: &Self) -> bool {
        let cookies = self.owner_cookie.zip(other.owner_cookie);
        self.owner_netns == other.owner_netns
            && cookies.is_none_or(|(ours, theirs)| ours == theirs)
            && self.owner_end.ifindex.is_some()
            && self.owner_end.ifindex == other.owner_end.ifindex
    }

    /// Whether the owner end's namespace is that of `links`, and not another that got its inode.
    pub(super) fn is_in(&self, links: &Link) -> bool {
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
    pub(super) fn netns_elsewhere(&self) -> Result<Option<NetNs>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(netns: u64, cookie: Option<u64>, ifindex: Option<u32>) -> LeaseRecord {
        LeaseRecord {
            boot: String::new(),
            netkit: "nk0".to_owned(),
            netns: "box".to_owned(),
            made: true,
            owner_end: Device {
                name: "nk0h".to_owned(),
                ifindex: ifindex.map(Ifindex::new),
            },
            pair: true,
            owner_netns: (4, netns),
            owner_cookie: cookie,
            addresses: Vec::new(),
            routes: Vec::new(),
            settings: Vec::new(),
            rules: Vec::new(),
            proxies: Vec::new(),
            lro: None,
        }
    }

    #[test]
    fn a_netkit_is_known_by_its_owner_end_and_namespace() {
        let one = record(7, Some(1), Some(3));
        assert!(one.is_of_same_netkit(&record(7, Some(1), Some(3))));
        assert!(one.is_of_same_netkit(&record(7, None, Some(3))));
        assert!(!one.is_of_same_netkit(&record(7, Some(2), Some(3))));
        assert!(!one.is_of_same_netkit(&record(8, Some(1), Some(3))));
        assert!(!one.is_of_same_netkit(&record(7, Some(1), Some(4))));
        let unmade = record(7, Some(1), None);
        assert!(!unmade.is_of_same_netkit(&unmade));
    }
}
