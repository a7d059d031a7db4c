//! Common mistakes: each is refused in one line that names the mistake, with a remedy that says what to do.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::remedies::run_remedies;
use framework::doctor::as_user;
use framework::leases::Guest;
use framework::println_line;
use framework::receiver::{recv, start_bound};
use framework::testbed::{self, BOX, GUEST, HOST, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::{devmem_tcp, nic_settings};

/// Checks that a command is refused with this exit status and all these words, that its remedy can
/// be run, and that the NIC is unchanged.
fn check_refused(mut run: Command, status: i32, words: &[&str]) -> Result<()> {
    let before = nic_settings(NIC)?;
    run.stdin(Stdio::null());
    let line = format!("{run:?}");
    let complaint = finish(run)?.refused(status).with_context(|| line.clone())?;
    println_line(complaint.trim_end());
    for word in words {
        ensure!(complaint.contains(word), "{line}: {word:?} is not in it");
    }
    run_remedies(&complaint)?;
    ensure!(nic_settings(NIC)? == before, "{line}: the NIC has changed");
    Ok(())
}

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

fn recv_at_nic(rest: &str) -> Command {
    tool(&format!("recv {rest} -l {NIC_ADDRESS}:5000"))
}

case!(device_in_another_namespace);
fn device_in_another_namespace() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?;
    let words = [GUEST, "ENODEV", "--netns box"];
    for line in [
        format!("recv -f {GUEST} -l {NIC_ADDRESS}:5000"),
        format!("doctor {GUEST}"),
    ] {
        check_refused(tool(&line), 1, &words)?;
    }
    // One without a name.
    let mut unshare = Command::new("unshare");
    let process = Running::start({
        unshare.args(["--net", "sleep", "60"]);
        unshare
    })?;
    let netns = format!("/proc/{}/ns/net", process.id());
    until("a namespace", Duration::from_secs(20), || {
        Ok(fs::read_link(&netns)? != fs::read_link("/proc/self/ns/net")?)
    })?;
    sh(&format!(
        "ip link add veth7 type veth peer name inner netns {}",
        process.id()
    ))?;
    let words = ["inner", &format!("--netns {netns}")];
    check_refused(recv_at_nic("-f inner"), 1, &words)?;
    process.kill()?;
    Ok(())
}

case!(device_that_is_no_nic);
fn device_that_is_no_nic() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?;
    check_refused(
        recv_at_nic(&format!("-f {HOST}")),
        1,
        &[HOST, "host end", "--dev nk0 --netns box"],
    )?;
    check_refused(
        recv_at_nic("-f lo"),
        1,
        &["lo", "receive on a NIC", "`devmem-tcp doctor`"],
    )?;
    sh(&format!(
        "ip link add link {NIC} name eth1.7 type vlan id 7"
    ))?;
    sh("ip link set eth1.7 up")?;
    check_refused(
        recv_at_nic("-f eth1.7"),
        1,
        &["eth1.7", "vlan", "the NIC itself: eth1"],
    )?;
    sh("ip link delete eth1.7").map(drop)
}

case!(queue_that_is_not_there);
fn queue_that_is_not_there() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(3, 1)?;
    let netkit = format!("-f {GUEST} --netns {BOX}");
    check_refused(
        recv_at_nic(&format!("{netkit} --queue 0")),
        1,
        &["queue 0 is its own", "show"],
    )?;
    check_refused(
        recv_at_nic(&format!("{netkit} --queue 7")),
        1,
        &["--queue 7", "nk0 has rx queues"],
    )?;
    check_refused(
        recv_at_nic(&format!("-f {NIC} --queue 7")),
        1,
        &["--queue 7", "rx queues 0-3"],
    )
}

case!(driver_without_header_split);
/// Receives on a NIC whose driver lacks header split. The error must say that before anything else.
fn driver_without_header_split() -> Result<()> {
    testbed::wire_with(testbed::QUEUES, "lacks=split")?;
    check_refused(recv_at_nic(&format!("-f {NIC}")), 1, &[NIC, "header split"])
}

case!(port_in_use);
fn port_in_use() -> Result<()> {
    testbed::wire()?;
    let _first = TcpListener::bind((NIC_ADDRESS, 5000))?;
    let own = format!("(pid {})", std::process::id());
    check_refused(
        recv_at_nic(&format!("-f {NIC}")),
        1,
        &["5000", "Address already in use", &own, "another port"],
    )
}

case!(queue_in_use);
fn queue_in_use() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let receiver = start_bound(recv(5000))?;
    let own = receiver.id().to_string();
    let line = format!("recv -f {NIC} --queue 3 -l {NIC_ADDRESS}:5001");
    check_refused(tool(&line), 1, &["queue 3", &own])?;
    receiver.stop()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(3, 1)?;
    check_refused(
        tool(&line),
        1,
        &["queue 3", "leased", "--dev nk0 --netns box"],
    )
}

case!(command_lines);
/// Passes command lines that are wrong in themselves. They must be refused with an example of a
/// right one.
fn command_lines() -> Result<()> {
    testbed::wire()?;
    check_refused(
        tool(&format!("lease --phys {NIC} --netkit nk0")),
        2,
        &["--queue", "--queues", "--count"],
    )?;
    for wrong in ["5000", "host", "host:5000", "192.0.2:5000", "::1:5000"] {
        check_refused(
            tool(&format!("recv -f {NIC} -l {wrong}")),
            2,
            &["192.0.2.2:5000", "[::]:5000"],
        )?;
    }
    check_refused(
        recv_at_nic(&format!("-f {NIC} --rx-page-size 5K")),
        2,
        &["4K, 8K, 16K, 32K", "driver"],
    )
}

case!(unprivileged);
fn unprivileged() -> Result<()> {
    testbed::wire()?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000");
    let sudo = format!("sudo {} {line}", devmem_tcp().display());
    check_refused(
        as_user(&devmem_tcp(), &line, false),
        1,
        &["CAP_NET_ADMIN", &sudo],
    )
}
