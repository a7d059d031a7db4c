//! Choice of the rx queues to receive on: those that were named, otherwise free or leased ones.
//! Errors of the choice are found before anything is changed.

use std::thread;
use std::time::{Duration, Instant};

use netdev::link::LinkInfo;
use netdev::queues::Queue;
use netdev::{Ifindex, Link, NetNs, Netdev, QueueId, QueueType};

use crate::device::RxDevice;
use crate::error::{Error, UsedBy};
use crate::stacked::nics_below;

/// Longest wait for the end of a killed process's binding.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two checks whether a binding has ended.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Chooses the rx queues to receive on: those that were named, otherwise free or leased ones.
pub(crate) fn choose(
    netns: &NetNs,
    link: &LinkInfo,
    named: &[QueueId],
) -> Result<Vec<QueueId>, Error> {
    if !link.up {
        return Err(Error::Down {
            device: link.name.clone(),
        });
    }
    if link.is_virtual() && link.netkit.is_none() {
        refuse_stacked(netns, link)?;
    }
    let queues = rx_queues(netns, link.ifindex)?;
    let kind = match (link.is_physical(), &link.netkit) {
        (true, _) => Kind::Nic,
        (false, Some(_)) => Kind::Netkit,
        (false, None) => Kind::Virtual,
    };
    pick_queues(&link.name, kind, named, &queues)
}

/// Users of an rx queue, for the choice of the queue.
#[derive(Debug, Clone, Copy)]
struct RxQueue {
    id: QueueId,
    /// Whether the queue is leased to a virtual device.
    lent: bool,
    used: Option<UsedBy>,
    /// Whether an AF_XDP socket uses the queue.
    xsk: bool,
}

impl RxQueue {
    fn of(queue: &Queue) -> Self {
        let io_uring = queue.io_uring.map(|_| UsedBy::IoUring);
        Self {
            id: queue.id,
            lent: queue.lease.is_some(),
            used: queue.dmabuf.map(UsedBy::Dmabuf).or(io_uring),
            xsk: queue.xsk,
        }
    }
}

/// Kind of a device, by the origin of its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nic,
    /// A netkit: queue 0 is its own, the others are leased.
    Netkit,
    /// Any other virtual device.
    Virtual,
}

fn rx_queues(netns: &NetNs, ifindex: Ifindex) -> Result<Vec<RxQueue>, Error> {
    let queues = Netdev::open_in(netns)?.queues(Some(ifindex))?;
    let queues = queues.iter().filter(|queue| queue.kind == QueueType::Rx);
    Ok(queues.map(RxQueue::of).collect())
}

/// Chooses the queues that were named; otherwise a NIC's last free queue, or all that a netkit
/// leases.
fn pick_queues(
    device: &str,
    kind: Kind,
    named: &[QueueId],
    queues: &[RxQueue],
) -> Result<Vec<QueueId>, Error> {
    if !named.is_empty() {
        check_named(device, kind, named, queues)?;
        return Ok(named.to_vec());
    }
    let device = device.to_owned();
    if kind != Kind::Nic {
        let ids = queues.iter().map(|queue| queue.id);
        let leased: Vec<QueueId> = ids.filter(|id| id.get() > 0).collect();
        return match leased.is_empty() {
            true => Err(Error::NoLease { device }),
            false => Ok(leased),
        };
    }
    let is_free = |queue: &&RxQueue| !queue.lent && queue.used.is_none() && !queue.xsk;
    let free: Vec<QueueId> = queues
        .iter()
        .filter(is_free)
        .map(|queue| queue.id)
        .collect();
    match free.iter().max() {
        // The only one is needed by the other traffic.
        Some(last) if free.len() > 1 => Ok(vec![*last]),
        _ => Err(Error::NoFreeQueue { device }),
    }
}

/// Fails where a named queue does not exist, was named twice, or is a netkit's own.
fn check_named(
    device: &str,
    kind: Kind,
    named: &[QueueId],
    queues: &[RxQueue],
) -> Result<(), Error> {
    let device = || device.to_owned();
    for (turn, &queue) in named.iter().enumerate() {
        if !queues.iter().any(|there| there.id == queue) {
            return Err(Error::NoSuchQueue {
                device: device(),
                queue,
                there: queues.iter().map(|queue| queue.id).collect(),
            });
        }
        if named.iter().take(turn).any(|before| *before == queue) {
            let device = device();
            return Err(Error::NamedTwice { device, queue });
        }
        if kind == Kind::Netkit && queue.get() == 0 {
            return Err(Error::NotLeased { device: device() });
        }
    }
    Ok(())
}

fn refuse_stacked(netns: &NetNs, link: &LinkInfo) -> Result<(), Error> {
    let all = Link::open_in(netns)?.list()?;
    let nics = nics_below(&all, link);
    if nics.is_empty() {
        return Ok(());
    }
    Err(Error::Stacked {
        device: link.name.clone(),
        kind: link.kind.clone().unwrap_or_else(|| "device".to_owned()),
        nics: nics.iter().map(|nic| nic.name.clone()).collect(),
    })
}

/// Waits until bindings of the NIC's queues end, as those of a process that was killed do some time
/// after the process.
pub(crate) fn wait_until_free(device: &RxDevice) -> Result<(), Error> {
    let Some(nic) = &device.nic else {
        return Ok(());
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let queues = rx_queues(&nic.netns, nic.ifindex)?;
        let ours = queues.iter().filter(|queue| nic.queues.contains(&queue.id));
        let mut used = ours.filter_map(|queue| Some((queue.id, queue.used?)));
        let Some((queue, by)) = used.next() else {
            return Ok(());
        };
        if Instant::now() >= end {
            return Err(Error::InUse {
                device: device.link.name.clone(),
                nic: nic.device.clone(),
                queue,
                by,
            });
        }
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use netdev::DmabufId;

    use super::*;

    fn queues(count: u32) -> Vec<RxQueue> {
        let free = |id| RxQueue {
            id: QueueId::new(id),
            lent: false,
            used: None,
            xsk: false,
        };
        (0..count).map(free).collect()
    }

    fn ids(ids: &[u32]) -> Vec<QueueId> {
        ids.iter().copied().map(QueueId::new).collect()
    }

    #[test]
    fn a_nic_gives_its_last_free_queue() {
        let mut all = queues(6);
        let pick = |all: &[RxQueue]| pick_queues("eth1", Kind::Nic, &[], all);
        assert_eq!(pick(&all).unwrap(), ids(&[5]));
        all[5].used = Some(UsedBy::Dmabuf(DmabufId::new(1)));
        all[4].used = Some(UsedBy::IoUring);
        all[3].lent = true;
        all[2].xsk = true;
        assert_eq!(pick(&all).unwrap(), ids(&[1]));
        all[1].used = Some(UsedBy::IoUring);
        // All ordinary packets come by queue 0 then.
        assert!(matches!(pick(&all), Err(Error::NoFreeQueue { .. })));
        all[0].lent = true;
        assert!(matches!(pick(&all), Err(Error::NoFreeQueue { .. })));
        // The other traffic needs one.
        assert!(matches!(pick(&queues(1)), Err(Error::NoFreeQueue { .. })));
        assert!(matches!(pick(&[]), Err(Error::NoFreeQueue { .. })));
    }

    #[test]
    fn a_netkit_gives_all_that_it_leases() {
        let pick = |kind, count| pick_queues("nk0", kind, &[], &queues(count));
        assert_eq!(pick(Kind::Netkit, 3).unwrap(), ids(&[1, 2]));
        assert!(matches!(
            pick(Kind::Netkit, 1),
            Err(Error::NoLease { device }) if device == "nk0"
        ));
        assert!(matches!(pick(Kind::Virtual, 1), Err(Error::NoLease { .. })));
    }

    #[test]
    fn named_queues_are_checked() {
        let all = queues(4);
        let pick = |kind, named: &[u32]| pick_queues("eth1", kind, &ids(named), &all);
        assert_eq!(pick(Kind::Nic, &[3, 0]).unwrap(), ids(&[3, 0]));
        assert!(matches!(
            pick(Kind::Nic, &[3, 4]),
            Err(Error::NoSuchQueue { queue, there, .. })
                if queue.get() == 4 && there == ids(&[0, 1, 2, 3])
        ));
        assert!(matches!(
            pick(Kind::Nic, &[3, 2, 3]),
            Err(Error::NamedTwice { queue, .. }) if queue.get() == 3
        ));
        assert!(matches!(
            pick(Kind::Netkit, &[1, 0]),
            Err(Error::NotLeased { .. })
        ));
    }
}
