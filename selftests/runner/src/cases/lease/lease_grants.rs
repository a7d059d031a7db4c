//! Leases that the kernel grants (`queue-create`), and what both ends report afterwards.

use anyhow::{Result, ensure};
use netdev::link::{NetkitMode, Pairing};
use netdev::{Link, QueueId, QueueType};
use nix::libc::ENOENT;

use framework::ifindex;
use framework::leases::{
    ExpectedAck, Guest, check_denied, check_free, delete, run_lease, set_link_down, set_link_up,
};
use framework::testbed::{self, BOX, BOX2, GUEST, HOST, NIC};

const LAST: u32 = testbed::QUEUES - 1;

case!(two_queues);
/// Leases two queues by `devmem-tcp lease`. They must become queues 1 and 2 of the netkit that it
/// makes.
fn two_queues() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let told = run_lease(&format!(
        "--queue 1 --queue 2 --netkit {GUEST} --netns {BOX}"
    ))?;
    set_link_up(Some(BOX), GUEST)?;
    let guest = Guest::find(GUEST, Some(BOX))?;
    ensure!(told.ifindex == Some(guest.ifindex.get()), "another ifindex");
    ensure!(told.phys_queues() == [1, 2], "{told:?}");
    ensure!(told.queues() == [Some(1), Some(2)], "{told:?}");
    guest.check_lease(1, 1)?;
    guest.check_lease(2, 2)?;
    check_free(3)
}

case!(queue_zero);
/// Leases the NIC's queue 0, which must be granted like any other.
fn queue_zero() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(0, 1)?;
    check_free(1)
}

case!(of_either_layer);
/// Leases a queue to a netkit pair of layer 3 and of layer 2. Both must be granted.
fn of_either_layer() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    for mode in [NetkitMode::L3, NetkitMode::L2] {
        let mut guest = Guest::pair_with(GUEST, 2, BOX, mode)?;
        let made = Link::open_in(&guest.netns)?.get(guest.ifindex)?;
        ensure!(made.netkit.is_some_and(|netkit| netkit.mode == mode));
        guest.lease_as(LAST, 1)?;
        delete(HOST)?;
    }
    Ok(())
}

case!(in_one_namespace);
/// Leases a queue to a single netkit in the NIC's namespace. The NIC must report no namespace
/// number.
fn in_one_namespace() -> Result<()> {
    testbed::wire()?;
    let mut single = Guest::single(GUEST, 2)?;
    ensure!(single.nsid.is_none(), "another namespace");
    single.lease_as(LAST, 1)?;
    delete(GUEST)?;
    let told = run_lease(&format!("--queue {LAST} --netkit {GUEST} --kind single"))?;
    ensure!(told.queues() == [Some(1)], "{told:?}");
    let made = Link::open()?.by_name(GUEST)?.netkit;
    ensure!(
        made.is_some_and(|netkit| netkit.pairing == Pairing::Single),
        "the tool made a pair"
    );
    Guest::find(GUEST, None)?.check_lease(LAST, 1)
}

case!(namespace_is_told);
/// Leases a queue to a container. The NIC must report the number of its namespace, which the kernel
/// assigns if there is none.
fn namespace_is_told() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    let before = Link::open()?.nsid(&guest.netns)?;
    guest.lease_as(LAST, 1)?;
    let after = Link::open()?.nsid(&guest.netns)?;
    ensure!(after.is_some(), "the container has no number here");
    ensure!(before.is_none() || before == after, "another number");
    Ok(())
}

case!(devices_down);
/// Leases queues while NIC and netkit are down, by the crate and by the tool. The leases must show
/// when both are up: the kernel reports queues of devices that are up only.
fn devices_down() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    set_link_down(None, NIC)?;
    let mut guest = Guest::pair_down(GUEST, 3, BOX, NetkitMode::L3)?;
    let answer = guest.lease(LAST)??;
    ensure!(answer == QueueId::new(1), "queue {answer}");
    run_lease(&format!("--queue 1 --netkit {GUEST} --netns {BOX}"))?;
    let mut nic = Guest::find(NIC, None)?;
    let told = nic
        .netdev
        .queue(nic.ifindex, QueueType::Rx, QueueId::new(LAST));
    check_denied(told, ENOENT, ExpectedAck::Nothing)?;
    set_link_up(None, NIC)?;
    set_link_up(None, HOST)?;
    set_link_up(Some(BOX), GUEST)?;
    guest.check_lease(LAST, 1)?;
    guest.check_lease(1, 2)
}

case!(to_two_containers);
/// Leases queues of one NIC to two containers. Each netkit's first lease must be its queue 1, and
/// each namespace must have its own number.
fn to_two_containers() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let mut first = Guest::pair(GUEST, 2, BOX)?;
    let mut second = Guest::pair("nk1", 2, BOX2)?;
    first.lease_as(1, 1)?;
    second.lease_as(2, 1)?;
    first.check_lease(1, 1)?;
    let mut link = Link::open()?;
    ensure!(
        link.nsid(&first.netns)? != link.nsid(&second.netns)?,
        "both containers have one number"
    );
    Ok(())
}

case!(virtual_side_is_silent);
/// Asks the netkit for its queues. It must report no lease, neither of the leased queue nor of its
/// own.
fn virtual_side_is_silent() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    guest.lease_as(LAST, 1)?;
    for id in [0, 1] {
        let id = QueueId::new(id);
        let queue = guest.netdev.queue(guest.ifindex, QueueType::Rx, id)?;
        ensure!(
            queue.lease.is_none() && queue.id == id && queue.ifindex == guest.ifindex,
            "{queue:?}"
        );
    }
    let all = guest.netdev.queues(Some(guest.ifindex))?;
    let rx = all.iter().filter(|queue| queue.kind == QueueType::Rx);
    ensure!(rx.count() == 2 && all.iter().all(|queue| queue.lease.is_none()));
    Ok(())
}

case!(other_queues_are_free);
/// Asks the NIC for one queue and for all. It must report a lease of the leased rx queue only.
fn other_queues_are_free() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    guest.lease_as(1, 1)?;
    check_free(0)?;
    for queue in free_queues()? {
        ensure!(queue != QueueId::new(1), "the dump tells of no lease");
    }
    ensure!(free_queues()?.len() == testbed::QUEUES as usize - 1);
    // Nor does a tx queue of that number have to do with it.
    let mut nic = Guest::find(NIC, None)?;
    let tx = nic
        .netdev
        .queue(nic.ifindex, QueueType::Tx, QueueId::new(1))?;
    ensure!(tx.lease.is_none(), "{tx:?}");
    Ok(())
}

/// Returns the NIC's rx queues that the kernel's dump shows without a lease.
fn free_queues() -> Result<Vec<QueueId>> {
    let queues = netdev::Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    let free =
        |queue: &&netdev::queues::Queue| queue.kind == QueueType::Rx && queue.lease.is_none();
    Ok(queues.iter().filter(free).map(|queue| queue.id).collect())
}
