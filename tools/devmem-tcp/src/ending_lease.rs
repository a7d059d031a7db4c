//! Leases that end with their netkit.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use netdev::queues::Queue;
use netdev::{DmabufId, Ifindex, Link, NetNs, Netdev, NsId, QueueId, QueueType};
use serde::Serialize;

use crate::remedy::Hint;
use crate::report;

/// Longest wait until the leased queues of the NIC are free, which takes a stop and start of a
/// queue.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a message reports the wait for the queues.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// Namespace of a netkit's guest end, seen from the host end's namespace.
#[derive(Debug)]
pub(crate) enum GuestLocation {
    /// Namespace that can be entered.
    Entered(NetNs),
    /// Namespace that can't be entered, by its id in the host end's namespace; `None` is the host
    /// end's.
    Id(Option<NsId>),
}

/// A lease that ends with its netkit, as the NIC's side shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndingLease {
    pub(crate) phys: String,
    pub(crate) phys_queue: QueueId,
    /// Number of the netkit's queue.
    pub(crate) queue: QueueId,
    /// Id of the dmabuf that is bound to the leased queue.
    pub(crate) dmabuf: Option<DmabufId>,
    /// Whether an io_uring instance receives through the queue.
    pub(crate) io_uring: bool,
    /// Namespace of the NIC.
    #[serde(skip)]
    pub(crate) netns: NetNs,
    #[serde(skip)]
    pub(crate) ifindex: Ifindex,
    /// Number of the netkit, and the id of its namespace in the NIC's.
    #[serde(skip)]
    guest: (Ifindex, Option<NsId>),
}

impl EndingLease {
    /// Lists the leases from NICs in `netns` to the netkit with the number `guest` at `location`.
    pub(crate) fn of(netns: &NetNs, guest: Ifindex, location: &GuestLocation) -> Result<Vec<Self>> {
        let mut links = Link::open_in(netns)?;
        let queues = Netdev::open_in(netns)?.queues(None)?;
        // After the listing, which gives the guest's namespace its id (`netdev_nl_queue_fill_lease`).
        let nsid = match location {
            GuestLocation::Id(nsid) => *nsid,
            GuestLocation::Entered(entered) if entered.is_same(netns)? => None,
            GuestLocation::Entered(entered) => match links.nsid(entered)? {
                None => return Ok(Vec::new()),
                nsid => nsid,
            },
        };
        let mut leases = Vec::new();
        for queue in queues {
            let Some(lease) = &queue.lease else { continue };
            let its = (lease.ifindex, lease.netns_id) == (guest, nsid);
            if queue.kind != QueueType::Rx || !its {
                continue;
            }
            leases.push(Self {
                phys: links.get(queue.ifindex)?.name,
                phys_queue: queue.id,
                queue: lease.queue,
                dmabuf: queue.dmabuf,
                io_uring: queue.io_uring.is_some(),
                netns: netns.clone(),
                ifindex: queue.ifindex,
                guest: (guest, nsid),
            });
        }
        Ok(leases)
    }

    /// Describes the memory that the queue is bound to, if it is bound.
    pub(crate) fn bound(&self) -> Option<String> {
        match (self.dmabuf, self.io_uring) {
            (Some(id), _) => Some(format!("dmabuf {id}")),
            (None, true) => Some("an io_uring instance".to_owned()),
            (None, false) => None,
        }
    }

    /// Whether the NIC's queue is free of the lease and of its binding, or the NIC is gone. The
    /// queue may have another lease by now.
    fn has_ended(&self) -> Result<bool> {
        let queue =
            Netdev::open_in(&self.netns)?.queue(self.ifindex, QueueType::Rx, self.phys_queue);
        match queue {
            Ok(queue) => Ok(!self.holds(&queue)),
            // The NIC is gone, or down, or has fewer queues by now.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
                ) =>
            {
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl EndingLease {
    /// Whether the NIC's queue still has the lease, or the binding of the leased queue.
    fn holds(&self, queue: &Queue) -> bool {
        let lease = queue.lease.map(|lease| (lease.ifindex, lease.netns_id));
        let bound = self.dmabuf.is_some() && queue.dmabuf == self.dmabuf;
        lease == Some(self.guest) || bound
    }
}

impl fmt::Display for EndingLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rx {}", self.phys, self.phys_queue)
    }
}

/// Waits until the NIC's queues are free again.
pub(crate) fn wait(netkit: &str, leases: &[EndingLease]) -> Result<()> {
    let begin = Instant::now();
    let mut told = false;
    for lease in leases {
        while !lease.has_ended()? {
            if begin.elapsed() > RELEASE_TIMEOUT {
                return Err(Hint::new(
                    format!(
                        "unlease {netkit}: it is deleted, but {lease} is not free after {} s",
                        RELEASE_TIMEOUT.as_secs()
                    ),
                    "`devmem-tcp show` says who has it; the kernel's log may say why",
                )
                .into());
            }
            if !told && begin.elapsed() > NOTICE_AFTER {
                report::tell(format_args!(
                    "{netkit} is deleted; waiting for {lease} to be free"
                ));
                told = true;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
