//! The physical NIC behind the queues of a device.

use std::iter::once;

use netdev::link::LinkInfo;
use netdev::queues::Queue;
use netdev::{Ifindex, Link, NetNs, Netdev, NsId, QueueId, QueueType, Result, SeenNetNs};

/// A physical NIC, and the queues of it that a receiver uses.
#[derive(Debug, Clone)]
pub struct NicBehind {
    /// Network namespace that the NIC is in.
    pub netns: NetNs,
    /// Number of the NIC in its namespace.
    pub ifindex: Ifindex,
    /// Name of the NIC in its namespace.
    pub device: String,
    /// Rx queues of the NIC that payload is received on.
    pub queues: Vec<QueueId>,
}

/// Finds the NIC behind queues of a device: the device itself, or the NIC that leases the queues to
/// it. `None` if no NIC in a namespace that can be looked into leases them, as within a container.
///
/// The kernel tells of a lease on the physical side only (`netdev_nl_queue_fill_lease`), so all visible
/// namespaces are looked into, one after the other; none is held open but the NIC's.
///
/// # Errors
/// Those of [`NetNs::visible`].
pub fn nic_behind(netns: &NetNs, link: &LinkInfo, queues: &[QueueId]) -> Result<Option<NicBehind>> {
    if link.is_physical() {
        return Ok(Some(NicBehind {
            netns: netns.clone(),
            ifindex: link.ifindex,
            device: link.name.clone(),
            queues: queues.to_vec(),
        }));
    }
    let ours = netns.identity()?;
    let visible = NetNs::visible()?.namespaces;
    let others = visible.iter().filter(|seen| seen.identity() != ours);
    let spaces = once(Ok(netns.clone())).chain(others.map(SeenNetNs::open));
    for space in spaces {
        let found = space.and_then(|space| find_lending_nic(space, netns, link, queues));
        match found {
            // All leases of one netkit are of one NIC (`netdev_nl_queue_create_doit`).
            Ok(Some(nic)) => return Ok(Some(nic)),
            Ok(None) => {}
            // It went meanwhile, or is another user's.
            Err(error) => tracing::debug!("passed over: {error}"),
        }
    }
    Ok(None)
}

/// Finds the NIC in the namespace `space` that leases these queues to `link`, which is in `netns`.
fn find_lending_nic(
    space: NetNs,
    netns: &NetNs,
    link: &LinkInfo,
    queues: &[QueueId],
) -> Result<Option<NicBehind>> {
    let mut all = Netdev::open_in(&space)?.queues(None)?;
    all.retain(|queue| queue.kind == QueueType::Rx && queue.lease.is_some());
    if all.is_empty() {
        return Ok(None);
    }
    let mut links = Link::open_in(&space)?;
    let nsid = match space.is_same(netns)? {
        true => None,
        false => match links.nsid(netns)? {
            None => return Ok(None),
            nsid => nsid,
        },
    };
    let Some((ifindex, queues)) = find_leased_queues(&all, (nsid, link.ifindex), queues) else {
        return Ok(None);
    };
    Ok(Some(NicBehind {
        device: links.get(ifindex)?.name,
        netns: space,
        ifindex,
        queues,
    }))
}

/// Finds, among the queues of a namespace, the NIC and its queues that are leased to these queues
/// of the device `to`, which is given by the id of its namespace and its number there.
fn find_leased_queues(
    all: &[Queue],
    to: (Option<NsId>, Ifindex),
    queues: &[QueueId],
) -> Option<(Ifindex, Vec<QueueId>)> {
    let is_ours = |queue: &&Queue| {
        queue.lease.is_some_and(|lease| {
            (lease.netns_id, lease.ifindex) == to && queues.contains(&lease.queue)
        })
    };
    let ours: Vec<&Queue> = all.iter().filter(is_ours).collect();
    let ifindex = ours.first()?.ifindex;
    Some((ifindex, ours.iter().map(|queue| queue.id).collect()))
}
