//! `doctor` finds faults of a netkit and of the route to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cases::lease::lease_fence::is_reachable;
use crate::cases::lease::lease_rounds::BESIDE;
use framework::command_line::Recv;
use framework::doctor::{Report, Severity, check_avoided, check_cured, check_named, run_remedy};
use framework::leases::Guest;
use framework::println_line;
use framework::testbed::{self, BOX, BOX_ADDRESS, GUEST, HOST, NIC};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::{devmem_tcp, validated};

fn guest_options() -> String {
    format!("{GUEST} --netns {BOX}")
}

/// Makes a container with a netkit pair that leases the NIC's last queue, and routes into it.
fn make_leased_netkit() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(3, 1)?;
    testbed::route_to_container()
}

case!(healthy);
/// Runs `doctor` on a healthy leased netkit. It must check the netkit and the NIC behind it, and
/// receiving must work.
fn healthy() -> Result<()> {
    make_leased_netkit()?;
    let report = Report::of(&guest_options())?;
    report.healthy()?;
    let device = |id: &str| report.check(id).map(|check| check["device"].clone());
    ensure!(
        device("netkit.lease") == Some(GUEST.into()),
        "{}",
        report.json
    );
    ensure!(
        device("split.settable") == Some(NIC.into()),
        "{}",
        report.json
    );
    let receiver = Recv::on(GUEST).netns(BOX);
    validated(receiver, format!("{BOX_ADDRESS}:5000"), 1 << 20).map(drop)
}

case!(without_a_lease);
fn without_a_lease() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?;
    check_cured(&guest_options(), "netkit.lease", Severity::NoRx)
}

case!(without_room_for_a_lease);
/// Runs `doctor` on a netkit without a free queue for a lease. Its remedy must make the netkit
/// again.
fn without_room_for_a_lease() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 1, BOX)?;
    check_cured(&guest_options(), "netkit.lease", Severity::NoRx)
}

case!(the_other_end_was_named);
fn the_other_end_was_named() -> Result<()> {
    make_leased_netkit()?;
    check_avoided(HOST, "netkit.kind")
}

case!(ends_down);
fn ends_down() -> Result<()> {
    make_leased_netkit()?;
    sh(&format!("ip link set dev {HOST} down"))?;
    check_cured(&guest_options(), "netkit.up", Severity::NoRx)?;
    sh(&format!("ip -n {BOX} link set dev {GUEST} down"))?;
    check_cured(&guest_options(), "netkit.up", Severity::NoRx)
}

case!(forwarding_off);
/// Switches forwarding off on the NIC while routes lead into the container. `doctor` must say so,
/// and its remedy must help.
fn forwarding_off() -> Result<()> {
    make_leased_netkit()?;
    sh(&format!("sysctl -w net.ipv4.conf.{NIC}.forwarding=0"))?;
    check_cured(&guest_options(), "netkit.forwarding", Severity::NoRx)?;
    sh(&format!("ip -6 route add 2001:db8:9::/64 dev {HOST}"))?;
    check_cured(&guest_options(), "netkit.forwarding", Severity::NoRx)
}

/// Firewall tables for IPv6 and IPv4 that drop all forwarded packets; deleted when the guard is
/// dropped.
struct Firewall;

impl Firewall {
    fn drop_forwarded() -> Result<Self> {
        let firewall = Self;
        let chain = "{ type filter hook forward priority 0 ; policy drop ; }";
        for family in ["ip6", "ip"] {
            sh(&format!("nft add table {family} filter"))?;
            sh(&format!("nft add chain {family} filter FORWARD {chain}"))?;
        }
        Ok(firewall)
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        for family in ["ip6", "ip"] {
            let _deleted = sh(&format!("nft delete table {family} filter"));
        }
    }
}

case!(firewall);
/// Drops all forwarded packets by a firewall. `doctor` must name the chain, and its remedy must let
/// the sender in.
fn firewall() -> Result<()> {
    make_leased_netkit()?;
    let report = Report::of(&guest_options())?;
    ensure!(report.status("netkit.firewall") == "ok", "{}", report.json);
    let _firewall = Firewall::drop_forwarded()?;
    ensure!(!is_reachable(BOX, BOX_ADDRESS)?, "it drops nothing");
    let remedy = check_named(&guest_options(), "netkit.firewall", Severity::Warns)?;
    ensure!(!remedy.contains("ip6"), "the guest has no IPv6");
    run_remedy(&remedy)?;
    ensure!(is_reachable(BOX, BOX_ADDRESS)?, "it still drops");
    Ok(())
}

case!(firewall_at_the_lease);
/// Leases a queue with an address while a firewall drops all forwarded packets. `lease` must warn,
/// and its remedy must let the sender in.
fn firewall_at_the_lease() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let _firewall = Firewall::drop_forwarded()?;
    let lease =
        format!("lease --phys {NIC} --queue 3 --netkit {GUEST} --netns {BOX} --address {BESIDE}");
    let end = finish(command(None, &devmem_tcp(), &lease))?;
    println_line(end.stderr.trim_end());
    ensure!(
        end.stderr
            .contains("warning: chain FORWARD of table ip filter"),
        "no word of the chain"
    );
    ensure!(!end.stderr.contains("ip6"), "the guest has no IPv6");
    ensure!(!is_reachable(BOX, BESIDE)?, "it drops nothing");
    let remedy = end.stderr.trim_end().rsplit_once(": ");
    run_remedy(remedy.context("no command")?.1)?;
    end.good(&lease)?;
    ensure!(is_reachable(BOX, BESIDE)?, "it still drops");
    let unlease = format!("unlease {GUEST} --netns {BOX}");
    finish(command(None, &devmem_tcp(), &unlease))?
        .good(&unlease)
        .map(drop)
}

case!(fault_of_the_nic_behind);
/// Makes a fault on the NIC behind a netkit. `doctor` must attribute it to the NIC, with a command
/// that works from this namespace.
fn fault_of_the_nic_behind() -> Result<()> {
    make_leased_netkit()?;
    sh(&format!("ethtool -K {NIC} ntuple off"))?;
    check_cured(&guest_options(), "ntuple.on", Severity::Warns)
}

case!(asked_from_within);
/// Runs `doctor` from within the container. It must find the netkit and the NIC behind it in order.
fn asked_from_within() -> Result<()> {
    make_leased_netkit()?;
    let within = command(Some(BOX), &devmem_tcp(), &format!("doctor {GUEST} --json"));
    let report = Report::by(within)?;
    println_line(&format!("{:?}", report.check("netkit.nic")));
    report.healthy()
}

case!(from_a_container);
/// Runs `doctor` in a container with its own user namespace, where the NIC can't be seen. A lease
/// must be enough for it to report that receiving works.
fn from_a_container() -> Result<()> {
    testbed::wire()?;
    let mut run = Command::new("unshare");
    run.args("--user --map-root-user --net --pid --mount-proc --fork sleep 60".split(' '));
    let pod = Running::start(run)?;
    let mut pid = String::new();
    until("the container", Duration::from_secs(30), || {
        let id = pod.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        pid = children.trim().to_owned();
        let asleep = fs::read_to_string(format!("/proc/{pid}/comm"));
        Ok(!pid.is_empty() && asleep.is_ok_and(|name| name.trim() == "sleep"))
    })?;
    let tool = devmem_tcp();
    let lease = format!("lease --phys {NIC} --queue 3 --netkit {GUEST} --netns pid:{pid}");
    finish(command(None, &tool, &lease))?.good("lease")?;
    sh(&format!(
        "nsenter -t {pid} --net ip link set dev {GUEST} up"
    ))?;
    sh(&format!("ip link set dev {HOST} up"))?;
    let within = format!("-t {pid} --user --net --pid --mount {}", tool.display());
    let line = format!("{within} doctor {GUEST} --json");
    let report = Report::by(command(None, Path::new("nsenter"), &line))?;
    let found = report
        .check("netkit.nic")
        .map(|check| check["found"].clone());
    println_line(&format!("{found:?}"));
    ensure!(report.json["receives"] == true, "{}", report.complaints());
    ensure!(
        report.failed() == ["privilege.lease"],
        "{}",
        report.complaints()
    );
    ensure!(
        found.is_some_and(|found| found.to_string().contains("cannot be seen")),
        "seen"
    );
    kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL)?;
    pod.end_within(Duration::from_secs(5)).map(drop)
}

case!(bound_by_another);
fn bound_by_another() -> Result<()> {
    make_leased_netkit()?;
    let receiver = Recv::on(GUEST)
        .netns(BOX)
        .listen(format!("{BOX_ADDRESS}:5000"))
        .start()?;
    until("a binding", Duration::from_secs(30), || {
        Ok(Report::of(&guest_options())?.status("queues.free") == "fail")
    })?;
    let remedy = check_named(&guest_options(), "queues.free", Severity::NoRx)?;
    ensure!(remedy.contains("receiver"), "{remedy}");
    receiver.stop()?;
    Report::of(&guest_options())?.healthy()
}
