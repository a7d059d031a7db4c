//! Remedies that errors print: each command that can be pasted is run in a shell.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule};
use netdev::{Ethtool, NetNs, QueueId};
use nix::sys::signal::Signal;

use crate::cases::lease::lease_rounds::{BESIDE6, LAST};
use crate::cases::lease::lease_way::container_options;
use framework::doctor::{as_user, run_remedy};
use framework::leases::move_to;
use framework::receiver::{bound_queues_in, restore, start_bound};
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS};
use framework::tool::{Finished, Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};
use framework::{nic_state, sysctl};

const STEP: Duration = Duration::from_secs(30);

/// Programs with which a command in a remedy may start. `modprobe` is not among them, because the
/// VM's kernel has everything built in.
const PROGRAMS: &[&str] = &[
    "chown",
    "devmem-tcp",
    "dmesg",
    "echo",
    "ethtool",
    "ip",
    "lslocks",
    "nsenter",
    "rm",
    "ss",
    "sysctl",
];
/// Placeholders in remedies that a person has to fill in.
const PLACEHOLDERS: &[&str] = &["ADDR", "DIR", "IF", "N"];
/// Commands in remedies that tell what a tool does by itself, not what to run.
const MENTIONED_COMMANDS: &[&str] = &["devmem-tcp apply", "devmem-tcp lease", "devmem-tcp recv"];

/// Returns the commands of a remedy that can be pasted as they are: those in backticks, and the one
/// after the last colon, up to a semicolon.
pub(crate) fn commands(remedy: &str) -> Vec<&str> {
    let quoted = remedy.split('`').skip(1).step_by(2);
    let last = remedy.rsplit_once(": ").map(|(_, last)| last);
    let last = last.map(|last| last.split_once("; ").map_or(last, |(first, _)| first));
    let all = quoted.chain(last.filter(|last| !last.contains('`')));
    all.filter(|text| {
        let mut words = text.split_whitespace();
        words.next().is_some_and(|first| PROGRAMS.contains(&first))
            && !words.any(|word| PLACEHOLDERS.contains(&word))
            && !MENTIONED_COMMANDS.contains(text)
    })
    .collect()
}

/// A shell that runs this line, with the directory of our programs first in PATH.
fn shell(line: &str) -> Command {
    let mut shell = Command::new("sh");
    let mut path = devmem_tcp()
        .parent()
        .map_or_else(Default::default, |dir| dir.as_os_str().to_owned());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    shell
        .env("PATH", path)
        .args(["-c", line])
        .stdin(Stdio::null());
    shell
}

/// Runs the commands in the remedies of an error, which are its indented lines. Returns the number
/// of commands.
pub(crate) fn run_remedies(complaint: &str) -> Result<usize> {
    let remedies = complaint.lines().filter_map(|line| line.strip_prefix("  "));
    let all: Vec<&str> = remedies.flat_map(commands).collect();
    for line in &all {
        let end = finish(shell(line))?;
        // A doctor that says what is wrong has done what it is there for.
        let reports =
            line.starts_with("devmem-tcp doctor") && end.stdout.contains("receiving would");
        if !(reports && end.status.code() == Some(1)) {
            end.good(line)?;
        }
        println_line(&format!("pasted {line}"));
    }
    Ok(all.len())
}

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// Checks that a command line is refused with status 1, and returns its standard error.
fn check_refused(line: &str) -> Result<String> {
    let said = tool(line)?.refused(1).with_context(|| line.to_owned())?;
    println_line(said.trim_end());
    Ok(said)
}

/// Checks that a command line is refused with a command in the remedy, and works after that was
/// run.
fn check_cured(line: &str) -> Result<()> {
    check_cured_in(&NetNs::current()?, line)
}

/// Checks that a command line for a NIC in this namespace is refused with a command in the remedy,
/// and works after that was run.
fn check_cured_in(netns: &NetNs, line: &str) -> Result<()> {
    let said = check_refused(line)?;
    ensure!(run_remedies(&said)? > 0, "no command in {said:?}");
    check_works_in(netns, command(None, &devmem_tcp(), line)).with_context(|| line.to_owned())
}

/// Checks that a receiver binds one more queue of the NIC in this namespace, or that another
/// command ends well.
fn check_works_in(netns: &NetNs, run: Command) -> Result<()> {
    let receives = run.get_args().next().is_some_and(|first| first == "recv");
    if !receives {
        return finish(run)?.good("the same again").map(drop);
    }
    let bound = bound_queues_in(netns)?;
    let mut receiver = Running::start(run)?;
    until("bound, or at its end", STEP, || {
        Ok(bound_queues_in(netns)? > bound || receiver.has_ended()?)
    })?;
    let works = !receiver.has_ended()?;
    let _ended = receiver.signal(Signal::SIGTERM);
    let end = receiver.end_within(STEP)?;
    ensure!(works, "{end:?}");
    Ok(())
}

case!(of_the_nic);
fn of_the_nic() -> Result<()> {
    testbed::wire()?;
    let recv = format!("recv -f {NIC} --queue 3 -l {NIC_ADDRESS}:5000");
    let rule = FlowRule::tcp_to(
        format!("{NIC_ADDRESS}:5000").parse()?,
        Action::Queue(QueueId::new(1)),
    );
    Ethtool::open()?.insert_rule(ifindex(NIC)?, &rule)?;
    check_cured(&recv)?;
    let apply = format!("apply {NIC} --queue 2 --flow {NIC_ADDRESS}:5000");
    tool(&apply)?.good(&apply)?;
    check_cured(&recv)?;
    nic_state::check_nothing_left()?;
    // Those tell where to look.
    let receiver = start_bound(command(None, &devmem_tcp(), &recv))?;
    for line in [
        format!("apply {NIC} --queue 3"),
        format!("apply {NIC} --queue 99"),
        format!("lease --phys {NIC} --count 9 --netkit nk0"),
        format!("lease --phys {NIC} --queue 3 --netkit nk0"),
    ] {
        let said = check_refused(&line)?;
        ensure!(run_remedies(&said)? > 0, "{line}: no command in {said:?}");
    }
    receiver.stop()?;
    sh(&format!("ip link set dev {NIC} down"))?;
    check_cured(&recv)
}

case!(of_a_nic_in_another_namespace);
/// Provokes errors of a NIC in another namespace, while a device of its name is in this one. The
/// remedies must be for the NIC's namespace.
fn of_a_nic_in_another_namespace() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    move_to(None, NIC, Some(BOX))?;
    sh(&format!(
        "ip -n {BOX} address add {NIC_ADDRESS}/24 dev {NIC}"
    ))?;
    sh(&format!("ip -n {BOX} link set dev {NIC} up"))?;
    sh(&format!("ip link add {NIC} type veth peer name veth0"))?;
    let recv = format!("recv -f {NIC} --netns {BOX} --queue 3 -l {NIC_ADDRESS}:5000");
    let apply = format!("apply {NIC} --netns {BOX} --queue 2 --flow {NIC_ADDRESS}:5000");
    tool(&apply)?.good(&apply)?;
    let netns = NetNs::by_name(BOX)?;
    check_cured_in(&netns, &recv)?;
    let listener = netns.run(|| TcpListener::bind(format!("{NIC_ADDRESS}:5000")))??;
    let said = check_refused(&recv)?;
    let by = format!("(pid {})", std::process::id());
    ensure!(said.contains(&by), "{by} is not in {said:?}");
    drop(listener);
    tool(&apply)?.good(&apply)?;
    let doctor = tool(&format!(
        "doctor {NIC} --netns {BOX} --queue 3 -l {NIC_ADDRESS}:5000"
    ))?;
    let remedy = format!("`ip netns exec {BOX} devmem-tcp restore {NIC}`");
    ensure!(doctor.stdout.contains(&remedy), "{}", doctor.stdout);
    let restore = format!("restore {NIC} --netns {BOX}");
    let end = tool(&restore)?;
    ensure!(end.stdout.contains("as it was before"), "{}", end.stdout);
    end.good(&restore)?;
    check_works_in(&netns, command(None, &devmem_tcp(), &recv))?;
    sh(&format!("ip link delete {NIC}")).map(drop)
}

case!(of_leases);
fn of_leases() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    sh(&format!("ip link set dev {NIC} down"))?;
    check_cured(&format!(
        "lease --phys {NIC} --count 1 {}",
        container_options("")
    ))?;
    tool(&format!("unlease {GUEST} --netns {BOX}"))?.good("unlease")?;
    // A default route that a router's advertisement brought: it is there after the lease, too.
    testbed::clear()?;
    testbed::wire()?;
    testbed::container()?;
    let default = "ip -6 route add default via 2001:db8:2::1 dev eth1 proto ra";
    sh(default)?;
    let address = format!("--queue {LAST} --address {BESIDE6}");
    check_cured(&format!(
        "lease --phys {NIC} {}",
        container_options(&address)
    ))?;
    let routes = sh("ip -6 route show default")?;
    ensure!(routes.contains("proto ra"), "{routes:?}");
    tool(&format!("unlease {GUEST} --netns {BOX}"))?.good("unlease")?;
    // The guest has a default route already, and the remedy shows it.
    sh(&format!("ip -n {BOX} route add default dev lo"))?;
    let line = format!(
        "lease --phys {NIC} {}",
        container_options("--queue 3 --address 198.51.100.2")
    );
    let said = check_refused(&line)?;
    ensure!(run_remedies(&said)? > 0, "no command in {said:?}");
    Ok(())
}

case!(of_memory);
fn of_memory() -> Result<()> {
    testbed::wire()?;
    let _limit = sysctl::set_parameter("udmabuf", "size_limit_mb", "64")?;
    check_cured(&format!(
        "recv -f {NIC} -l {NIC_ADDRESS}:5000 --pages 4K --size 65M"
    ))?;
    let _none = sysctl::set("vm.nr_hugepages", "0")?;
    check_cured(&format!(
        "recv -f {NIC} -l {NIC_ADDRESS}:5000 --pages 2M --size 4M"
    ))?;
    let runtime = "/tmp/of-the-user";
    fs::create_dir(runtime)?;
    std::os::unix::fs::chown(runtime, Some(1000), Some(1000))?;
    let user = || {
        let line = format!("doctor {NIC} --memory heap:system --json");
        let mut user = as_user(&devmem_tcp(), &line, true);
        user.env("DEVMEM_TCP_RUNTIME_DIR", runtime);
        user
    };
    let told = |what: &str| -> Result<(Option<i32>, String)> {
        let end = finish(user())?;
        let json: serde_json::Value = serde_json::from_str(&end.stdout)?;
        let mut checks = json["checks"].as_array().into_iter().flatten();
        let failed = checks.find(|check| check["status"] == "fail");
        println_line(&format!("{what}: {failed:?}"));
        let remedy = failed.and_then(|check| check["remedy"].as_str());
        Ok((end.status.code(), remedy.unwrap_or_default().to_owned()))
    };
    sh("chown 0 /dev/dma_heap/system")?;
    let (code, remedy) = told("root's")?;
    ensure!(code == Some(1), "{code:?}");
    let chown = commands(&remedy).pop().context("no command")?;
    run_remedy(chown)?;
    let (code, _) = told("the user's")?;
    sh("chown 0 /dev/dma_heap/system")?;
    ensure!(code == Some(0), "{code:?}");
    Ok(fs::remove_dir_all(runtime)?)
}

case!(of_sockets);
/// Listens at a port in use, then sends where no route leads. The remedies must name the port's
/// owner, and a command that shows the route.
fn of_sockets() -> Result<()> {
    testbed::wire()?;
    let _first = std::net::TcpListener::bind((NIC_ADDRESS, 5000))?;
    let said = check_refused(&format!("recv -f {NIC} -l {NIC_ADDRESS}:5000"))?;
    let by = format!("(pid {})", std::process::id());
    ensure!(said.contains(&by), "{by} is not in {said:?}");
    for (route, address) in [
        ("prohibit", "203.0.113.1"),
        ("unreachable", "2001:db8:77::1"),
    ] {
        sh(&format!("ip route add {route} {address}"))?;
        let to = match address.contains(':') {
            true => format!("[{address}]:5000"),
            false => format!("{address}:5000"),
        };
        let said = check_refused(&format!("send {to} --wait 0"))?;
        let remedy = said.lines().nth(1).context("no remedy")?;
        let ip = commands(remedy).pop().context("no command")?;
        // It answers with the kernel's words, and not with its own usage.
        let answer = finish(shell(ip))?.refused(2)?;
        println_line(&format!("pasted {ip}: {}", answer.trim_end()));
        ensure!(answer.contains("RTNETLINK answers"), "{answer}");
        sh(&format!("ip route del {route} {address}"))?;
    }
    restore().map(drop)
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn what_can_be_pasted_is_found() {
        for (remedy, found) in [
            (
                "set it up: ip link set dev eth1 up",
                &["ip link set dev eth1 up"][..],
            ),
            ("see it: ss -l; then wait", &["ss -l"]),
            (
                "`ip link` lists them, `ip netns list` too",
                &["ip link", "ip netns list"],
            ),
            ("give it more: ethtool -L eth1 combined N", &[]),
            ("`devmem-tcp recv` does it by itself", &[]),
            ("take another address: there are some", &[]),
        ] {
            assert_eq!(commands(remedy), found, "{remedy}");
        }
    }
}
