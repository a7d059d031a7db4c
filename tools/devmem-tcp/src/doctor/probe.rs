//! Probes of a driver's abilities, by requests that the kernel must refuse.

use std::fs::File;
use std::panic::resume_unwind;
use std::thread;

use netdev::ethtool::{HeaderSplit, Rings, RingsChange};
use netdev::link::{LinkInfo, NetkitSingle};
use netdev::queues::{BindOptions, Lease};
use netdev::{Error, Ethtool, Ifindex, Link, Netdev, QueueId, Result};
use nix::sched::{CloneFlags, unshare};

use super::machine::Machine;
use super::namespace::Namespace;

/// Whether the driver has a queue API (`netdev_queue_mgmt_ops`), and what would refuse a binding.
#[derive(Debug)]
pub(super) enum QueueApi {
    /// The driver has a queue API.
    There,
    /// The driver probably has a queue API, because the device has a lock of its own; with the
    /// reason why it is not certain.
    Likely(String),
    /// The driver has no queue API.
    Missing,
    /// The device has no DMA device.
    NoDma,
    /// The kernel was built without devmem.
    NoDevmem,
    /// The probe failed, with the error's text.
    Unknown(String),
}

/// Requests a binding of `/dev/null`: `netdev_nl_bind_rx_doit` checks the device's lock, the queue
/// and its DMA device before `net_devmem_bind_dmabuf` checks the descriptor.
pub(super) fn queue_api(
    machine: &Machine,
    namespace: &Namespace,
    link: &LinkInfo,
    queue: QueueId,
) -> QueueApi {
    let null = match File::open("/dev/null") {
        Ok(null) => null,
        Err(error) => return QueueApi::Unknown(format!("/dev/null: {error}")),
    };
    let bind =
        |netdev: Netdev| netdev.bind_rx(link.ifindex, null, &[queue], BindOptions::default());
    let Err(error) = Netdev::open_in(&namespace.netns).and_then(bind) else {
        return QueueApi::Unknown("the kernel bound /dev/null".to_owned());
    };
    let at_attribute = error.ext_ack().is_some_and(|ack| ack.offset().is_some());
    match (error.raw_os_error(), at_attribute, error.message()) {
        (Some(libc::EOPNOTSUPP), true, _) => QueueApi::Missing,
        (Some(libc::EOPNOTSUPP), _, Some(text)) if text.contains("DMA") => QueueApi::NoDma,
        (Some(libc::EOPNOTSUPP), ..) => QueueApi::NoDevmem,
        // The descriptor is not a dmabuf (`dma_buf_get`).
        (Some(libc::EINVAL), false, _) if link.is_virtual() => QueueApi::There,
        (Some(libc::EINVAL), false, _) if machine.has_netkit() => can_lease(namespace, link),
        // Making a netkit for the probe would load a module.
        (Some(libc::EINVAL), false, _) => {
            QueueApi::Likely("the probe needs netkit, which is not loaded".to_owned())
        }
        (Some(libc::EPERM), ..) => QueueApi::Unknown("the probe needs CAP_NET_ADMIN".to_owned()),
        _ => QueueApi::Unknown(error.to_string()),
    }
}

/// Requests a lease of a queue with an impossible number: `netdev_can_lease_queue` checks the
/// driver before `netdev_nl_queue_create_doit` checks the number.
///
/// The lessee is a netkit in a network namespace of this thread's own, which ends with the thread
/// and is visible to no one else.
fn can_lease(namespace: &Namespace, link: &LinkInfo) -> QueueApi {
    let ask = || -> Result<QueueId> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::from_errno("unshare", "netns", errno as i32))?;
        let mut own = Link::open()?;
        let lessee = own.create_netkit_single(&NetkitSingle::new("nk0"))?;
        let lease = Lease {
            of: link.ifindex,
            queue: QueueId::new(i32::MAX as u32),
            netns_id: Some(own.nsid_or_assign(&namespace.netns)?),
        };
        Netdev::open()?.lease(lessee, lease)
    };
    let asked = thread::scope(|scope| {
        let asking = thread::Builder::new().spawn_scoped(scope, ask)?;
        Ok(asking.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let asked = match asked {
        Ok(asked) => asked,
        // No thread could be started.
        Err(error) => return QueueApi::Unknown(std::io::Error::to_string(&error)),
    };
    match asked {
        Ok(_) => QueueApi::Unknown("the kernel leased a queue that does not exist".to_owned()),
        Err(error) => match (error.raw_os_error(), error.message()) {
            (Some(libc::ERANGE), _) => QueueApi::There,
            (_, Some(text)) if text.contains("queue management") => QueueApi::Missing,
            _ => QueueApi::Likely(error.to_string()),
        },
    }
}

/// Requests a binding of `/dev/null` for sending: `netdev_nl_bind_tx_doit` checks the device first.
/// `Ok` if the descriptor is refused.
pub(super) fn netmem_tx(namespace: &Namespace, link: &LinkInfo) -> Result<()> {
    let null = File::open("/dev/null").map_err(|e| Error::from_io("open", "/dev/null", &e))?;
    let bind = |netdev: Netdev| netdev.bind_tx(link.ifindex, null);
    match Netdev::open_in(&namespace.netns).and_then(bind) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether header split of a NIC can be set.
#[derive(Debug)]
pub(super) enum Settable {
    Yes,
    No(String),
    Unknown(String),
}

/// Requests header split together with an impossible ring size: `ethnl_set_rings_validate` refuses
/// first what the driver can't set, then `ethnl_set_rings` refuses the size.
pub(super) fn splits(ethtool: &mut Ethtool, ifindex: Ifindex, rings: Option<&Rings>) -> Settable {
    let Some(rings) = rings else {
        return Settable::No("the driver has no rings to set".to_owned());
    };
    if rings.rx_max == Some(u32::MAX) {
        return Settable::Unknown("a ring may have any size".to_owned());
    }
    let change = RingsChange {
        rx: Some(u32::MAX),
        tcp_data_split: Some(HeaderSplit::Enabled),
        // A driver without a threshold refuses to have it set, even to 0.
        hds_thresh: rings.hds_thresh.filter(|&bytes| bytes > 0).map(|_| 0),
        ..RingsChange::default()
    };
    match ethtool.set_rings(ifindex, &change) {
        Ok(()) => Settable::Unknown("the driver took a ring of any size".to_owned()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                let words = error.message().map(str::to_owned);
                Settable::No(words.unwrap_or_else(|| "the driver has no rings to set".to_owned()))
            }
            Some(libc::EPERM) => Settable::Unknown("the probe needs CAP_NET_ADMIN".to_owned()),
            _ => Settable::Yes,
        },
    }
}
