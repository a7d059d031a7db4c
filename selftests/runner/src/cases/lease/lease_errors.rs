//! Leases that the kernel refuses (`queue-create`): the error number and the exact text. The request
//! crosses namespaces, as for a container, unless the case says otherwise.

use anyhow::{Context, Result};
use netdev::queues::{BindOptions, Lease};
use netdev::{Ifindex, Netdev, NsId, QueueId, QueueType};
use nix::libc::{EBUSY, EINVAL, ENODEV, ENONET, EOPNOTSUPP, ERANGE};
use udmabuf::Udmabuf;

use framework::leases::{
    ExpectedAck, Guest, check_denied, check_free, check_lease_denied, check_no_device, move_to,
};
use framework::testbed::{self, BOX, GUEST, HOST, NIC, SENDER};
use framework::tool::sh;
use framework::xdp;
use framework::{ifindex, println_line};

const LAST: u32 = testbed::QUEUES - 1;

// netdev_queue_busy
const LEASED: ExpectedAck = ExpectedAck::Text("Device queue in use due to queue leasing");
const BOUND: ExpectedAck = ExpectedAck::Text("Device queue in use by memory provider");
const XSK: ExpectedAck = ExpectedAck::Text("Device queue in use by AF_XDP");
// netdev_can_create_queue
const PHYSICAL: ExpectedAck = ExpectedAck::Text("Device is not a virtual device");
const NO_CREATION: ExpectedAck = ExpectedAck::Text("Device does not support queue creation");
// netdev_can_lease_queue
const VIRTUAL: ExpectedAck = ExpectedAck::Text("Lease device is a virtual device");
// netdev_nl_queue_create_doit
const TWO_DEVICES: ExpectedAck =
    ExpectedAck::Text("Leasing queues from different devices not supported");
// netkit_queue_create
const PRIMARY: ExpectedAck = ExpectedAck::Text("netkit can only lease against the peer device");
const FULL: ExpectedAck = ExpectedAck::Text("netkit maximum queue limit reached");

// Bytes into the request: the headers are 20, each number is 8, each nest begins with 4.
const TYPE_AT: u32 = 28;
const LEASE_QUEUE_ID_AT: u32 = 52;
const LEASE_QUEUE_TYPE_AT: u32 = 60;

/// Makes a netkit pair whose guest end, in the container, has room for `leases` leases.
fn make_guest(leases: u32) -> Result<Guest> {
    testbed::container()?;
    Guest::pair(GUEST, 1 + leases, BOX)
}

/// Moves the other end of the wire into this namespace as a second NIC, and returns its ifindex.
fn bring_second_nic() -> Result<Ifindex> {
    move_to(Some(testbed::PEER), SENDER, None)?;
    ifindex(SENDER)
}

/// Options of `devmem-tcp lease` for a netkit in the container.
fn container_options(queue: u32, netkit: &str) -> String {
    format!("--queue {queue} --netkit {netkit} --netns {BOX}")
}

case!(already_leased);
/// Leases a queue that another netkit of the same container leases. The kernel must refuse.
fn already_leased() -> Result<()> {
    testbed::wire()?;
    let mut first = make_guest(1)?;
    let mut second = Guest::pair("nk1", 2, BOX)?;
    first.lease_as(LAST, 1)?;
    check_denied(second.lease(LAST)?, EBUSY, LEASED)?;
    check_lease_denied(
        &container_options(LAST, "nk1"),
        "queue-create nk1 from eth1 rx 3: Device queue in use due to queue leasing (EBUSY)",
    )?;
    first.check_lease(LAST, 1)
}

case!(already_leased_by_itself);
/// Leases a queue twice to the same netkit. The kernel must refuse, and the refusal take no room.
fn already_leased_by_itself() -> Result<()> {
    testbed::wire()?;
    let mut guest = make_guest(2)?;
    guest.lease_as(LAST, 1)?;
    check_denied(guest.lease(LAST)?, EBUSY, LEASED)?;
    guest.check_lease(LAST, 1)?;
    // The refusal took no room.
    guest.lease_as(LAST - 1, 2)
}

case!(already_leased_by_a_single);
/// Leases a queue twice to the same single netkit, in the NIC's namespace. The kernel must refuse.
fn already_leased_by_a_single() -> Result<()> {
    testbed::wire()?;
    let mut single = Guest::single(GUEST, 3)?;
    single.lease_as(LAST, 1)?;
    check_denied(single.lease(LAST)?, EBUSY, LEASED)?;
    check_lease_denied(
        &format!("--queue {LAST} --netkit {GUEST}"),
        "queue-create nk0 from eth1 rx 3: Device queue in use due to queue leasing (EBUSY)",
    )?;
    single.check_lease(LAST, 1)
}

case!(already_bound);
fn already_bound() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let memory = Udmabuf::builder(1 << 20).build()?;
    let binding = Netdev::open()?.bind_rx(
        ifindex(NIC)?,
        &memory,
        &[QueueId::new(LAST)],
        BindOptions::default(),
    )?;
    let mut guest = make_guest(1)?;
    check_denied(guest.lease(LAST)?, EBUSY, BOUND)?;
    binding.unbind();
    guest.lease_as(LAST, 1)
}

case!(in_use_by_af_xdp);
fn in_use_by_af_xdp() -> Result<()> {
    testbed::wire()?;
    let _socket = xdp::socket(ifindex(NIC)?.get(), LAST).context("AF_XDP socket")?;
    check_denied(make_guest(1)?.lease(LAST)?, EBUSY, XSK)
}

case!(primary_end);
/// Leases a queue to the primary end of a netkit pair. The kernel must refuse.
fn primary_end() -> Result<()> {
    testbed::wire()?;
    let mut peer = make_guest(1)?;
    let mut primary = Guest::find(HOST, None)?;
    check_denied(primary.lease(LAST)?, EOPNOTSUPP, PRIMARY)?;
    check_lease_denied(
        &format!("--queue {LAST} --netkit {HOST}"),
        "queue-create nk0h from eth1 rx 3: netkit can only lease against the peer device \
         (EOPNOTSUPP)",
    )?;
    peer.lease_as(LAST, 1)
}

case!(no_room);
/// Leases a queue to a netkit that has only its own queue. The kernel must refuse.
fn no_room() -> Result<()> {
    testbed::wire()?;
    check_denied(make_guest(0)?.lease(LAST)?, EINVAL, FULL)?;
    check_lease_denied(
        &(container_options(LAST, "nk1") + " --rx-queues 1"),
        "queue-create nk1 from eth1 rx 3: netkit maximum queue limit reached (EINVAL)",
    )?;
    check_no_device("nk1h")?;
    check_free(LAST)
}

case!(room_exhausted);
/// Leases three queues to a netkit with room for two. The kernel must grant two and refuse the
/// third.
fn room_exhausted() -> Result<()> {
    testbed::wire()?;
    let mut guest = make_guest(2)?;
    guest.lease_as(1, 1)?;
    guest.lease_as(2, 2)?;
    check_denied(guest.lease(3)?, EINVAL, FULL)?;
    check_lease_denied(
        &container_options(3, GUEST),
        "queue-create nk0 from eth1 rx 3: netkit maximum queue limit reached (EINVAL)",
    )?;
    guest.check_lease(1, 1)?;
    guest.check_lease(2, 2)?;
    check_free(3)
}

case!(two_nics);
fn two_nics() -> Result<()> {
    testbed::wire()?;
    let other = bring_second_nic()?;
    let mut guest = make_guest(2)?;
    guest.lease_as(LAST, 1)?;
    check_denied(guest.lease_of(other, LAST), EOPNOTSUPP, TWO_DEVICES)?;
    guest.check_lease(LAST, 1)?;
    guest.lease_as(LAST - 1, 2)
}

case!(two_nics_to_a_single);
/// Leases queues of two NICs to a single netkit, in the NICs' namespace. The kernel must refuse the
/// second NIC.
fn two_nics_to_a_single() -> Result<()> {
    testbed::wire()?;
    let other = bring_second_nic()?;
    let mut single = Guest::single(GUEST, 3)?;
    single.lease_as(LAST, 1)?;
    check_denied(single.lease_of(other, LAST), EOPNOTSUPP, TWO_DEVICES)?;
    single.check_lease(LAST, 1)
}

case!(queue_out_of_range);
fn queue_out_of_range() -> Result<()> {
    testbed::wire()?;
    let mut guest = make_guest(1)?;
    let at = ExpectedAck::Attribute(LEASE_QUEUE_ID_AT);
    check_denied(guest.lease(testbed::QUEUES)?, ERANGE, at)?;
    guest.lease_as(LAST, 1)
}

case!(virtual_lessor);
fn virtual_lessor() -> Result<()> {
    let mut guest = make_guest(1)?;
    let lessor = Guest::single("nk1", 2)?;
    check_denied(guest.lease_of(lessor.ifindex, 0), EINVAL, VIRTUAL)
}

case!(itself);
/// Leases a netkit's queue to the netkit itself. The kernel must refuse, because the lessor is a
/// virtual device.
fn itself() -> Result<()> {
    let mut single = Guest::single(GUEST, 2)?;
    check_denied(single.lease_of(single.ifindex, 0), EINVAL, VIRTUAL)
}

case!(physical_lessee);
/// Leases queues to a NIC, from another NIC and from itself. The kernel must refuse, because the
/// lessee is physical.
fn physical_lessee() -> Result<()> {
    testbed::wire()?;
    let other = bring_second_nic()?;
    let mut nic = Guest::find(NIC, None)?;
    check_denied(nic.lease_of(other, 0), EINVAL, PHYSICAL)?;
    check_denied(nic.lease(LAST)?, EINVAL, PHYSICAL)
}

case!(veth_lessee);
fn veth_lessee() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    sh(&format!(
        "ip link add nkveth0 type veth peer name nkveth1 netns {BOX}"
    ))?;
    let mut veth = Guest::find("nkveth1", Some(BOX))?;
    check_denied(veth.lease(LAST)?, EINVAL, NO_CREATION)?;
    check_lease_denied(
        &container_options(LAST, "nkveth1"),
        "lease nkveth1: a veth, not a netkit",
    )
}

case!(tx_lessee);
/// Leases an rx queue of the NIC as a tx queue. The kernel must refuse.
fn tx_lessee() -> Result<()> {
    testbed::wire()?;
    check_queue_types(QueueType::Tx, QueueType::Rx, TYPE_AT)
}

case!(tx_lessor);
/// Leases a tx queue of the NIC as an rx queue. The kernel must refuse.
fn tx_lessor() -> Result<()> {
    testbed::wire()?;
    check_queue_types(QueueType::Rx, QueueType::Tx, LEASE_QUEUE_TYPE_AT)
}

fn check_queue_types(kind: QueueType, of_kind: QueueType, bad: u32) -> Result<()> {
    let mut guest = make_guest(1)?;
    let lease = guest.request(ifindex(NIC)?, LAST);
    println_line(&format!("{kind} from {of_kind}"));
    let answer = guest
        .netdev
        .queue_create(guest.ifindex, kind, lease, of_kind);
    check_denied(answer, EINVAL, ExpectedAck::Attribute(bad))?;
    guest.lease_as(LAST, 1)
}

case!(no_such_namespace_id);
fn no_such_namespace_id() -> Result<()> {
    let mut guest = make_guest(1)?;
    let lease = Lease {
        netns_id: Some(NsId::new(4242)),
        ..guest.request(Ifindex::new(1), 0)
    };
    let answer = guest.netdev.lease(guest.ifindex, lease);
    check_denied(answer, ENONET, ExpectedAck::Nothing)
}

case!(no_such_device);
fn no_such_device() -> Result<()> {
    let mut guest = make_guest(1)?;
    let nowhere = Ifindex::new(4242);
    check_denied(guest.lease_of(nowhere, 0), ENODEV, ExpectedAck::Nothing)?;
    guest.ifindex = nowhere;
    testbed::wire()?;
    check_denied(guest.lease(LAST)?, ENODEV, ExpectedAck::Nothing)
}
