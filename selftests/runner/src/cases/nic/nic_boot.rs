//! A boot id that differs from the host's, as in containers with a file of their own over it
//! (systemd-nspawn, LXC), while the runtime directory is the host's.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use framework::doctor::Report;
use framework::nic_state::{self, Observer};
use framework::println_line;
use framework::receiver::{
    STEP, bound_queues, kill_with_guardian, recv, restore, start_bound, wait_until_unbound,
};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::says;
use framework::tool::{Finished, Running, command, finish, until};
use framework::transfer::devmem_tcp;

const FILE: &str = "/tmp/boot_id";
const OTHER: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// Returns a command that runs the tool with another boot id.
fn with_other_boot_id(line: &str) -> Result<Command> {
    fs::write(FILE, format!("{OTHER}\n"))?;
    let tool = devmem_tcp();
    let script = format!(
        "mount --bind {FILE} /proc/sys/kernel/random/boot_id && exec {} {line}",
        tool.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", &script]);
    unshare.stdin(Stdio::null());
    Ok(unshare)
}

fn recv_on_other_queue() -> String {
    format!("recv -f {NIC} --queue 2 --size 4M -l {NIC_ADDRESS}:5001")
}

/// Ends a receiver by SIGTERM.
fn stop_receiver(receiver: Running) -> Result<()> {
    receiver.stop().map(drop)
}

/// Kills a receiver and the only guardian.
fn kill_receiver(receiver: Running) -> Result<()> {
    kill_with_guardian(receiver)?;
    wait_until_unbound()
}

case!(living_owner);
/// Runs receivers with different boot ids on one NIC. A living owner must count, whatever boot its
/// journal names.
fn living_owner() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let first = start_bound(recv(5000))?;
    let alone = observer.state()?;
    for line in ["restore", "restore eth1"] {
        let said = finish(with_other_boot_id(line)?)?.good(line)?;
        ensure!(!said.contains("boot"), "{line}: {said}");
        nic_state::journal()?;
        observer.same(&alone)?;
    }
    let second = Running::start(with_other_boot_id(&recv_on_other_queue())?)?;
    until("both bindings", STEP, || Ok(bound_queues()? == 2))?;
    stop_receiver(first)?;
    // Now the host finds the journal of one who has another id.
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    ensure!(observer.same(&before).is_err(), "the other's is gone");
    stop_receiver(second)?;
    observer.soon_same(&before)?;

    // As after a boot, but for the lock.
    let first = start_bound(recv(5000))?;
    let journal = nic_state::journal()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let written = fs::read_to_string(&journal)?;
    fs::write(&journal, written.replace(boot.trim(), OTHER))?;
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    stop_receiver(first)?;
    observer.soon_same(&before)
}

case!(dead_owner);
/// Kills receivers with different boot ids. What they left must not be forgotten, but reported as
/// perhaps of another boot.
fn dead_owner() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let receiver = start_bound(recv(5000))?;
    kill_receiver(receiver)?;
    let bent = observer.state()?;
    let unknown = |end: Finished| -> Result<()> {
        let said = end.refused(1)?;
        println_line(said.trim_end());
        says(&said, &["may be of another boot"])?;
        nic_state::journal().map(drop)
    };
    for line in [
        "restore",
        "restore eth1",
        &recv_on_other_queue(),
        "plan eth1 --queue 2",
    ] {
        unknown(Running::start(with_other_boot_id(line)?)?.end_within(STEP)?)?;
        observer.same(&bent)?;
    }
    let report = Report::by(with_other_boot_id("doctor eth1 --json")?)?;
    ensure!(report.status("journal.nic") == "fail", "{}", report.json);
    restore()?.good("restore")?;
    observer.soon_same(&before)?;

    // The other way round.
    let receiver = start_bound(with_other_boot_id(&recv_on_other_queue())?)?;
    kill_receiver(receiver)?;
    unknown(restore()?)?;
    unknown(Running::start(recv(5000))?.end_within(STEP)?)?;
    let line = format!("restore {NIC} --force");
    finish(command(None, &devmem_tcp(), &line))?.good("restore")?;
    observer.soon_same(&before)?;

    // Where the id is the same, the boot is.
    let receiver = start_bound(with_other_boot_id(&recv_on_other_queue())?)?;
    kill_receiver(receiver)?;
    finish(with_other_boot_id("restore eth1")?)?.good("restore")?;
    observer.soon_same(&before)
}
