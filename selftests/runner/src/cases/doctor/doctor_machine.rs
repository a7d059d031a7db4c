//! `doctor` finds faults of the machine: udmabuf, memory, privilege, settings.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use framework::doctor::{
    Report, Severity, as_user, check_avoided, check_cured, check_named_by, run_remedy,
};
use framework::println_line;
use framework::sysctl;
use framework::testbed::{self, NIC};
use framework::tool::sh;
use framework::transfer::devmem_tcp;

/// Enters a mount namespace with a new `/dev` that contains only `null`.
fn enter_empty_dev() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount(
        Some("none"),
        "/dev",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    // A command's standard input, before there is a command.
    let mode = Mode::from_bits_truncate(0o666);
    Ok(mknod("/dev/null", SFlag::S_IFCHR, mode, makedev(1, 3))?)
}

case!(no_udmabuf_node);
/// Hides `/dev/udmabuf`, as in a container. `doctor` must say so, and its remedy must help.
fn no_udmabuf_node() -> Result<()> {
    testbed::wire()?;
    enter_empty_dev()?;
    check_cured(NIC, "udmabuf.device", Severity::NoRx)
}

case!(udmabuf_of_another_user);
/// Runs `doctor` as a user with `CAP_NET_ADMIN` only, who may not open `/dev/udmabuf`. Its remedy
/// must help.
fn udmabuf_of_another_user() -> Result<()> {
    testbed::wire()?;
    let minor = fs::read_to_string("/proc/misc")?;
    let minor = minor
        .lines()
        .find_map(|line| line.trim().strip_suffix(" udmabuf"));
    let minor = minor.context("no udmabuf in /proc/misc")?.trim().to_owned();
    enter_empty_dev()?;
    sh(&format!("mknod -m 600 /dev/udmabuf c 10 {minor}"))?;
    let user = |line: &str| as_user(&devmem_tcp(), line, true);
    let remedy = check_named_by(user, NIC, "udmabuf.device", Severity::NoRx)?;
    run_remedy(&remedy)?;
    Report::by(user(&format!("doctor {NIC} --json")))?.healthy()
}

case!(udmabuf_size_limit);
/// Sets udmabuf's size limit to 64 MiB, as before Linux 7.3, and asks for more. `doctor` must say
/// so, and its remedy must help.
fn udmabuf_size_limit() -> Result<()> {
    testbed::wire()?;
    let _limit = sysctl::set_parameter("udmabuf", "size_limit_mb", "64")?;
    check_cured(
        &format!("{NIC} --size 100M"),
        "udmabuf.limit",
        Severity::NoRx,
    )
}

case!(more_than_the_memory);
fn more_than_the_memory() -> Result<()> {
    testbed::wire()?;
    let _none = sysctl::set_parameter("udmabuf", "size_limit_mb", &i32::MAX.to_string())?;
    check_avoided(&format!("{NIC} --size 64G"), "memory.free")
}

case!(no_hugepages);
fn no_hugepages() -> Result<()> {
    testbed::wire()?;
    let _one = sysctl::set("vm.nr_hugepages", "1")?;
    check_cured(
        &format!("{NIC} --pages 2M --size 32M"),
        "memory.hugepages",
        Severity::NoRx,
    )
}

case!(receive_buffers_larger_than_the_pool);
fn receive_buffers_larger_than_the_pool() -> Result<()> {
    testbed::wire()?;
    let _large = sysctl::set("net.ipv4.tcp_rmem", "4096 131072 134217728")?;
    check_cured(NIC, "socket.rmem", Severity::Warns)
}

case!(receive_buffers_too_small);
fn receive_buffers_too_small() -> Result<()> {
    testbed::wire()?;
    let _small = sysctl::set("net.ipv4.tcp_rmem", "4096 65536 65536")?;
    check_cured(NIC, "socket.rmem", Severity::Warns)
}

case!(optmem_too_small);
fn optmem_too_small() -> Result<()> {
    testbed::wire()?;
    let _small = sysctl::set("net.core.optmem_max", "20480")?;
    check_cured(NIC, "socket.optmem", Severity::Warns)
}

case!(no_capability);
/// Runs `doctor` as a user without capabilities. Its remedy must begin with `sudo`, which the VM
/// lacks: the shell defines a function of that name.
fn no_capability() -> Result<()> {
    testbed::wire()?;
    let user = |line: &str| as_user(&devmem_tcp(), line, false);
    let report = Report::by(user(&format!("doctor {NIC} --json")))?;
    ensure!(report.code == Some(1), "{:?}", report.code);
    let failed = report.failed();
    let expected = ["privilege.bind", "privilege.lease", "udmabuf.device"];
    ensure!(failed == expected, "{failed:?}");
    let remedy = report.remedy("privilege.bind")?;
    println_line(remedy);
    ensure!(remedy.starts_with("sudo "), "{remedy}");
    run_remedy(&format!("sudo() {{ \"$@\"; }}; {remedy}"))
}

case!(user_namespace);
/// Runs `doctor` as root of a user namespace. It must say that binding is allowed and leasing is
/// not.
fn user_namespace() -> Result<()> {
    let own = |line: &str| {
        let mut run = Command::new("unshare");
        run.args(["--user", "--map-root-user", "--net"]);
        run.arg(devmem_tcp()).args(line.split_whitespace());
        run
    };
    let report = Report::by(own("doctor --json"))?;
    ensure!(report.status("privilege.bind") == "ok", "{}", report.json);
    ensure!(
        report.status("privilege.lease") == "fail",
        "{}",
        report.json
    );
    let remedy = report.remedy("privilege.lease")?;
    println_line(remedy);
    ensure!(remedy.contains("on the host"), "{remedy}");
    // In the initial one, and with nothing else changed, it is granted.
    testbed::wire()?;
    let here = Report::of(NIC)?;
    ensure!(here.status("privilege.lease") == "ok", "{}", here.json);
    Ok(())
}

case!(root_without_the_capability);
/// Runs `doctor` as root without `CAP_NET_ADMIN`. It must name the missing capability.
fn root_without_the_capability() -> Result<()> {
    testbed::wire()?;
    let bare = |line: &str| {
        let mut run = Command::new("setpriv");
        run.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        run.arg(devmem_tcp()).args(line.split_whitespace());
        run
    };
    let report = Report::by(bare(&format!("doctor {NIC} --json")))?;
    ensure!(
        report.failed() == ["privilege.bind", "privilege.lease"],
        "{}",
        report.json
    );
    let remedy = report.remedy("privilege.bind")?;
    ensure!(remedy.contains("CAP_NET_ADMIN"), "{remedy}");
    // What it looks at needs no capability: it says the same as with all of them.
    let whole = Report::of(NIC)?;
    ensure!(
        report.status("link.coalesce") == whole.status("link.coalesce"),
        "{}",
        report.json
    );
    whole.healthy()
}
