//! The route into a guest carries the guest's addresses only: the host does not become a router for
//! other traffic.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::link::{AddressOptions, NetkitPair, Route};
use netdev::{Link, NetNs, Prefix};

use super::lease_way::{container_options, says};
use framework::doctor::run_remedy;
use framework::println_line;
use framework::testbed::{self, BOX, BOX2, NIC, NIC_ADDRESS, NIC_ADDRESS6, PEER, SENDER_ADDRESS};
use framework::tool::{Finished, command, finish, sh};
use framework::transfer::devmem_tcp;

/// IPv4 address of the guest, which the sender reaches over the NIC.
const GUEST4: &str = "198.51.100.7";
const GUEST6: &str = "2001:db8:7::7";
/// IPv4 address of a host behind this one that is not part of the lease.
const OTHER4: &str = "203.0.113.2";
const OTHER6: &str = "2001:db8:9::2";
const PORT: u16 = 5000;

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// Makes a network behind this host, in the namespace [`BOX2`], with a device that forwards its
/// packets.
fn make_network_behind() -> Result<()> {
    let inside = NetNs::by_name(BOX2)?;
    let mut pair = NetkitPair::new("nkin", "nkout");
    pair.peer_netns = Some(inside.clone());
    let mut links = Link::open()?;
    let ends = links.create_netkit(&pair)?;
    let mut there = Link::open_in(&inside)?;
    links.set_up(ends.primary)?;
    there.set_up(ends.peer)?;
    for address in [OTHER4, OTHER6] {
        let address: Prefix = address.parse()?;
        there.add_address(ends.peer, address, AddressOptions { nodad: true })?;
        links.add_route(&Route::on_link(address, ends.primary))?;
    }
    for all in ["0.0.0.0/0", "::/0"] {
        there.add_route(&Route::on_link(all.parse()?, ends.peer))?;
    }
    fs::write("/proc/sys/net/ipv4/conf/nkin/forwarding", "1")?;
    fs::write("/proc/sys/net/ipv6/conf/nkin/force_forwarding", "1")?;
    let mut sender = Link::open_in(&NetNs::by_name(PEER)?)?;
    for (to, over) in [
        (GUEST4, NIC_ADDRESS),
        (OTHER4, NIC_ADDRESS),
        (GUEST6, NIC_ADDRESS6),
        (OTHER6, NIC_ADDRESS6),
    ] {
        sender.add_route(&Route::over(to.parse()?, over.parse()?))?;
    }
    Ok(())
}

/// Whether the sender can connect to an address that is listened at in the given namespace.
pub(crate) fn is_reachable(listening: &str, address: &str) -> Result<bool> {
    let at = SocketAddr::new(address.parse()?, PORT);
    let listener = NetNs::by_name(listening)?.run(|| TcpListener::bind(at))?;
    let _listener = listener.with_context(|| format!("{at} in {listening}"))?;
    let limit = Duration::from_millis(1500);
    let connected = NetNs::by_name(PEER)?.run(|| TcpStream::connect_timeout(&at, limit))?;
    Ok(connected.is_ok())
}

case!(of_the_nic);
/// Leases a queue with addresses. The sender must reach the guest, and no other host behind this
/// one.
fn of_the_nic() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    make_network_behind()?;
    let rules = || -> Result<String> { Ok(sh("ip rule")? + &sh("ip -6 rule")?) };
    let before = rules()?;
    let ends = [(BOX2, OTHER4), (BOX2, OTHER6)];
    for (netns, address) in ends {
        ensure!(
            !is_reachable(netns, address)?,
            "{address} is reached before"
        );
    }
    let addresses = format!("--queue 3 --address {GUEST4} --address {GUEST6}");
    let line = format!("lease --phys {NIC} {}", container_options(&addresses));
    println_line(tool(&line)?.good(&line)?.trim_end());
    println_line(rules()?.trim_end());
    for (netns, address) in [(BOX, GUEST4), (BOX, GUEST6)] {
        ensure!(is_reachable(netns, address)?, "{address} is not reached");
    }
    for (netns, address) in ends {
        ensure!(!is_reachable(netns, address)?, "{address} is reached");
    }
    // By the rules, and nothing else.
    sh("ip rule del pref 11 iif eth1 blackhole")?;
    ensure!(is_reachable(BOX2, OTHER4)?, "something else is in the way");
    sh("ip rule add pref 11 iif eth1 blackhole")?;
    let end = format!("unlease nk0 --netns {BOX}");
    let would = tool(&format!("{end} --dry-run"))?.good(&end)?;
    says(&would, "would remove rule pref 11 iif eth1 blackhole")?;
    println_line(tool(&end)?.good(&end)?.trim_end());
    ensure!(rules()? == before, "not as before: {}", rules()?);
    Ok(())
}

case!(of_the_guest);
/// Sends from the guest with the guest's own address, then with another one. Only the first must
/// pass.
fn of_the_guest() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!(
        "lease --phys {NIC} {}",
        container_options(&format!("--queue 3 --address {GUEST4}"))
    );
    tool(&line)?.good(&line)?;
    let mut sender = Link::open_in(&NetNs::by_name(PEER)?)?;
    for to in [GUEST4, OTHER4] {
        sender.add_route(&Route::over(to.parse()?, NIC_ADDRESS.parse()?))?;
    }
    sh(&format!("ip -n {BOX} address add {OTHER4}/32 dev nk0"))?;
    ensure!(datagram_passes(GUEST4)?, "the guest's own is dropped");
    ensure!(!datagram_passes(OTHER4)?, "{OTHER4} passes");
    // By the rule, and nothing else.
    sh("ip rule del pref 11 iif nk0h blackhole")?;
    ensure!(datagram_passes(OTHER4)?, "something else is in the way");
    sh("ip rule add pref 11 iif nk0h blackhole")?;
    let end = format!("unlease nk0 --netns {BOX}");
    tool(&end)?.good(&end).map(drop)
}

/// Whether a datagram that the guest sends from this address reaches the sender.
fn datagram_passes(from: &str) -> Result<bool> {
    let sender = (SENDER_ADDRESS, PORT);
    let receiver = NetNs::by_name(PEER)?.run(|| UdpSocket::bind(sender))??;
    receiver.set_read_timeout(Some(Duration::from_millis(1500)))?;
    let socket = NetNs::by_name(BOX)?.run(|| UdpSocket::bind((from, 0)))??;
    socket.send_to(b"from the guest", sender)?;
    Ok(receiver.recv_from(&mut [0; 64]).is_ok())
}

case!(of_two_guests);
/// Leases queues to two guests, then ends one lease. The rules that both share must stay until the
/// second ends.
fn of_two_guests() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let before = sh("ip rule")?;
    let line = format!(
        "lease --phys {NIC} {}",
        container_options(&format!("--queue 3 --address {GUEST4}"))
    );
    tool(&line)?.good(&line)?;
    let line =
        format!("lease --phys {NIC} --queue 2 --netkit nk1 --netns {BOX2} --address {OTHER4}");
    tool(&line)?.good(&line)?;
    let mut sender = Link::open_in(&NetNs::by_name(PEER)?)?;
    for to in [GUEST4, OTHER4] {
        sender.add_route(&Route::over(to.parse()?, NIC_ADDRESS.parse()?))?;
    }
    ensure!(
        is_reachable(BOX, GUEST4)? && is_reachable(BOX2, OTHER4)?,
        "not both"
    );
    let end = format!("unlease nk0 --netns {BOX}");
    println_line(tool(&end)?.good(&end)?.trim_end());
    ensure!(is_reachable(BOX2, OTHER4)?, "the other's way is cut");
    let left = sh("ip rule")?;
    ensure!(
        left.contains("iif eth1 blackhole"),
        "the NIC is open: {left}"
    );
    ensure!(!left.contains(GUEST4), "{left}");
    tool(&format!("unlease nk1 --netns {BOX2}"))?.good("unlease")?;
    ensure!(sh("ip rule")? == before, "not as before");
    // A NIC that forwards without us is a router already, and stays one.
    testbed::forward(&[NIC])?;
    tool(&format!(
        "lease --phys {NIC} {}",
        container_options(&format!("--queue 3 --address {GUEST4}"))
    ))?
    .good("lease")?;
    let rules = sh("ip rule")?;
    ensure!(!rules.contains("iif eth1 blackhole"), "{rules}");
    ensure!(rules.contains("iif nk0h blackhole"), "{rules}");
    tool(&end)?.good(&end)?;
    ensure!(sh("ip rule")? == before, "not as before");
    Ok(())
}

case!(flushed);
/// Removes the rules by another program. `doctor` must say so with a working remedy, and the next
/// lease must add all missing rules.
fn flushed() -> Result<()> {
    const FLUSH: [&str; 3] = [
        "ip rule del pref 12",
        "ip rule del pref 11 iif eth1 blackhole",
        "ip -6 rule del pref 11 iif eth1 blackhole",
    ];
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    make_network_behind()?;
    let rules = || -> Result<Vec<String>> {
        let text = sh("ip rule")? + &sh("ip -6 rule")?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let before = rules()?;
    let addresses = format!("--queue 3 --address {GUEST4} --address {GUEST6}");
    let line = format!("lease --phys {NIC} {}", container_options(&addresses));
    tool(&line)?.good(&line)?;
    let fenced = rules()?;
    let flush = || FLUSH.iter().try_for_each(|line| sh(line).map(drop));
    flush()?;
    ensure!(is_reachable(BOX2, OTHER4)?, "something else is in the way");
    let remedy = missing_rules_remedy()?.context("the doctor is content")?;
    println_line(&remedy);
    run_remedy(&remedy)?;
    ensure!(
        missing_rules_remedy()?.is_none(),
        "the remedy helps nothing"
    );
    ensure!(
        rules()? == fenced,
        "other rules than before: {:?}",
        rules()?
    );

    flush()?;
    sh("ip rule del pref 10 iif eth1")?;
    let second = format!("lease --phys {NIC} --netns {BOX2} --address 198.51.100.8");
    // By no route that another address of that namespace takes.
    let line = format!("{second} --queue 2 --netkit nk1 --route 198.51.100.128/25");
    let told = tool(&line)?.good(&line)?;
    println_line(told.trim_end());
    says(&told, "add rule pref 12 nop")?;
    says(&told, "add rule -6 pref 11 iif eth1 blackhole")?;
    for address in [GUEST4, GUEST6] {
        ensure!(is_reachable(BOX, address)?, "{address} is not reached");
    }
    for address in [OTHER4, OTHER6] {
        ensure!(!is_reachable(BOX2, address)?, "{address} is reached");
    }
    ensure!(
        missing_rules_remedy()?.is_none(),
        "rules are missing: {:?}",
        rules()?
    );

    // A lease that fails removes none of another's.
    flush()?;
    let line = format!("{second} --queue 1 --netkit nk2");
    println_line(tool(&line)?.refused(1)?.trim_end());
    ensure!(
        missing_rules_remedy()?.is_none(),
        "rules are missing: {:?}",
        rules()?
    );
    for (netkit, netns) in [("nk0", BOX), ("nk1", BOX2)] {
        let end = format!("unlease {netkit} --netns {netns}");
        tool(&end)?.good(&end)?;
    }
    ensure!(rules()? == before, "not as before: {:?}", rules()?);
    Ok(())
}

/// Returns the remedy of `doctor` for missing rules; `None` if no rules are missing.
fn missing_rules_remedy() -> Result<Option<String>> {
    let finished = tool("doctor --json")?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let check = checks.iter().find(|check| check["id"] == "lease.rules");
    let check = check.context("no check of the rules")?;
    match check["status"].as_str() {
        Some("ok") => Ok(None),
        _ => Ok(Some(
            check["remedy"].as_str().context("no remedy")?.to_owned(),
        )),
    }
}
