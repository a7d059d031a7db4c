//! What ends a lease and what does not: the end of a device or a namespace, a link that flaps, a device
//! that moves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use netdev::NetNs;

use framework::leases::{
    ExpectedAck, Guest, check_denied, check_free, check_no_device, delete, is_free, move_to,
    run_lease, set_link_down, set_link_up,
};
use framework::machine;
use framework::testbed::{self, BOX, BOX2, GUEST, HOST, NIC, PEER};
use framework::tool::{command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

const LAST: u32 = testbed::QUEUES - 1;
/// Time limit for the kernel to tear a namespace down after its name is gone.
const TEARDOWN: Duration = Duration::from_secs(30);

/// Makes a netkit pair with its guest end in a namespace, and leases a queue of the NIC to it.
fn make_leasing_guest(netkit: &str, netns: &str, queue: u32) -> Result<Guest> {
    let mut guest = Guest::pair(netkit, 2, netns)?;
    guest.lease_as(queue, 1)?;
    Ok(guest)
}

case!(nic_goes);
/// Removes the NIC. Both ends of the netkit that leases its queue must go, in their namespaces.
fn nic_goes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let guest = make_leasing_guest(GUEST, BOX, LAST)?;
    machine::unload()?;
    check_no_device(NIC)?;
    check_no_device(HOST)?;
    check_gone_from(&guest, GUEST)
}

fn check_gone_from(guest: &Guest, name: &str) -> Result<()> {
    let found = netdev::Link::open_in(&guest.netns)?.by_name(name);
    check_denied(found, nix::libc::ENODEV, ExpectedAck::Nothing)
}

case!(nic_goes_from_two_netkits);
/// Removes a NIC whose queues two netkits lease. Both must go; a netkit that leases nothing must
/// stay.
fn nic_goes_from_two_netkits() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let first = make_leasing_guest(GUEST, BOX, 1)?;
    let second = make_leasing_guest("nk1", BOX, 2)?;
    let idle = Guest::pair("nk2", 2, BOX)?;
    machine::unload()?;
    check_no_device(HOST)?;
    check_no_device("nk1h")?;
    check_gone_from(&first, GUEST)?;
    check_gone_from(&second, "nk1")?;
    ensure!(ifindex("nk2h").is_ok(), "the idle netkit went, too");
    netdev::Link::open_in(&idle.netns)?.by_name("nk2")?;
    Ok(())
}

case!(nic_goes_from_a_single);
/// Removes a NIC whose queue a single netkit leases, in the NIC's namespace. The netkit must go.
fn nic_goes_from_a_single() -> Result<()> {
    testbed::wire()?;
    run_lease(&format!("--queue {LAST} --netkit {GUEST} --kind single"))?;
    Guest::find(GUEST, None)?.check_lease(LAST, 1)?;
    machine::unload()?;
    check_no_device(GUEST)
}

case!(netkit_goes);
/// Deletes the netkit. The NIC's queue must be free again.
fn netkit_goes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    make_leasing_guest(GUEST, BOX, LAST)?;
    delete(HOST)?;
    check_free(LAST)
}

case!(netkit_goes_and_another_leases);
/// Deletes a netkit and leases its queue to a new one of the same name, several times.
fn netkit_goes_and_another_leases() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    for _ in 0..3 {
        let guest = make_leasing_guest(GUEST, BOX, LAST)?;
        guest.delete()?;
        check_free(LAST)?;
    }
    make_leasing_guest(GUEST, BOX, LAST).map(drop)
}

case!(one_netkit_of_two_goes);
/// Deletes one of two netkits. The lease of the other must stay.
fn one_netkit_of_two_goes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    make_leasing_guest(GUEST, BOX, 1)?;
    let second = make_leasing_guest("nk1", BOX, 2)?;
    delete(HOST)?;
    check_free(1)?;
    second.check_lease(2, 1)
}

case!(container_goes);
/// Deletes the container's namespace. Both ends of the netkit and its lease must go.
fn container_goes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    make_leasing_guest(GUEST, BOX, LAST)?;
    delete_container(BOX, LAST)?;
    check_no_device(HOST)
}

/// Deletes a namespace, and waits until the lease of a queue has ended.
fn delete_container(netns: &str, queue: u32) -> Result<()> {
    machine::delete_namespace(netns)?;
    until("the end of the lease", TEARDOWN, || is_free(queue))
}

case!(one_container_of_two_goes);
/// Deletes the namespace of one of two containers. The lease of the other must stay.
fn one_container_of_two_goes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let first = make_leasing_guest(GUEST, BOX, 1)?;
    make_leasing_guest("nk1", BOX2, 2)?;
    delete_container(BOX2, 2)?;
    check_no_device("nk1h")?;
    first.check_lease(1, 1)?;
    ensure!(ifindex(HOST).is_ok(), "the first netkit went, too");
    Ok(())
}

case!(not_by_a_flap_of_the_nic);
fn not_by_a_flap_of_the_nic() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let guest = make_leasing_guest(GUEST, BOX, LAST)?;
    set_link_down(None, NIC)?;
    set_link_up(None, NIC)?;
    guest.check_lease(LAST, 1)
}

case!(not_by_a_flap_of_the_netkit);
fn not_by_a_flap_of_the_netkit() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let guest = make_leasing_guest(GUEST, BOX, LAST)?;
    set_link_down(Some(BOX), GUEST)?;
    guest.check_lease(LAST, 1)?;
    set_link_up(Some(BOX), GUEST)?;
    guest.check_lease(LAST, 1)
}

case!(not_by_a_move_of_the_netkit);
/// Moves the guest end to another container. The lease must stay, and the NIC report the new
/// namespace.
fn not_by_a_move_of_the_netkit() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    make_leasing_guest(GUEST, BOX, LAST)?;
    move_to(Some(BOX), GUEST, Some(BOX2))?;
    Guest::find(GUEST, Some(BOX2))?.check_lease(LAST, 1)
}

case!(not_by_a_move_of_the_nic);
/// Moves the NIC to another namespace and back. The lease must stay, and be reported in both.
fn not_by_a_move_of_the_nic() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let guest = make_leasing_guest(GUEST, BOX, LAST)?;
    move_to(None, NIC, Some(PEER))?;
    set_link_up(Some(PEER), NIC)?;
    let there = NetNs::by_name(PEER)?;
    guest.check_lease_from(&there, LAST, 1)?;
    println_line("as told in the other namespace");
    move_to(Some(PEER), NIC, None)?;
    set_link_up(None, NIC)?;
    guest.check_lease(LAST, 1)
}

case!(queue_that_another_takes);
/// Has another netkit lease the queue as soon as `unlease` frees it. `unlease` must not wait in
/// vain for the queue to stay free.
fn queue_that_another_takes() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    make_leasing_guest(GUEST, BOX, LAST)?;
    let mut next = Guest::pair("nk1", 2, BOX)?;
    let taking = thread::spawn(move || -> Result<()> {
        let end = Instant::now() + TEARDOWN;
        while next.lease(LAST)?.is_err() {
            ensure!(Instant::now() < end, "the queue was never free");
        }
        next.check_lease(LAST, 1)
    });
    let line = format!("unlease {GUEST} --netns {BOX} --delete");
    let begin = Instant::now();
    let end = finish(command(None, &devmem_tcp(), &line))?;
    println_line(&format!("{:.1?}", begin.elapsed()));
    end.good(&line)?;
    taking.join().map_err(|_| anyhow!("panic"))?
}
