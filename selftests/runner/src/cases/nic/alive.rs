//! A lock, not a process id, shows whether the owner of a change to a NIC is alive.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::queues::BindOptions;
use netdev::{NetNs, Netdev, QueueId};
use nic::Plan;
use udmabuf::Udmabuf;

use framework::nic_state::{self, Observer};
use framework::receiver::{
    STEP, bound_queues, kill_with_guardian, recv, restore, start_bound, wait_until_unbound,
};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Finished, Running, command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// Starts a receiver as process 1 of its own PID namespace, as in a container.
fn start_in_pid_namespace() -> Result<Running> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(devmem_tcp());
    unshare.args(["recv", "-f", NIC, "--size", "4M", "-l"]);
    unshare
        .arg(format!("{NIC_ADDRESS}:5000"))
        .stdin(Stdio::null());
    let receiver = start_bound(unshare)?;
    Ok(receiver)
}

case!(pid_namespace_that_is_gone);
/// Kills a receiver in a PID namespace of its own, and with it its guardian. `restore` must not
/// take it for alive, and restore the NIC.
fn pid_namespace_that_is_gone() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let receiver = start_in_pid_namespace()?;
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "it lives: {said}");
    kill_with_guardian(receiver)?;
    wait_until_unbound()?;
    let said = restore()?.good("restore")?;
    println_line(said.trim_end());
    ensure!(said.contains("as it was before"), "{said}");
    observer.soon_same(&before)
}

/// Returns the path of the lock file that the only receiver holds while it lives.
fn owner_lock() -> Result<PathBuf> {
    let journal = nic_state::journal()?;
    let written = fs::read_to_string(&journal)?;
    let written: serde_json::Value = serde_json::from_str(&written)?;
    let name = written["claims"][0]["owner"]["lock"].as_str();
    Ok(journal.with_file_name(name.context("no lock")?))
}

case!(restored_by_force);
/// Leaves a journal as earlier versions wrote it, without the owner's lock, of a receiver in
/// another PID namespace. Only `restore --force` may restore the NIC.
fn restored_by_force() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let receiver = start_in_pid_namespace()?;
    let life = owner_lock()?;
    ensure!(life.exists(), "{} is not there", life.display());
    kill_with_guardian(receiver)?;
    let journal = nic_state::journal()?;
    let mut written: serde_json::Value = serde_json::from_slice(&fs::read(&journal)?)?;
    written["version"] = 1.into();
    let owner = &mut written["claims"][0]["owner"];
    let owner = owner.as_object_mut().context("owner")?;
    owner.remove("lock");
    let nic = written["nic"].as_object_mut().context("nic")?;
    nic.remove("device");
    nic.remove("port");
    fs::write(&journal, serde_json::to_vec(&written)?)?;
    let bent = observer.state()?;
    for line in ["restore", "restore eth1"] {
        let said = tool(line)?.good(line)?;
        ensure!(said.contains("still needs"), "{line}: {said}");
        observer.same(&bent)?;
    }
    tool("restore --force")?.refused(2)?;
    let would = tool("restore eth1 --force --dry-run")?.good("restore")?;
    println_line(would.trim_end());
    ensure!(
        would.contains("would change: tcp-data-split on -> off"),
        "{would}"
    );
    ensure!(
        would.contains("dst-port 5000 to queue 3 -> removed"),
        "{would}"
    );
    observer.same(&bent)?;
    let said = tool("restore eth1 --force")?.good("restore")?;
    println_line(said.trim_end());
    observer.soon_same(&before)
}

case!(guardian_outlives_a_failed_restore);
/// Makes a restore fail in a process that lives on. Its guardian must wait for the end of the
/// process, however long that takes.
fn guardian_outlives_a_failed_restore() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let nic = ifindex(NIC)?;
    let plan = Plan::new(NIC, nic).header_split().reserve(&[LAST]);
    let applied = plan.apply(&NetNs::current()?)?;
    let memory = Udmabuf::builder(4 << 20).build()?;
    // While it is bound the kernel keeps header split on.
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[LAST], BindOptions::default())?;
    let refused = applied.restore();
    println_line(&format!("{refused:?}"));
    ensure!(refused.is_err(), "it was restored while bound");
    thread::sleep(Duration::from_secs(12));
    nic_state::guardian().context("the guardian did not stay")?;
    binding.unbind();
    let said = restore()?.good("restore")?;
    println_line(said.trim_end());
    observer.same(&before)
}

case!(one_of_two_ends);
/// Ends one of two receivers. The other one must still count as alive.
fn one_of_two_ends() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let one = start_bound(recv(5000))?;
    let line = format!("recv -f {NIC} --queue 2 --size 4M -l {NIC_ADDRESS}:5001");
    let other = Running::start(command(None, &devmem_tcp(), &line))?;
    until("both bindings", STEP, || Ok(bound_queues()? == 2))?;
    one.stop()?;
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    ensure!(observer.same(&before).is_err(), "the other's is gone");
    other.stop()?;
    observer.soon_same(&before)
}
