//! Memory larger than the machine or the control group has is refused before a page is taken, with
//! a possible size.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cases::tools::tool_errors::complains;
use framework::println_line;
use framework::receiver::{bound_queues, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, finish, ours, until};
use framework::transfer::{devmem_tcp, nic_settings};

/// Time limit for taking half of the machine's memory page by page, in emulation.
const LATER: Duration = Duration::from_secs(90);

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

/// Reads how much memory is free, in KiB.
fn free_kib() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find(|line| line.starts_with("MemFree:"));
    let kib = line.context("no MemFree")?.split_whitespace().nth(1);
    Ok(kib.context("no number")?.parse()?)
}

/// Checks that a command line is refused with an excessive size in place of `SIZE`, and that no
/// memory was taken. Returns the option with a possible size that the remedy names.
fn refused_size(line: &str, size: &str) -> Result<String> {
    let (line, before) = (line.replace("SIZE", size), free_kib()?);
    complains(tool(&line), &["MiB are available", "take less: --"])?;
    let taken = before.saturating_sub(free_kib()?);
    ensure!(taken < 64 << 10, "{taken} KiB less than before are free");
    let said = finish(tool(&line))?.refused(1)?;
    let remedy = said.lines().nth(1).context("no remedy")?;
    let option = remedy.split_once("take less: ").context("no option")?.1;
    Ok(option.trim().to_owned())
}

/// Checks that `recv` can bind with the option that the remedy named.
fn check_remedy_helps(line: &str, option: &str) -> Result<()> {
    let (before, _) = line.split_once("--size").context("no --size")?;
    let receiver = Running::start(tool(&format!("{before}{option}")))?;
    until("a binding", LATER, || Ok(bound_queues()? > 0))?;
    receiver.stop().map(drop)
}

case!(more_than_the_machine_has);
fn more_than_the_machine_has() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let base = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000");
    let plain = format!("{base} --size SIZE");
    let option = refused_size(&plain, "100G")?;
    check_remedy_helps(&plain, &option)?;
    for options in [
        "--pages 4K --size SIZE",
        "--pages 2M --size SIZE",
        "--memory heap:system --size SIZE",
    ] {
        refused_size(&format!("{base} {options}"), "100G")?;
    }
    // Each of them would fit.
    let line = format!("{base} --queue 2 --queue 3 --dmabuf-per-queue --size SIZE");
    let option = refused_size(&line, "900M")?;
    ensure!(nic_settings(NIC)? == before, "the NIC is not as it was");
    check_remedy_helps(&line, &option)?;
    let line = format!("send {NIC_ADDRESS}:5000 --wait 0 --dev {NIC} --dmabuf=SIZE");
    let option = refused_size(&line, "100G")?;
    // Now there is memory, and no listener.
    let said = finish(tool(&line.replace("--dmabuf=SIZE", &option)))?.refused(1)?;
    ensure!(said.contains("refused"), "{said}");
    Ok(())
}

case!(more_than_the_control_group_has);
/// Starts the tools in a control group with a memory limit, as in a container. They must refuse a
/// larger size, and name the limit.
fn more_than_the_control_group_has() -> Result<()> {
    testbed::wire()?;
    let group = Path::new("/sys/fs/cgroup/memory-size");
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
    fs::create_dir(group).context("cgroup")?;
    fs::write(group.join("memory.max"), "100M")?;
    fs::write(group.join("memory.swap.max"), "0").ok();
    let within = |program: &Path, line: &str| {
        let procs = group.join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && exec {} {line}",
            procs.display(),
            program.display()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        shell
    };
    let recv = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000");
    let words = [
        "are available",
        "memory-size/memory.max",
        "take less: --size ",
    ];
    complains(
        within(&devmem_tcp(), &format!("{recv} --size 200M")),
        &words,
    )?;
    let receiver = start_bound(within(&devmem_tcp(), &format!("{recv} --size 32M")))?;
    receiver.stop()?;

    fs::write(group.join("memory.max"), "40M")?;
    let line = format!("-s {NIC_ADDRESS} -l -p 5000 -f {NIC} -t 3 -q 1");
    let said = finish(within(&ours("ncdevmem"), &line))?.refused(1)?;
    println_line(said.trim_end());
    for word in ["are available", "memory-size/memory.max", "  ask for "] {
        ensure!(said.contains(word), "{word:?} is not in the complaint");
    }
    let events = fs::read_to_string(group.join("memory.events"))?;
    ensure!(events.contains("oom_kill 0"), "{events}");
    fs::remove_dir(group).context("cgroup")
}
