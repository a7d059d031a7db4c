//! Errors of the tools on bad input: the object and the kernel's words, then the remedy; exit status 2
//! for usage, 1 for the rest; the NIC as it was before.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netdev::ethtool::HeaderSplit;

use super::remedies::run_remedies;
use framework::command_line::Recv;
use framework::nic_state;
use framework::println_line;
use framework::sysctl;
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS};
use framework::tool::{command, finish, sh, until};
use framework::transfer::{devmem_tcp, nic_settings};

/// Checks that a command is refused with status 1 and two lines, an error with all these words and
/// a remedy whose commands work.
pub(crate) fn complains(mut run: Command, words: &[&str]) -> Result<()> {
    run.stdin(std::process::Stdio::null());
    let complaint = finish(run)?.refused(1)?;
    println_line(complaint.trim_end());
    for word in words {
        ensure!(complaint.contains(word), "{word:?} is not in the complaint");
    }
    let lines: Vec<&str> = complaint.lines().collect();
    ensure!(
        lines.len() == 2,
        "a complaint is one line and a remedy, not {}",
        lines.len()
    );
    ensure!(lines[1].starts_with("  "), "the second line is no remedy");
    run_remedies(&complaint).map(drop)
}

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

case!(unknown_device);
fn unknown_device() -> Result<()> {
    complains(tool("recv -f eth9 -l 127.0.0.1:5000"), &["eth9", "ENODEV"])?;
    complains(
        tool("lease --phys eth9 --queue 1 --netkit nk0"),
        &["eth9", "ENODEV"],
    )?;
    complains(tool("show eth9"), &["eth9", "ENODEV"])?;
    complains(
        tool("recv -f lo --netns nowhere -l 127.0.0.1:5000"),
        &["nowhere", "ENOENT"],
    )
}

case!(queue_out_of_range);
fn queue_out_of_range() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let line = format!("recv -f {NIC} --queue 99 -l {NIC_ADDRESS}:5000 --no-config");
    testbed::enable_header_split()?;
    complains(tool(&line), &["99", "eth1 has rx queues 0-3"])?;
    testbed::set_header_split(HeaderSplit::Auto, 0)?;
    let line = format!("recv -f {NIC} --queue 99 -l {NIC_ADDRESS}:5000");
    complains(tool(&line), &["99", "eth1 has rx queues 0-3"])?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    let line = format!("lease --phys {NIC} --queue 99 --netkit nk0");
    complains(tool(&line), &["queue-create", "nk0", NIC, "99", "ERANGE"])
}

case!(device_without_devmem);
fn device_without_devmem() -> Result<()> {
    let line = "recv -f lo --queue 0 -l 127.0.0.1:5000 --no-config";
    complains(tool(line), &["bind-rx", "lo", "EOPNOTSUPP"])?;
    complains(
        tool("recv -f lo -l 127.0.0.1:5000"),
        &["lo", "leases no queue"],
    )?;
    // By itself the module makes a device, which stays.
    sh("modprobe dummy numdummies=0")?;
    sh("ip link add nkdown type dummy")?;
    complains(
        tool("recv -f nkdown -l 127.0.0.1:5000"),
        &["nkdown", "is down", "ip link set dev nkdown up"],
    )
}

case!(split_off_and_no_config);
fn split_off_and_no_config() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Disabled, 0)?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000 --no-config");
    complains(
        tool(&line),
        &["tcp-data-split is disabled", "EINVAL", "devmem-tcp apply"],
    )
}

case!(without_net_admin);
fn without_net_admin() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let before = nic_settings(NIC)?;
    let bare = |line: &str| {
        let mut run = Command::new("setpriv");
        run.args([
            "--bounding-set=-net_admin,-sys_admin",
            "--inh-caps=-net_admin,-sys_admin",
        ]);
        run.arg(devmem_tcp()).args(line.split(' '));
        run
    };
    let recv = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000");
    complains(bare(&recv), &[NIC, "EPERM", "CAP_NET_ADMIN"])?;
    complains(
        bare(&format!("{recv} --no-config")),
        &["bind-rx", NIC, "EPERM", "CAP_NET_ADMIN"],
    )?;
    let lease = format!("lease --phys {NIC} --queue 1 --netkit nk0");
    complains(bare(&lease), &["nk0", "EPERM", "CAP_NET_ADMIN"])?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(without_udmabuf);
/// Hides `/dev/udmabuf` behind an empty `/dev`. The error must name it, and no NIC be touched.
fn without_udmabuf() -> Result<()> {
    testbed::wire()?;
    let mut run = Command::new("unshare");
    let line = format!(
        "mount -t tmpfs none /dev && exec {} recv -f {NIC} -l {NIC_ADDRESS}:5000",
        devmem_tcp().display()
    );
    run.args(["--mount", "sh", "-c", &line]);
    complains(run, &["/dev/udmabuf", "udmabuf"])?;
    nic_state::check_untouched()
}

case!(over_the_size_limit);
/// Sets udmabuf's size limit to 64 MiB, as before Linux 7.3, and asks for more. The error must name
/// the parameter.
fn over_the_size_limit() -> Result<()> {
    testbed::wire()?;
    let _limit = sysctl::set_parameter("udmabuf", "size_limit_mb", "64")?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000 --size 65M");
    complains(tool(&line), &["size_limit_mb"])?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000 --size 5000");
    complains(tool(&line), &["page"])?;
    nic_state::check_untouched()
}

case!(port_in_use);
fn port_in_use() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let _first = std::net::TcpListener::bind((NIC_ADDRESS, 5000))?;
    let line = format!("recv -f {NIC} --queue 2 -l {NIC_ADDRESS}:5000");
    complains(tool(&line), &["5000", "Address already in use"])?;
    ensure!(
        nic_settings(NIC)? == before,
        "the receiver left its settings behind"
    );
    Ok(())
}

case!(flow_in_use);
/// Asks for a flow that a receiver's rule has. `apply` must be refused, name the receiver, and
/// change nothing.
fn flow_in_use() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let first = Recv::on(NIC).queue(1).listen(testbed::at(5000)).start()?;
    until("a listener", Duration::from_secs(30), || {
        Ok(sh("cat /proc/net/tcp")?.contains(" 0A "))
    })?;
    let during = nic_settings(NIC)?;
    let line = format!("apply {NIC} --queue 2 --flow {NIC_ADDRESS}:5000");
    let pid = first.id().to_string();
    complains(tool(&line), &["rule 0", "has these packets", &pid])?;
    ensure!(
        nic_settings(NIC)? == during,
        "the second receiver left its settings behind"
    );
    first.signal(nix::sys::signal::Signal::SIGTERM)?;
    first.end_within(Duration::from_secs(5))?.refused(1)?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(bad_command_lines);
fn bad_command_lines() -> Result<()> {
    let kept = "/tmp/kept";
    std::fs::write(kept, "kept")?;
    for line in [
        "recv -f lo -l 1.2.3.4:5000 --connections 2 --output /tmp/kept",
        "recv -f lo -l 1.2.3.4:5000 --validate 0",
        "recv -f lo -l 1.2.3.4:5000 --rx-page-size 4G",
        "send 1.2.3.4:5000 --pattern 0",
        "recv -f lo -l nonsense",
        "recv -f lo -l 1.2.3.4",
        "recv -f lo -l 1.2.3.4:99999",
        "recv -f lo -l 1.2.3.4:5000 --size -1",
        "recv -f lo -l 1.2.3.4:5000 --queue x",
        "recv -l 1.2.3.4:5000",
        "lease --phys eth1 --netkit nk0",
        "send 1.2.3.4",
        "nothing",
        "",
    ] {
        let complaint = finish(tool(line))?.refused(2)?;
        println_line(complaint.lines().next().unwrap_or_default());
        ensure!(!complaint.is_empty(), "{line:?}: no complaint");
    }
    ensure!(
        std::fs::read(kept)? == b"kept",
        "a refused command line emptied the output"
    );
    Ok(())
}

case!(refused_lease_leaves_nothing);
/// Leases a queue that does not exist to a new netkit. The lease must fail, and the netkit be
/// removed.
fn refused_lease_leaves_nothing() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!("lease --phys {NIC} --queue 99 --netkit {GUEST} --netns {BOX}");
    complains(tool(&line), &["queue-create", "ERANGE"])?;
    let line = format!("lease --phys {NIC} --queue 1 --queue 99 --netkit {GUEST} --netns {BOX}");
    complains(tool(&line), &["queue-create", "ERANGE"])?;
    let left = sh("ip -o link show type netkit")? + &sh(&format!("ip -n {BOX} -o link show"))?;
    ensure!(!left.contains("nk0"), "left behind: {left}");
    Ok(())
}
