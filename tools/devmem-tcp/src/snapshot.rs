//! What is there: devices, queues, leases seen from both sides, page pools, in all namespaces that
//! have a name.
//!
//! The kernel shows a lease from the physical side only (`netdev_nl_queue_fill_lease`); the netkit's
//! side is put together here.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use netdev::{
    DmabufId, Ifindex, Link, LinkInfo, NetNs, Netdev, PagePool, Queue, QueueId, QueueType,
};
use serde::Serialize;

/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";

/// All namespaces that were looked into.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) spaces: Vec<Space>,
}

/// One network namespace.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) netns: NetNs,
    /// Empty for the one that the caller is in.
    pub(crate) name: String,
    pub(crate) links: Vec<LinkInfo>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) pools: Vec<PagePool>,
}

/// One end of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct End {
    /// The namespace's name, empty for the present one; `None` if it has none.
    pub(crate) netns: Option<String>,
    /// The device's name; `None` if its namespace has none and so was not looked into.
    pub(crate) device: Option<String>,
    pub(crate) ifindex: Ifindex,
    pub(crate) queue: QueueId,
}

/// A lease, both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeaseView {
    pub(crate) phys: End,
    pub(crate) virt: End,
    /// The binding on it.
    pub(crate) dmabuf: Option<DmabufId>,
}

impl Snapshot {
    /// Looks into this namespace and those that have a name.
    pub(crate) fn take() -> Result<Self> {
        let here = NetNs::current()?;
        let mut spaces = Vec::new();
        for name in names()? {
            // A name may go away between the listing and the opening, or be none at all.
            if let Ok(netns) = NetNs::by_name(&name) {
                if !netns.is_same(&here)? {
                    spaces.push(Space::look(netns, name)?);
                }
            }
        }
        spaces.insert(0, Space::look(here, String::new())?);
        Ok(Self { spaces })
    }

    /// Looks into one namespace more, if it is not among them; says which it is.
    pub(crate) fn include(&mut self, netns: NetNs, name: String) -> Result<usize> {
        for (index, space) in self.spaces.iter().enumerate() {
            if space.netns.is_same(&netns)? {
                return Ok(index);
            }
        }
        self.spaces.push(Space::look(netns, name)?);
        Ok(self.spaces.len() - 1)
    }

    /// All leases.
    pub(crate) fn leases(&self) -> Result<Vec<LeaseView>> {
        let mut leases = Vec::new();
        for space in &self.spaces {
            let mut links = None;
            for queue in &space.queues {
                let Some(lease) = &queue.lease else { continue };
                let virt_space = match lease.netns_id {
                    None => Some(space),
                    Some(id) => {
                        let links = match &mut links {
                            Some(links) => links,
                            empty => empty.insert(Link::open_in(&space.netns)?),
                        };
                        self.by_nsid(links, id)?
                    }
                };
                leases.push(LeaseView {
                    phys: space.end(queue.ifindex, queue.id),
                    virt: match virt_space {
                        Some(virt) => virt.end(lease.ifindex, lease.queue),
                        None => End {
                            netns: None,
                            device: None,
                            ifindex: lease.ifindex,
                            queue: lease.queue,
                        },
                    },
                    dmabuf: queue.dmabuf,
                });
            }
        }
        Ok(leases)
    }

    /// The namespace that has this id in the namespace of `links`.
    fn by_nsid(&self, links: &mut Link, id: i32) -> Result<Option<&Space>> {
        for space in &self.spaces {
            if links.nsid(&space.netns)? == Some(id) {
                return Ok(Some(space));
            }
        }
        Ok(None)
    }
}

impl Space {
    fn look(netns: NetNs, name: String) -> Result<Self> {
        let in_netns = || format!("namespace {}", netns.label());
        let links = Link::open_in(&netns)?.list().with_context(in_netns)?;
        let mut netdev = Netdev::open_in(&netns)?;
        let mut queues = netdev.queues(None).with_context(in_netns)?;
        queues.retain(|queue| queue.kind == QueueType::Rx);
        let pools = netdev.page_pools(None).with_context(in_netns)?;
        Ok(Self {
            netns,
            name,
            links,
            queues,
            pools,
        })
    }

    /// The device's name.
    pub(crate) fn device(&self, ifindex: Ifindex) -> Option<&LinkInfo> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    fn end(&self, ifindex: Ifindex, queue: QueueId) -> End {
        End {
            netns: Some(self.name.clone()),
            device: self.device(ifindex).map(|link| link.name.clone()),
            ifindex,
            queue,
        }
    }
}

/// The names of `ip netns`.
fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(NETNS_DIR)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context(NETNS_DIR)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
