//! The commands of the documents other than the README, as they stand there.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use netdev::NetNs;

use super::documents::{DOCUMENTS, LEFT_OUT, RUN, SenderName, commands, left_out, runs, words};
use super::ncdevmem::payload;
use crate::runner::registry::ALL;
use framework::console::{Shell, Shown};
use framework::nic_state::{self, Observer};
use framework::sysctl;
use framework::testbed::{self, NIC, PEER};
use framework::tool::{ours, says, sh};
use framework::{ifindex, println_line};

const MAKEFILE: &str = include_str!("../../../../../Makefile");

case!(every_command_runs_or_is_left_out);
/// Each command of a console block has a case that runs it, or a reason why none does, and each `make` in
/// them is a target.
fn every_command_runs_or_is_left_out() -> Result<()> {
    let mut unused: Vec<_> = LEFT_OUT.iter().collect();
    let mut idle: Vec<_> = RUN.iter().collect();
    for document in DOCUMENTS {
        let all = document.commands();
        ensure!(!all.is_empty(), "no console block in {}", document.path);
        for command in all {
            let out = left_out(document.path, &command);
            let run = runs(document.path, &command);
            let at = format!(
                "{}, {:?}: {}",
                document.path,
                command.heading,
                command.code()
            );
            println_line(&format!("{at}: {}", out.or(run).unwrap_or("?")));
            ensure!(
                out.is_some() || run.is_some(),
                "neither run nor left out: {at}"
            );
            unused.retain(|(path, start, _)| {
                *path != document.path || !command.line.starts_with(start)
            });
            idle.retain(|(path, heading, _)| {
                *path != document.path || *heading != command.heading || out.is_some()
            });
            if let Some(target) = command.code().strip_prefix("make ") {
                let target = target.split_whitespace().next().unwrap_or_default();
                let known = target.contains('=') || MAKEFILE.contains(&format!("\n{target}: "));
                ensure!(known, "no target of the Makefile: {at}");
            }
        }
    }
    ensure!(unused.is_empty(), "no command begins so: {unused:?}");
    ensure!(idle.is_empty(), "no command is below these: {idle:?}");
    for (_, _, name) in RUN {
        ensure!(ALL.iter().any(|case| case.name == *name), "no case {name}");
    }
    Ok(())
}

/// The wire of `make vm`, the sender's namespace by the name that it has there, and an empty one for a container.
pub(super) fn wire() -> Result<SenderName> {
    testbed::wire_with(16, "")?;
    testbed::container()?;
    SenderName::new()
}

/// `devmem-tcp send` at the other end of the wire.
fn send(options: &str) -> Shown {
    Shown::between(format!("ip netns exec sender devmem-tcp send {options}"))
}

/// Waits for the command that went to the background last, and prints what it said.
fn wait_for_last() -> Shown {
    Shown::between("wait \"${jobs[-1]}\"; cat \"${outputs[-1]}\"")
}

case!(service);
/// One `apply`, after which each `recv` changes nothing, and `restore`.
fn service() -> Result<()> {
    let _sender = wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let [apply, recv, restore] = &commands("docs.service")?[..] else {
        anyhow::bail!("not three commands");
    };
    let shell = Shell::new()?;
    shell.run(std::slice::from_ref(apply))?;
    let applied = observer.state()?;
    for _ in 0..2 {
        let said = shell.run(&[
            recv.clone().in_background(),
            send("192.0.2.2:5000 --bytes 1M"),
            wait_for_last(),
        ])?;
        says(&said[2], &["received 1048576 bytes", "linear     0 bytes"])?;
        ensure!(!said[2].contains("put back"), "recv changed something");
        observer.same(&applied)?;
    }
    shell.run(std::slice::from_ref(restore))?;
    observer.same(&before)?;
    nic_state::check_nothing_left()
}

case!(ncdevmem_at_a_glance);
/// Probe, receive to a file, validate, send.
fn ncdevmem_at_a_glance() -> Result<()> {
    let _sender = wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let shell = Shell::new()?;
    let sent = payload(1 << 20);
    fs::write(shell.file("file"), &sent)?;
    let [probe, receive, validate, send_file] = &commands("docs.ncdevmem_at_a_glance")?[..] else {
        anyhow::bail!("not four commands");
    };
    shell.run(std::slice::from_ref(probe))?;
    observer.same(&before)?;
    let code = receive.code().to_owned();
    let to_file = receive.clone().with(&code, format!("{code} >received"))?;
    let sender = send("192.0.2.2:5201 --input file");
    shell.run(&[to_file.in_background(), sender.clone(), wait_for_last()])?;
    ensure!(
        fs::read(shell.file("received"))? == sent,
        "stdout is not the payload"
    );
    let validate = validate.clone().in_background();
    let said = shell.run(&[validate, sender, wait_for_last()])?;
    says(&said[2], &["Validated buffer"])?;
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind("192.0.2.1:5201"))??;
    let listening = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept()?.0.read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    });
    shell.run(std::slice::from_ref(send_file))?;
    let received = listening.join().ok().context("the listener")??;
    ensure!(received == sent, "{} bytes came", received.len());
    observer.same(&before)
}

case!(memory_from_a_helper);
/// `pass`, and a receiver that takes its memory from it.
fn memory_from_a_helper() -> Result<()> {
    let _sender = wire()?;
    let [pass, recv] = &commands("docs.memory_from_a_helper")?[..] else {
        anyhow::bail!("not two commands");
    };
    let shell = Shell::new()?;
    let said = shell.run(&[
        pass.clone(),
        Shown::between("until [ -S /run/memory.sock ]; do kill -0 \"${jobs[0]}\"; sleep 0.1; done"),
        recv.clone().in_background(),
        send("192.0.2.2:5000 --bytes 1M"),
        wait_for_last(),
    ]);
    let removed = fs::remove_file("/run/memory.sock");
    let said = said?;
    removed?;
    says(
        &said[4],
        &[
            "(64 MiB of socket:/run/memory.sock)",
            "dmabuf     1048576 bytes",
        ],
    )?;
    nic_state::check_nothing_left()
}

/// The folder of the programs that can load a GPU driver's library, and of a fake of it.
fn fake() -> PathBuf {
    ours("../fake")
}

case!(memory_that_is_here, on drm);
/// Kinds of memory, with a display device and without a GPU.
fn memory_that_is_here() -> Result<()> {
    let _sender = wire()?;
    sh("modprobe vgem")?;
    let shell = Shell::new()?.programs(fake());
    shell.run(&commands("docs.memory_that_is_here")?).map(drop)
}

case!(gpu);
/// Doctor, then a transfer into what plays a GPU's memory; 16 MiB, not 4 GiB, as this is an emulated machine.
fn gpu() -> Result<()> {
    let _sender = wire()?;
    // What plays the GPU's memory is a udmabuf, of which Linux 7.2 allows 64 MiB.
    let _limit = sysctl::set_parameter("udmabuf", "size_limit_mb", "256")?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let [doctor, recv, send] = &commands("docs.gpu")?[..] else {
        anyhow::bail!("not three commands");
    };
    ensure!(
        (recv.prompt, send.prompt) == ("recv#", "send$"),
        "other machines"
    );
    let shell = Shell::new()?.programs(fake());
    let shell = shell.variable("LD_LIBRARY_PATH", fake());
    let said = shell.run(std::slice::from_ref(doctor))?;
    for check in [
        "memory.cuda",
        "memory.chosen",
        "driver.queue-api",
        "split.settable",
    ] {
        says(&words("docs/gpu.md")?, &[&format!("`{check}`")])?;
        says(&said[0], &[&format!("ok    {check}")])?;
    }
    observer.same(&before)?;
    let send = send.clone().with("4G", "16M")?;
    let send = Shown::between(format!("ip netns exec sender {}", send.code()));
    let said = shell.run(&[recv.clone().in_background(), send, wait_for_last()])?;
    let right = "every byte validated (period 251)";
    says(&words("docs/gpu.md")?, &[&format!("`{right}`")])?;
    says(&said[2], &[right, "received 16777216 bytes"])?;
    observer.same(&before)
}

case!(gpu_distance);
/// Where both are, as far as the VM has such devices: another PCI device plays the GPU, and, where the software
/// NIC has no such file, the NIC.
fn gpu_distance() -> Result<()> {
    let _sender = wire()?;
    let (gpu, nic) = ("0000:00:01.0", "/sys/bus/pci/devices/0000:00:02.0");
    let filled = |command: Shown| {
        let code = command.code().replace("0000:06:00.0", gpu);
        let numa = code.contains("numa_node");
        Shown::between(match numa {
            true => code.replace("/sys/class/net/eth1/device", nic),
            false => code,
        })
    };
    let all: Vec<Shown> = commands("docs.gpu_distance")?
        .into_iter()
        .map(filled)
        .collect();
    let said = Shell::new()?.run(&all)?;
    let said: Vec<Vec<&str>> = said.iter().map(|said| said.lines().collect()).collect();
    let [name, paths, nodes] = &said[..] else {
        anyhow::bail!("not three commands");
    };
    ensure!(
        matches!(name[..], [name] if name.starts_with("swnic")),
        "{name:?}"
    );
    let found = matches!(paths[..], [nic, gpu_path] if nic.starts_with("/sys/devices/") && gpu_path.ends_with(gpu));
    ensure!(found, "{paths:?}");
    let numbers = nodes.iter().all(|node| node.parse::<i32>().is_ok());
    ensure!(nodes.len() == 2 && numbers, "{nodes:?}");
    Ok(())
}

case!(module_is_loaded);
/// Without parameters, there is one pair of devices.
fn module_is_loaded() -> Result<()> {
    let shell = Shell::new()?;
    fs::copy(ours("../swnic.ko"), shell.file("swnic.ko"))?;
    shell.run(&commands("docs.module_is_loaded")?)?;
    ensure!(ifindex("eth0").is_ok() && ifindex(NIC).is_ok(), "no pair");
    Ok(())
}
