//! A device, a lease or a namespace that disappears under a receiver: it ends within 2 s, says what
//! disappeared, and has an exit code for that.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::cases::lease::lease_rounds::BESIDE;
use crate::cases::tools::remedies::run_remedies;
use framework::command_line::{Recv, Sender};
use framework::leases::{check_no_device, delete, is_free};
use framework::machine;
use framework::println_line;
use framework::receiver::bound_queues;
use framework::receiver::received;
use framework::testbed::{
    self, BOX, BOX_ADDRESS, GUEST, HOST, NIC, NIC_ADDRESS, PEER, SENDER_ADDRESS,
};
use framework::tool::{Running, command, sh, until};
use framework::transfer::{devmem_tcp, nic_settings, validated};

const LAST: u32 = testbed::QUEUES - 1;
/// Time limit for a receiver to end after the removal.
const LIMIT: Duration = Duration::from_secs(2);
/// Time limit for the kernel to tear a namespace down after its name is gone.
const TEARDOWN: Duration = Duration::from_secs(30);

/// Exit statuses of `recv` when the NIC, its device or its namespace disappears.
const NIC_WENT: i32 = 3;
const DEVICE_WENT: i32 = 4;
const NETNS_WENT: i32 = 5;

/// Checks that after `act` the receiver ends by itself in time, with this exit status and these
/// words on one line. Returns its whole standard error.
fn check_end(
    receiver: Running,
    act: impl FnOnce() -> Result<()>,
    code: i32,
    words: &[&str],
) -> Result<String> {
    let before = Instant::now();
    act()?;
    let acted = before.elapsed();
    let end = receiver.end_within(LIMIT)?;
    let took = before.elapsed();
    println_line(end.stdout.trim_end());
    let complaint = end.refused(code)?;
    println_line(&format!(
        "{complaint}{took:.1?}, of which the act {acted:.1?}"
    ));
    let line = complaint
        .lines()
        .find(|line| line.starts_with("devmem-tcp: recv"));
    for word in words {
        let said = line.is_some_and(|line| line.contains(word));
        ensure!(said, "{word:?} is not in the complaint");
    }
    Ok(complaint)
}

/// Checks the end of a receiver as [`check_end`] does, without returning its standard error.
fn check_end_without_remedy(
    receiver: Running,
    act: impl FnOnce() -> Result<()>,
    code: i32,
    words: &[&str],
) -> Result<()> {
    check_end(receiver, act, code, words).map(drop)
}

/// Starts a sender of 8 GiB, longer than any case lasts, and waits until payload arrives.
fn start_stream(to: &str) -> Result<Running> {
    let sender = Sender::to(to).bytes("8G").start()?;
    until("payload", Duration::from_secs(20), || Ok(received()? > 500))?;
    Ok(sender)
}

fn kill_sender(sender: Running) -> Result<()> {
    sender.signal(Signal::SIGKILL)?;
    sender.end_within(Duration::from_secs(5)).map(drop)
}

/// Starts a receiver in the container, on a leased queue; it sets the NIC up itself.
fn start_on_new_lease(netns: &str) -> Result<Running> {
    testbed::wire()?;
    testbed::container()?;
    lease_into_container()?;
    let receiver = Recv::on(GUEST).netns(netns);
    receiver.listen(format!("{BOX_ADDRESS}:5000")).start_bound()
}

fn lease_into_container() -> Result<()> {
    let line = format!("lease --phys {NIC} --queue {LAST} --netkit {GUEST} --netns {BOX}");
    sh(&format!("{} {line}", devmem_tcp().display()))?;
    testbed::route_to_container()
}

fn unload_nic() -> Result<()> {
    machine::unload()?;
    check_no_device(NIC)
}

case!(nic_while_receiving);
/// Removes the NIC in mid-stream. The receiver must say so, and how much it had received.
fn nic_while_receiving() -> Result<()> {
    testbed::wire()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC).listen(&to).start_bound()?;
    let sender = start_stream(&to)?;
    let words = [
        NIC,
        "was removed",
        "bytes were received",
        "tokens were returned",
    ];
    check_end_without_remedy(receiver, unload_nic, NIC_WENT, &words)?;
    kill_sender(sender)
}

case!(nic_while_idle);
/// Removes the NIC before the first peer has come. The receiver must say so.
fn nic_while_idle() -> Result<()> {
    testbed::wire()?;
    let receiver = Recv::on(NIC).listen(testbed::at(5000)).start_bound()?;
    check_end_without_remedy(
        receiver,
        unload_nic,
        NIC_WENT,
        &[NIC, "was removed", "nothing had been received"],
    )
}

case!(nic_behind_a_lease);
/// Removes the NIC behind a leased queue, and with it the netkit. The receiver must name the NIC as
/// the cause.
fn nic_behind_a_lease() -> Result<()> {
    let receiver = start_on_new_lease(BOX)?;
    let sender = start_stream(&format!("{BOX_ADDRESS}:5000"))?;
    let words = [GUEST, "the NIC whose queue", NIC, "was removed"];
    check_end_without_remedy(receiver, unload_nic, NIC_WENT, &words)?;
    kill_sender(sender)?;
    check_no_device(HOST)
}

case!(nic_that_has_moved);
/// Removes a NIC that was moved to another namespace during receiving. The receiver must notice.
fn nic_that_has_moved() -> Result<()> {
    testbed::wire()?;
    let receiver = Recv::on(NIC).listen(testbed::at(5000)).start_bound()?;
    framework::leases::move_to(None, NIC, Some(PEER))?;
    std::thread::sleep(Duration::from_millis(500));
    check_end_without_remedy(receiver, machine::unload, NIC_WENT, &[NIC, "was removed"])
}

case!(netkit_while_receiving);
fn netkit_while_receiving() -> Result<()> {
    let before = settings_before()?;
    let receiver = start_in_container()?;
    let sender = start_stream(&format!("{BOX_ADDRESS}:5000"))?;
    let words = [GUEST, "was deleted", NIC, "tokens were returned"];
    check_end_without_remedy(receiver, || delete(HOST), DEVICE_WENT, &words)?;
    kill_sender(sender)?;
    check_as_before(&before)
}

case!(lease_made_again);
/// Deletes the netkit and runs the command that the receiver then prints. The lease must be as
/// before: queues, namespace, address, route and host end's name.
fn lease_made_again() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let lease = format!(
        "lease --phys {NIC} --queues 2-{LAST} --netkit {GUEST} --netns {BOX} --address {BESIDE} \
         --route {SENDER_ADDRESS}/32 --host-end nkout"
    );
    sh(&format!("{} {lease}", devmem_tcp().display()))?;
    let to = format!("{BESIDE}:5000");
    let receiver = Recv::on(GUEST)
        .netns(BOX)
        .queue(1)
        .listen(&to)
        .start_bound()?;
    let complaint = check_end(
        receiver,
        || delete("nkout"),
        DEVICE_WENT,
        &[GUEST, "was deleted"],
    )?;
    ensure!(run_remedies(&complaint)? == 1, "no command, or several");
    for queue in 2..=LAST {
        ensure!(!is_free(queue)?, "queue {queue} is not leased again");
    }
    let routes = sh(&format!("ip -n {BOX} route"))?;
    ensure!(
        !routes.contains("default") && routes.contains(SENDER_ADDRESS),
        "{routes}"
    );
    sh("ip link show nkout")?;
    validated(Recv::on(GUEST).netns(BOX), to, 1 << 20)?;
    let unlease = format!("unlease {GUEST} --netns {BOX}");
    sh(&format!("{} {unlease}", devmem_tcp().display())).map(drop)
}

/// Leases a queue into the container, and returns the NIC's settings before any receiver runs.
fn settings_before() -> Result<String> {
    testbed::wire()?;
    testbed::container()?;
    lease_into_container()?;
    nic_settings(NIC)
}

fn start_in_container() -> Result<Running> {
    let receiver = Recv::on(GUEST).netns(BOX);
    receiver.listen(format!("{BOX_ADDRESS}:5000")).start_bound()
}

/// Waits until no binding and no lease is left, and checks that the NIC's settings are as before.
fn check_as_before(before: &str) -> Result<()> {
    until("the end of the binding and the lease", TEARDOWN, || {
        Ok(bound_queues()? == 0 && is_free(LAST)?)
    })?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(namespace_by_name_while_receiving);
fn namespace_by_name_while_receiving() -> Result<()> {
    let before = settings_before()?;
    let receiver = start_in_container()?;
    let sender = start_stream(&format!("{BOX_ADDRESS}:5000"))?;
    let act = || machine::delete_namespace(BOX);
    check_end_without_remedy(
        receiver,
        act,
        NETNS_WENT,
        &[GUEST, "namespace box was deleted", "bytes were"],
    )?;
    kill_sender(sender)?;
    check_as_before(&before)
}

case!(namespace_by_path);
fn namespace_by_path() -> Result<()> {
    let path = format!("/run/netns/{BOX}");
    let receiver = start_on_new_lease(&path)?;
    let act = || machine::delete_namespace(BOX);
    check_end_without_remedy(receiver, act, NETNS_WENT, &[&path, "was deleted"])?;
    until("the end of the lease", TEARDOWN, || is_free(LAST))
}

case!(namespace_from_within);
/// Deletes by name the namespace in which the receiver itself runs. The receiver must name the
/// namespace.
fn namespace_from_within() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    lease_into_container()?;
    let receiver = Recv::on(GUEST).within(BOX);
    let receiver = receiver
        .listen(format!("{BOX_ADDRESS}:5000"))
        .start_bound()?;
    let act = || machine::delete_namespace(BOX);
    check_end_without_remedy(receiver, act, NETNS_WENT, &["namespace box was deleted"])?;
    until("the end of the lease", TEARDOWN, || is_free(LAST))
}

case!(namespace_by_pid);
/// Ends the process by which `--netns pid:N` names a namespace that has no other name. The receiver
/// must say that the process has ended.
fn namespace_by_pid() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    lease_into_container()?;
    let pod = Running::start(command(Some(BOX), Path::new("sleep"), "60"))?;
    let own = fs::read_link("/proc/self/ns/net")?;
    let pid = pod.id();
    until("the pod", Duration::from_secs(30), || {
        Ok(fs::read_link(format!("/proc/{pid}/ns/net"))? != own)
    })?;
    machine::delete_namespace(BOX)?;
    let receiver = Recv::on(GUEST).netns(format!("pid:{pid}"));
    let receiver = receiver
        .listen(format!("{BOX_ADDRESS}:5000"))
        .start_bound()?;
    let act = || pod.signal(Signal::SIGKILL);
    let words = [GUEST, &format!("process {pid}"), "has ended"];
    check_end_without_remedy(receiver, act, NETNS_WENT, &words)?;
    pod.end_within(Duration::from_secs(5))?;
    until("the end of the lease", TEARDOWN, || is_free(LAST))
}
