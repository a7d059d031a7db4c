//! Leases of many queues, and routes into guests that share an address or a device with another.

use std::fs;

use anyhow::{Result, ensure};
use netdev::link::{NetkitPair, Route};
use netdev::{Ethtool, Ifindex, Link, NetNs, Prefix};

use super::lease_rounds::{
    BESIDE, BESIDE6, LAST, ROUTED, ROUTED6, lease, leased, unlease, unleased, wire_with_routes,
};
use crate::cases::tools::remedies::run_remedies;
use framework::footprint::Footprint;
use framework::testbed::{self, BOX, BOX2, GUEST, HOST, NIC};
use framework::tool::{command, finish};
use framework::transfer::devmem_tcp;
use framework::{Skip, println_line};

/// Sysctl file for IPv4 forwarding on the NIC, which every IPv4 guest route needs.
const FORWARDING: &str = "/proc/sys/net/ipv4/conf/eth1/forwarding";
const ALL_FORWARDING: &str = "/proc/sys/net/ipv4/conf/all/forwarding";

/// Prepares the wire and two containers, and takes a snapshot of everything a lease may change.
pub(crate) fn prepare_containers() -> Result<Footprint> {
    wire_with_routes()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    Footprint::settled()
}

pub(crate) fn container_options(rest: &str) -> String {
    format!("--netkit {GUEST} --netns {BOX} {rest}")
}

pub(crate) fn read_forwarding() -> Result<String> {
    Ok(fs::read_to_string(FORWARDING)?.trim().to_owned())
}

/// Checks that `lease` is refused, runs the commands of its remedy, and returns its standard error.
pub(crate) fn lease_refused(line: &str) -> Result<String> {
    let complaint = lease(line)?.refused(1)?;
    println_line(complaint.trim_end());
    run_remedies(&complaint)?;
    Ok(complaint)
}

pub(crate) fn unlease_refused(line: &str) -> Result<String> {
    let complaint = unlease(line)?.refused(1)?;
    println_line(complaint.trim_end());
    run_remedies(&complaint)?;
    Ok(complaint)
}

pub(crate) fn says(complaint: &str, part: &str) -> Result<()> {
    ensure!(
        complaint.contains(part),
        "it does not say {part:?}: {complaint}"
    );
    Ok(())
}

/// Makes a netkit pair without `devmem-tcp lease`, with its guest end in the container.
pub(crate) fn make_foreign_netkit(rx_queues: u32) -> Result<()> {
    let mut pair = NetkitPair::new(HOST, GUEST);
    pair.rx_queues = Some(rx_queues);
    pair.peer_netns = Some(NetNs::by_name(BOX)?);
    Link::open()?.create_netkit(&pair)?;
    Ok(())
}

case!(many_queues);
fn many_queues() -> Result<()> {
    testbed::wire_with(8, "")?;
    testbed::container()?;
    let before = Footprint::settled()?;
    says(
        &lease_refused(&container_options("--queue 3 --queues 3-4"))?,
        "twice",
    )?;
    says(
        &lease_refused(&container_options("--count 8"))?,
        "7 of its 8 rx queues",
    )?;
    before.same()?;
    let three = leased(&container_options("--queue 6 --queues 2-3"))?;
    println_line(&format!("{three:?}"));
    ensure!(three.phys_queues() == [6, 2, 3], "{three:?}");
    ensure!(three.queues() == [1, 2, 3].map(Some), "{three:?}");
    says(
        &lease_refused(&container_options("--queues 4,5"))?,
        "room for 0 more",
    )?;
    // 0 is the host's; of the others 1, 4, 5 and 7 are left.
    let count = format!("--netkit nk1 --netns {BOX} --count 2");
    let two = leased(&count)?;
    ensure!(two.phys_queues() == [5, 7], "{two:?}");
    says(
        &lease_refused("--netkit nk2 --count 3")?,
        "2 of its 8 rx queues",
    )?;
    println_line(&unlease(&format!("{GUEST} --netns {BOX}"))?.good("unlease")?);
    // Where it is, is noted.
    println_line(&unlease("nk1")?.good("unlease")?);
    before.same()
}

case!(switches_are_shared);
/// Ends two leases that need the same sysctls. The last one to end must restore them.
fn switches_are_shared() -> Result<()> {
    let before = prepare_containers()?;
    leased(&container_options(&format!(
        "--queue 2 --address {ROUTED} --address {ROUTED6}"
    )))?;
    let other = format!("--netkit nk1 --netns {BOX2} --queue 3 --address {BESIDE}");
    let other = leased(&other)?;
    println_line(&format!("{other:?}"));
    let one = unleased(&format!("{GUEST} --netns {BOX}"))?;
    println_line(&format!("{one:?}"));
    says(&one.kept.join("; "), "nk1 still needs it")?;
    says(&one.restored.join("; "), "force_forwarding = 0")?;
    ensure!(read_forwarding()? == "1", "the other's way is cut");
    println_line(&format!("{:?}", unleased("nk1h")?));
    before.same()
}

case!(what_others_set_stays);
/// Makes the host a router while a lease exists. `unlease` must leave forwarding on.
fn what_others_set_stays() -> Result<()> {
    let before = prepare_containers()?;
    leased(&container_options(&format!(
        "--queue {LAST} --address {ROUTED} --address {BESIDE6}"
    )))?;
    fs::write(ALL_FORWARDING, "1")?;
    fs::write("/proc/sys/net/ipv6/conf/eth1/proxy_ndp", "0")?;
    let done = unlease(&format!("{GUEST} --netns {BOX}"))?.good("unlease")?;
    println_line(&done);
    says(&done, "left net.ipv4.conf.eth1.forwarding: another program")?;
    ensure!(read_forwarding()? == "1", "the host's routing is cut");
    fs::write(ALL_FORWARDING, "0")?;
    before.same()
}

case!(refused_half_way);
/// Makes `lease` fail half-way, by a taken queue or by a route in either namespace. It must undo
/// what it did before.
fn refused_half_way() -> Result<()> {
    let before = prepare_containers()?;
    let way = format!("--address {ROUTED} --address {BESIDE} --address {BESIDE6}");
    let inside = NetNs::by_name(BOX)?;
    let names = || -> Result<usize> { Ok(Link::open_in(&inside)?.list()?.len()) };

    let other = format!("--netkit nk1 --netns {BOX2} --queue 2");
    leased(&other)?;
    let with_other = Footprint::settled()?;
    says(
        &lease_refused(&container_options(&format!("--queues 1-3 {way}")))?,
        "(EBUSY)",
    )?;
    ensure!(names()? == 1, "something is left in the container");
    with_other.same()?;
    unleased("nk1")?;
    before.same()?;

    // The guest has a default route already.
    let (mut guest_links, lo) = (Link::open_in(&inside)?, Ifindex::new(1));
    let default = Route::on_link("0.0.0.0/0".parse()?, lo);
    guest_links.add_route(&default)?;
    let line = container_options(&format!("--queue {LAST} {way}"));
    let complaint = lease_refused(&line)?;
    says(&complaint, "0.0.0.0/0")?;
    ensure!(names()? == 1, "something is left in the container");
    before.same()?;
    // The same with a netkit that stays: its lease cannot be taken back, so it comes last.
    make_foreign_netkit(2)?;
    let with_netkit = Footprint::settled()?;
    lease_refused(&line)?;
    with_netkit.same()?;
    let addresses = guest_links.addresses(None)?;
    ensure!(
        !addresses
            .iter()
            .any(|it| it.prefix.addr.to_string() == ROUTED),
        "{addresses:?}"
    );
    let guest = guest_links.by_name(GUEST)?;
    ensure!(!guest.up, "the guest end is up");
    leased(&format!("{line} --route 192.0.2.0/24"))?;
    unleased(&format!("{GUEST} --netns {BOX} --delete"))?;
    guest_links.delete_route(&default)?;
    before.same()?;

    // This host sends what is for the guest elsewhere.
    let mut links = Link::open()?;
    let elsewhere = Route::on_link(ROUTED.parse::<Prefix>()?, framework::ifindex(NIC)?);
    links.add_route(&elsewhere)?;
    let with_route = Footprint::settled()?;
    says(&lease_refused(&line)?, ROUTED)?;
    with_route.same()?;
    links.delete_route(&elsewhere)?;
    before.same()
}

case!(refused_at_once);
/// Passes contradictory options, then an unusable runtime directory. `lease` must refuse before it
/// changes anything.
fn refused_at_once() -> Result<()> {
    let before = prepare_containers()?;
    let queue = format!("--queue {LAST}");
    let refused = [
        (
            container_options(&format!("{queue} --kind single --address {ROUTED}")),
            "has no data path",
        ),
        (
            format!("--netkit {GUEST} {queue} --address {ROUTED}"),
            "is this namespace",
        ),
        (
            container_options(&format!("{queue} --address {}", testbed::NIC_ADDRESS)),
            "an address of this host",
        ),
        (
            container_options(&format!("{queue} --address {ROUTED} --route ::/0")),
            "of its family",
        ),
    ];
    for (line, words) in refused {
        says(&lease_refused(&line)?, words)?;
        before.same()?;
    }
    let line = format!("lease --phys {NIC} {}", container_options(&queue));
    let mut command = command(None, &devmem_tcp(), &line);
    command.env("DEVMEM_TCP_RUNTIME_DIR", "/proc/none");
    let complaint = finish(command)?.refused(1)?;
    println_line(complaint.trim_end());
    before.same()
}

case!(dry_runs);
fn dry_runs() -> Result<()> {
    let before = prepare_containers()?;
    let line = container_options(&format!("--count 2 --address {ROUTED} --address {BESIDE6}"));
    let would = lease(&format!("{line} --dry-run"))?.good("lease")?;
    println_line(&would);
    for words in [
        "would make netkit pair nk0h (here) and nk0 (namespace box, 3 rx queues)",
        "would lease eth1 rx 3 to nk0",
        "would set net.ipv4.conf.eth1.forwarding = 1",
        "would answer for 2001:db8:2::77 on eth1",
    ] {
        says(&would, words)?;
    }
    before.same()?;
    let inside = NetNs::by_name(BOX)?;
    ensure!(
        Link::open_in(&inside)?.list()?.len() == 1,
        "a device in the container"
    );
    leased(&line)?;
    let with_lease = Footprint::settled()?;
    let end = format!("{GUEST} --netns {BOX}");
    let would = unlease(&format!("{end} --dry-run"))?.good("unlease")?;
    println_line(&would);
    for words in [
        "would delete netkit nk0 (namespace box)",
        "would end the lease of eth1 rx 3",
        "would put back net.ipv4.conf.eth1.forwarding = 0",
        "would remove proxy entry 2001:db8:2::77 on eth1",
    ] {
        says(&would, words)?;
    }
    with_lease.same()?;
    unleased(&end)?;
    before.same()
}

case!(large_receive_offload);
/// Leases with forwarding on a NIC with LRO, which the kernel then switches off
/// (`dev_disable_lro`). `unlease` must switch LRO on again, because the kernel does not.
fn large_receive_offload() -> Result<()> {
    prepare_containers()?;
    let nic = framework::ifindex(NIC)?;
    let mut ethtool = Ethtool::open()?;
    if !ethtool.features(nic)?.hw.contains("rx-lro") {
        return Err(Skip("this NIC has no large receive offload".to_owned()).into());
    }
    // A NIC has one of both (`bnxt_fix_features`).
    if ethtool.features(nic)?.active.contains("rx-gro-hw") {
        ethtool.set_feature(nic, "rx-gro-hw", false)?;
    }
    ethtool.set_feature(nic, "rx-lro", true)?;
    let before = Footprint::settled()?;
    let mut active = || -> Result<bool> { Ok(ethtool.features(nic)?.active.contains("rx-lro")) };
    let line = container_options(&format!("--queue {LAST} --address {ROUTED}"));
    let would = lease(&format!("{line} --dry-run"))?.good("lease")?;
    says(&would, "would let the kernel switch rx-lro of eth1 off")?;
    ensure!(active()?, "a dry run took it");
    leased(&line)?;
    ensure!(!active()?, "a router with large receive offload");
    // The second lease does not see that there was one, but knows it of the first.
    leased(&format!(
        "--netkit nk1 --netns {BOX2} --queue 2 --address {BESIDE}"
    ))?;
    unleased(&format!("{GUEST} --netns {BOX}"))?;
    ensure!(!active()?, "back too early");
    println_line(&unlease("nk1")?.good("unlease")?);
    before.same()?;
    // A refusal gives it back, too.
    let mut links = Link::open()?;
    let elsewhere = Route::on_link(ROUTED.parse::<Prefix>()?, nic);
    links.add_route(&elsewhere)?;
    lease_refused(&line)?;
    links.delete_route(&elsewhere)?;
    before.same()
}
