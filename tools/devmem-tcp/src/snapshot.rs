//! Snapshot of devices, queues, leases with both ends, and page pools, in all namespaces that have
//! a name or a process, and may be looked into.
//!
//! The kernel shows a lease on the physical side only (`netdev_nl_queue_fill_lease`); the netkit's
//! side is composed here.

use anyhow::{Context, Result};
use netdev::link::LinkInfo;
use netdev::queues::{PagePool, Queue};
use netdev::{DmabufId, Ifindex, Link, NetNs, Netdev, NsId, QueueId, QueueType, SeenNetNs};
use serde::Serialize;

/// Snapshot of devices and queues in all namespaces that could be looked into.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) namespaces: Vec<NamespaceSnapshot>,
}

/// Snapshot of a network namespace.
#[derive(Debug)]
pub(crate) struct NamespaceSnapshot {
    pub(crate) netns: SeenNetNs,
    /// Name as in `ip netns`, or `pid:PID`; empty for the caller's namespace.
    pub(crate) name: String,
    pub(crate) links: Vec<LinkInfo>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) pools: Vec<PagePool>,
}

/// Identity of a network namespace while it lives, whatever its name: device and inode.
pub(crate) type Identity = (u64, u64);

/// One end of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeaseEnd {
    /// Name of the namespace, empty for the current one; `None` if it has none.
    pub(crate) netns: Option<String>,
    /// Name of the device; `None` if its namespace has no name and so was not looked into.
    pub(crate) device: Option<String>,
    pub(crate) ifindex: Ifindex,
    pub(crate) queue: QueueId,
    /// Identity of the namespace; `None` if it was not looked into.
    #[serde(skip)]
    pub(crate) identity: Option<Identity>,
}

/// A lease with both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeaseView {
    pub(crate) phys: LeaseEnd,
    pub(crate) virt: LeaseEnd,
    /// Binding of the leased queue.
    pub(crate) dmabuf: Option<DmabufId>,
}

impl Snapshot {
    /// Takes a snapshot of this namespace, then of all others that can be seen.
    ///
    /// No namespace is held open.
    pub(crate) fn take() -> Result<Self> {
        let mut visible = NetNs::visible()?.namespaces.into_iter();
        let here = visible.next().context("no namespace at all")?;
        let mut namespaces = vec![NamespaceSnapshot::look(here, String::new())?];
        for seen in visible {
            let name = seen.label().to_owned();
            match NamespaceSnapshot::look(seen, name) {
                Ok(namespace) => namespaces.push(namespace),
                // The namespace has ended, or is another user's.
                Err(error) => tracing::debug!("namespace skipped: {error:#}"),
            }
        }
        Ok(Self { namespaces })
    }

    /// Lists all leases.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseView>> {
        let mut leases = Vec::new();
        for namespace in &self.namespaces {
            let mut links = None;
            for queue in &namespace.queues {
                let Some(lease) = &queue.lease else { continue };
                let virt_namespace = match lease.netns_id {
                    None => Some(namespace),
                    Some(id) => {
                        let links = match &mut links {
                            Some(links) => links,
                            empty => empty.insert(Link::open_in(&namespace.netns.open()?)?),
                        };
                        self.by_nsid(links, id)?
                    }
                };
                leases.push(LeaseView {
                    phys: namespace.end(queue.ifindex, queue.id),
                    virt: match virt_namespace {
                        Some(virt) => virt.end(lease.ifindex, lease.queue),
                        None => LeaseEnd {
                            netns: None,
                            device: None,
                            ifindex: lease.ifindex,
                            queue: lease.queue,
                            identity: None,
                        },
                    },
                    dmabuf: queue.dmabuf,
                });
            }
        }
        Ok(leases)
    }

    /// Finds the snapshot of the namespace that has this id in the namespace of `links`.
    fn by_nsid(&self, links: &mut Link, id: NsId) -> Result<Option<&NamespaceSnapshot>> {
        let all = self.namespaces.iter().map(|namespace| &namespace.netns);
        let Some(found) = links.find_namespace(id, all)? else {
            return Ok(None);
        };
        let found = found.identity()?;
        Ok(self.namespaces.iter().find(|it| it.identity() == found))
    }
}

impl NamespaceSnapshot {
    fn look(seen: SeenNetNs, name: String) -> Result<Self> {
        let netns = seen.open()?;
        let in_netns = || format!("namespace {}", netns.label());
        let links = Link::open_in(&netns)?.list().with_context(in_netns)?;
        let mut netdev = Netdev::open_in(&netns)?;
        let mut queues = netdev.queues(None).with_context(in_netns)?;
        queues.retain(|queue| queue.kind == QueueType::Rx);
        let pools = netdev.page_pools(None).with_context(in_netns)?;
        Ok(Self {
            netns: seen,
            name,
            links,
            queues,
            pools,
        })
    }

    /// Identity of the namespace that the snapshot is of.
    pub(crate) fn identity(&self) -> Identity {
        self.netns.identity()
    }

    /// Finds a device of the namespace by its number.
    pub(crate) fn device(&self, ifindex: Ifindex) -> Option<&LinkInfo> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    pub(crate) fn end(&self, ifindex: Ifindex, queue: QueueId) -> LeaseEnd {
        LeaseEnd {
            netns: Some(self.name.clone()),
            device: self.device(ifindex).map(|link| link.name.clone()),
            ifindex,
            queue,
            identity: Some(self.identity()),
        }
    }
}
