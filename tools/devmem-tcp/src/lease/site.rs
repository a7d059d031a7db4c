//! Devices and namespaces of a lease.

use anyhow::{Result, bail};
use netdev::link::{LinkInfo, Rule};
use netdev::{Ifindex, Link, NetNs, QueueId};
use serde::Serialize;

use super::args::{Args, NetkitKind};
use crate::guest_route::lease_journal::Device;

/// Rx queue of the NIC that was leased, and the netkit's queue that got it.
#[derive(Debug, Serialize)]
pub(super) struct LeasedQueue {
    /// Number of the rx queue on the physical NIC.
    pub(super) phys_queue: QueueId,
    /// Number of the netkit's rx queue, from the kernel's answer; `null` in a dry run.
    pub(super) queue: Option<QueueId>,
}

/// Devices and namespaces that the steps of a lease work on.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) phys: LinkInfo,
    pub(super) here: NetNs,
    pub(super) guest_netns: NetNs,
    pub(super) links: Link,
    pub(super) guest_links: Link,
    /// Name of the netkit's guest end, or of a single netkit.
    pub(super) netkit: String,
    /// Name of the netkit's host end; `None` for a single netkit, or if it is in another namespace.
    pub(super) host_end: Option<String>,
    /// Netkit that existed before the lease; `None` if the netkit is made for the lease.
    pub(super) found: Option<LinkInfo>,
    pub(super) host: Option<Ifindex>,
    pub(super) guest: Option<Ifindex>,
    pub(super) leases: Vec<LeasedQueue>,
    /// Policy routing rules that were added, to be removed if the lease fails.
    pub(super) added_rules: Vec<Rule>,
}

impl Site {
    /// Finds the netkit that `--netkit` names, if it exists, and its host end.
    pub(super) fn find(
        args: &Args,
        phys: LinkInfo,
        here: NetNs,
        guest_netns: NetNs,
    ) -> Result<Self> {
        let found = find_netkit(args, &here, &guest_netns)?;
        let mut links = Link::open()?;
        let mut guest_links = Link::open_in(&guest_netns)?;
        let host = match &found {
            Some(guest) => host_end_of(guest, &mut guest_links, &mut links, &here, &guest_netns)?,
            None => None,
        };
        let host_end = match (&found, args.kind) {
            (Some(_), _) => host.as_ref().map(|link| link.name.clone()),
            (None, NetkitKind::Single) => None,
            (None, NetkitKind::Pair) => Some(
                args.host_end
                    .clone()
                    .unwrap_or_else(|| format!("{}h", args.netkit)),
            ),
        };
        Ok(Self {
            phys,
            here,
            guest_netns,
            links,
            guest_links,
            netkit: args.netkit.clone(),
            host_end,
            host: host.map(|link| link.ifindex),
            guest: found.as_ref().map(|link| link.ifindex),
            found,
            leases: Vec::new(),
            added_rules: Vec::new(),
        })
    }

    /// Whether the netkit is made for this lease, and did not exist before.
    pub(super) fn is_made(&self) -> bool {
        self.found.is_none()
    }

    /// Owner end of the netkit, and its namespace: the host end if it is known, else the guest end.
    pub(super) fn owner_end(&self) -> (Device, &NetNs) {
        let (name, ifindex, netns) = match &self.host_end {
            Some(name) => (name, self.host, &self.here),
            None => (&self.netkit, self.guest, &self.guest_netns),
        };
        let name = name.clone();
        (Device { name, ifindex }, netns)
    }
}

/// Finds the netkit that `--netkit` names; `None` if there is no device of that name.
fn find_netkit(args: &Args, here: &NetNs, guest_netns: &NetNs) -> Result<Option<LinkInfo>> {
    let found = by_name(guest_netns, &args.netkit)?;
    let Some(link) = found else {
        if !here.is_same(guest_netns)? && by_name(here, &args.netkit)?.is_some() {
            bail!(
                "lease {netkit}: {netkit} is not in namespace {netns}, but here",
                netkit = args.netkit,
                netns = guest_netns.label()
            );
        }
        return Ok(None);
    };
    if link.kind.as_deref() == Some("netkit") {
        Ok(Some(link))
    } else {
        let kind = link.kind.as_deref().unwrap_or("physical device");
        bail!("lease {}: a {kind}, not a netkit", args.netkit)
    }
}

fn by_name(netns: &NetNs, name: &str) -> Result<Option<LinkInfo>> {
    match Link::open_in(netns)?.by_name(name) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Finds the host end of a netkit pair; `None` if it is not in this namespace.
fn host_end_of(
    guest: &LinkInfo,
    guest_links: &mut Link,
    links: &mut Link,
    here: &NetNs,
    guest_netns: &NetNs,
) -> Result<Option<LinkInfo>> {
    match guest_links.other_end(guest_netns, guest)? {
        Some((there, host)) if there.is_same(here)? => Ok(Some(links.get(host)?)),
        _ => Ok(None),
    }
}
