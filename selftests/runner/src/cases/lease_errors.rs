//! What `queue-create` refuses, with which error number and in which words.

use anyhow::{Context, Result};
use netdev::{BindOptions, Ifindex, Lease, Link, Netdev, NetkitPair, QueueId};
use nix::libc::{EBUSY, EINVAL, ENODEV, ENONET, EOPNOTSUPP, ERANGE};
use udmabuf::Udmabuf;

use super::{ifindex, refused};
use crate::bed::{self, NIC};
use crate::tool::sh;
use crate::xdp;

const LAST: QueueId = QueueId::new(bed::QUEUES - 1);

/// A single netkit with room for one lease.
fn netkit(name: &str) -> Result<Ifindex> {
    super::netkit(name, 2)
}

fn lease(to: Ifindex, of: Ifindex, queue: QueueId) -> netdev::Result<QueueId> {
    Netdev::open()?.lease(
        to,
        Lease {
            of,
            queue,
            netns_id: None,
        },
    )
}

pub(super) fn already_leased() -> Result<()> {
    bed::wire()?;
    lease(netkit("nk0")?, ifindex(NIC)?, LAST)?;
    refused(
        lease(netkit("nk1")?, ifindex(NIC)?, LAST),
        EBUSY,
        Some("queue leasing"),
    )
}

pub(super) fn already_bound() -> Result<()> {
    bed::wire()?;
    bed::split()?;
    let memory = Udmabuf::builder(1 << 20).build()?;
    let _binding =
        Netdev::open()?.bind_rx(ifindex(NIC)?, &memory, &[LAST], BindOptions::default())?;
    refused(
        lease(netkit("nk0")?, ifindex(NIC)?, LAST),
        EBUSY,
        Some("memory provider"),
    )
}

pub(super) fn in_use_by_af_xdp() -> Result<()> {
    bed::wire()?;
    let _socket = xdp::socket(ifindex(NIC)?.get(), LAST.get()).context("AF_XDP socket")?;
    refused(
        lease(netkit("nk0")?, ifindex(NIC)?, LAST),
        EBUSY,
        Some("AF_XDP"),
    )
}

pub(super) fn primary_end() -> Result<()> {
    bed::wire()?;
    let mut pair = NetkitPair::new("nk0h", "nk0");
    pair.rx_queues = Some(2);
    let ends = Link::open()?.create_netkit(&pair)?;
    refused(
        lease(ends.primary, ifindex(NIC)?, LAST),
        EOPNOTSUPP,
        Some("against the peer"),
    )?;
    lease(ends.peer, ifindex(NIC)?, LAST)?;
    Ok(())
}

pub(super) fn capacity() -> Result<()> {
    bed::wire()?;
    let netkit = netkit("nk0")?;
    lease(netkit, ifindex(NIC)?, LAST)?;
    let next = QueueId::new(LAST.get() - 1);
    refused(
        lease(netkit, ifindex(NIC)?, next),
        EINVAL,
        Some("maximum queue limit"),
    )
}

pub(super) fn two_nics() -> Result<()> {
    bed::wire()?;
    sh(&format!(
        "ip -n {} link set {} netns 1",
        bed::PEER,
        bed::SENDER
    ))?;
    let netkit = super::netkit("nk0", 3)?;
    lease(netkit, ifindex(NIC)?, LAST)?;
    let other = ifindex(bed::SENDER)?;
    refused(
        lease(netkit, other, LAST),
        EOPNOTSUPP,
        Some("from different devices"),
    )
}

pub(super) fn queue_out_of_range() -> Result<()> {
    bed::wire()?;
    let queue = QueueId::new(bed::QUEUES);
    refused(lease(netkit("nk0")?, ifindex(NIC)?, queue), ERANGE, None)
}

pub(super) fn virtual_lessor() -> Result<()> {
    let result = lease(netkit("nk0")?, netkit("nk1")?, QueueId::new(0));
    refused(result, EINVAL, Some("Lease device is a virtual device"))
}

pub(super) fn physical_lessee() -> Result<()> {
    bed::wire()?;
    let result = lease(ifindex(NIC)?, ifindex(NIC)?, LAST);
    refused(result, EINVAL, Some("not a virtual device"))
}

pub(super) fn veth_lessee() -> Result<()> {
    bed::wire()?;
    sh("ip link add nkveth0 type veth peer name nkveth1")?;
    let result = lease(ifindex("nkveth0")?, ifindex(NIC)?, LAST);
    refused(result, EINVAL, Some("does not support queue creation"))
}

pub(super) fn no_such_namespace_id() -> Result<()> {
    bed::wire()?;
    let lease = Lease {
        of: ifindex(NIC)?,
        queue: LAST,
        netns_id: Some(4242),
    };
    refused(Netdev::open()?.lease(netkit("nk0")?, lease), ENONET, None)
}

pub(super) fn no_such_device() -> Result<()> {
    refused(
        lease(netkit("nk0")?, Ifindex::new(4242), LAST),
        ENODEV,
        None,
    )?;
    bed::wire()?;
    refused(lease(Ifindex::new(4242), ifindex(NIC)?, LAST), ENODEV, None)
}
