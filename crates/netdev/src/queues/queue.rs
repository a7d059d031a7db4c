//! Queues and their leases.

use netlink::{Attr, Attrs, Family, Request, Result};
use serde::Serialize;

use super::{Netdev, cmd};
use crate::parse::{Parsed, attributes, required};
use crate::{DmabufId, Ifindex, NapiId, NsId, QueueId, QueueType};

attributes! {
    /// Attributes of a queue: `NETDEV_A_QUEUE_*`.
    pub(super) mod attr {
        ID = 1, number("id");
        IFINDEX = 2, number("ifindex");
        TYPE = 3, choice("type", &["rx", "tx"]);
        NAPI_ID = 4, number("napi-id");
        DMABUF = 5, number("dmabuf");
        IO_URING = 6, nest("io-uring", io_uring::ALL);
        XSK = 7, flag("xsk");
        LEASE = 8, nest("lease", lease::ALL);
    }
}

attributes! {
    /// Attributes of a lease: `NETDEV_A_LEASE_*`.
    mod lease {
        IFINDEX = 1, number("ifindex");
        QUEUE = 2, nest("queue", queue_id::ALL);
        NETNS_ID = 3, signed("netns-id");
    }
}

attributes! {
    /// Attributes of the queue in a lease, and of each queue of a binding: `NETDEV_A_QUEUE_*`.
    pub(super) mod queue_id {
        ID = 1, number("id");
        TYPE = 3, choice("type", &["rx", "tx"]);
    }
}

attributes! {
    /// Attributes of a memory provider: `NETDEV_A_IO_URING_PROVIDER_INFO_*`.
    pub(super) mod io_uring {
        RX_BUF_LEN = 1, number("rx-buf-len");
    }
}

impl Netdev {
    /// Reads the users of a queue (`netdev_nl_queue_get_doit`).
    ///
    /// # Errors
    /// `ENODEV` without such a device, `ENOENT` where the device is down, `EINVAL` for a queue out of range.
    #[doc(alias = "NETDEV_CMD_QUEUE_GET")]
    pub fn queue(&mut self, ifindex: Ifindex, kind: QueueType, id: QueueId) -> Result<Queue> {
        let object = format!("{} {kind} queue {id}", self.0.device(ifindex));
        let request = queue_get(&self.0.family, ifindex, kind, id, object);
        self.0.ask(&request, Queue::parse)
    }

    /// Lists the active queues of one device or of all (`netdev_nl_queue_get_dumpit`).
    ///
    /// # Errors
    /// `ENODEV` without such a device.
    #[doc(alias = "NETDEV_CMD_QUEUE_GET")]
    pub fn queues(&mut self, of: Option<Ifindex>) -> Result<Vec<Queue>> {
        let request = self.listing(cmd::QUEUE_GET, "queue-get", attr::IFINDEX, of);
        self.0.dump(&request, Queue::parse)
    }

    /// Leases an rx queue of a physical device to the virtual device `virt`, as a new queue of
    /// `virt`, and returns the new queue's number (`netdev_nl_queue_create_doit`, since Linux 7.1).
    ///
    /// `virt` is a netkit single, or the peer of a netkit pair, in this handle's network namespace.
    /// The lease ends only when one of the devices is removed.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` in the initial user namespace; `EBUSY` for a queue that is
    /// leased, bound or used by AF_XDP; `ERANGE` for a queue out of range; `EINVAL` for a device
    /// that can't lease; `ENODEV`, `ENONET` where device or namespace don't exist; `EOPNOTSUPP`
    /// where `virt` has leases from another device.
    #[doc(alias = "NETDEV_CMD_QUEUE_CREATE")]
    pub fn lease(&mut self, virt: Ifindex, lease: Lease) -> Result<QueueId> {
        self.queue_create(virt, QueueType::Rx, lease, QueueType::Rx)
    }

    /// Leases a queue like [`Netdev::lease`], of a given type, as a new queue of a given type. Up
    /// to Linux 7.3 the kernel leases only rx queues to rx queues (`netdev_nl_queue_create_doit`),
    /// so this tests whether a kernel leases others.
    ///
    /// # Errors
    /// As for [`Netdev::lease`]; `EINVAL` for a type that the kernel does not lease, with
    /// [`ExtAck::offset`](netlink::ExtAck::offset) at the type.
    #[doc(alias = "NETDEV_CMD_QUEUE_CREATE")]
    pub fn queue_create(
        &mut self,
        virt: Ifindex,
        kind: QueueType,
        lease: Lease,
        of_kind: QueueType,
    ) -> Result<QueueId> {
        let object = format!(
            "{} from {} queue {}",
            self.0.device(virt),
            self.physical_device_name(lease),
            lease.queue
        );
        let request = queue_create(&self.0.family, (virt, kind), (lease, of_kind), object);
        self.0.ask(&request, parse_id)
    }

    /// Name, for errors, of the device that a queue is leased from.
    fn physical_device_name(&self, lease: Lease) -> String {
        match lease.netns_id {
            None => self.0.device(lease.of),
            // Names are looked up in this namespace, and the device is in another one.
            Some(nsid) => format!("ifindex {} of nsid {nsid}", lease.of),
        }
    }
}

pub(super) fn queue_get(
    family: &Family,
    ifindex: Ifindex,
    kind: QueueType,
    id: QueueId,
    object: String,
) -> Request {
    let mut request = family.request(cmd::QUEUE_GET, "queue-get", object);
    let attrs = request.attrs().u32(attr::IFINDEX, ifindex.get());
    attrs.u32(attr::TYPE, kind.raw()).u32(attr::ID, id.get());
    request
}

/// Creates a request for a queue of `kind` on `virt` that leases the queue in `lease`, a queue of
/// the type `of_kind`.
pub(super) fn queue_create(
    family: &Family,
    (virt, kind): (Ifindex, QueueType),
    (lease, of_kind): (Lease, QueueType),
    object: String,
) -> Request {
    let mut request = family.request(cmd::QUEUE_CREATE, "queue-create", object);
    request
        .attrs()
        .u32(attr::IFINDEX, virt.get())
        .u32(attr::TYPE, kind.raw());
    request.attrs().nest(attr::LEASE, |nest| {
        nest.u32(lease::IFINDEX, lease.of.get());
        nest.nest(lease::QUEUE, |queue| {
            queue.u32(queue_id::ID, lease.queue.get());
            queue.u32(queue_id::TYPE, of_kind.raw());
        });
        if let Some(nsid) = lease.netns_id {
            nest.i32(lease::NETNS_ID, nsid.get());
        }
    });
    request
}

/// Parses the answer to `queue-create`: an id.
pub(super) fn parse_id(attrs: Attrs<'_>) -> Parsed<QueueId> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind() == attr::ID {
            return Ok(QueueId::new(attr.u32()?));
        }
    }
    required(None, attr::ID)
}

/// Parameters of a lease: the physical device's queue to be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Number of the physical device.
    pub of: Ifindex,
    /// Rx queue of the physical device that is leased.
    pub queue: QueueId,
    /// Id of the physical device's network namespace in the caller's; `None` means the same
    /// namespace. Naming another takes `CAP_NET_ADMIN` in the initial user namespace.
    pub netns_id: Option<NsId>,
}

/// Description of a queue and its users (`netdev_nl_queue_fill_one`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Queue {
    /// Device of the queue.
    pub ifindex: Ifindex,
    /// Number of the queue among those of its type.
    pub id: QueueId,
    /// Direction of the queue.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// NAPI instance that serves the queue.
    pub napi: Option<NapiId>,
    /// Id of the dmabuf that the queue receives into.
    pub dmabuf: Option<DmabufId>,
    /// Instance of io_uring that the queue receives into.
    pub io_uring: Option<IoUring>,
    /// Whether an AF_XDP socket uses the queue.
    pub xsk: bool,
    /// Other end of the queue's lease. The kernel reports it on the physical side only.
    pub lease: Option<LeaseInfo>,
}

/// Memory provider of io_uring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IoUring {
    /// Length of the io_uring provider's buffers in bytes.
    pub rx_buf_len: Option<u64>,
}

impl IoUring {
    pub(super) fn parse(nest: &Attr<'_>) -> Parsed<Self> {
        let mut info = Self { rx_buf_len: None };
        for attr in nest.nested() {
            let attr = attr?;
            if attr.kind() == io_uring::RX_BUF_LEN {
                info.rx_buf_len = Some(attr.uint()?);
            }
        }
        Ok(info)
    }
}

/// Queue at the other end of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// Number of the device at the other end of the lease.
    pub ifindex: Ifindex,
    /// Number of the queue at the other end of the lease.
    pub queue: QueueId,
    /// Type of the queue at the other end of the lease.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// Id of the other end's network namespace in this namespace; `None` is this namespace.
    pub netns_id: Option<NsId>,
}

impl LeaseInfo {
    fn parse(nest: &Attr<'_>) -> Parsed<Self> {
        let (mut ifindex, mut queue, mut netns_id) = (None, None, None);
        for attr in nest.nested() {
            let attr = attr?;
            match attr.kind() {
                lease::IFINDEX => ifindex = Some(Ifindex::new(attr.u32()?)),
                lease::QUEUE => queue = Some(parse_queue_id(&attr)?),
                lease::NETNS_ID => netns_id = Some(NsId::new(attr.i32()?)),
                _ => {}
            }
        }
        let (queue, kind) = required(queue, lease::QUEUE)?;
        Ok(Self {
            ifindex: required(ifindex, lease::IFINDEX)?,
            queue,
            kind,
            netns_id,
        })
    }
}

fn parse_queue_id(nest: &Attr<'_>) -> Parsed<(QueueId, QueueType)> {
    let (mut id, mut kind) = (None, None);
    for attr in nest.nested() {
        let attr = attr?;
        match attr.kind() {
            queue_id::ID => id = Some(QueueId::new(attr.u32()?)),
            queue_id::TYPE => kind = Some(QueueType::parse(&attr)?),
            _ => {}
        }
    }
    Ok((required(id, queue_id::ID)?, required(kind, queue_id::TYPE)?))
}

impl Queue {
    pub(super) fn parse(attrs: Attrs<'_>) -> Parsed<Self> {
        let (mut ifindex, mut id, mut kind) = (None, None, None);
        let (mut napi, mut dmabuf, mut io_uring, mut lease) = (None, None, None, None);
        let mut xsk = false;
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                attr::ID => id = Some(QueueId::new(attr.u32()?)),
                attr::IFINDEX => ifindex = Some(Ifindex::new(attr.u32()?)),
                attr::TYPE => kind = Some(QueueType::parse(&attr)?),
                attr::NAPI_ID => napi = Some(NapiId::new(attr.u32()?)),
                attr::DMABUF => dmabuf = Some(DmabufId::new(attr.u32()?)),
                attr::IO_URING => io_uring = Some(IoUring::parse(&attr)?),
                attr::XSK => xsk = true,
                attr::LEASE => lease = Some(LeaseInfo::parse(&attr)?),
                _ => {}
            }
        }
        Ok(Self {
            ifindex: required(ifindex, attr::IFINDEX)?,
            id: required(id, attr::ID)?,
            kind: required(kind, attr::TYPE)?,
            napi,
            dmabuf,
            io_uring,
            xsk,
            lease,
        })
    }
}
