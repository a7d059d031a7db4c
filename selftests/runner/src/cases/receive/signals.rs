//! Signals to a receiver: a pair that `timeout` sends is one request, and a second request ends what is
//! stuck.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use netdev::Link;
use nix::sys::signal::Signal;

use super::streams::{SOON, fill_pipe, listening_into, receiver, small_pipe};
use crate::cases::tools::json::check_documented;
use framework::command_line::Sender;
use framework::println_line;
use framework::receiver::bound_queues;
use framework::receiver::received;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, ours, until};
use framework::transfer::{devmem_tcp, nic_settings};

case!(timeout_is_one_signal);
/// Ends receivers by `timeout`, which signals the process and its group, and by two signals 20 ms
/// apart. Both pairs must count as one request, after which the NIC is restored.
fn timeout_is_one_signal() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("slow_ms", 100)?;
    let before = nic_settings(NIC)?;
    for (port, program) in [(4000, "devmem-tcp"), (4001, "ncdevmem")] {
        let receiver = listening_into(receiver(program, port), Stdio::null())?;
        receiver.signal(Signal::SIGTERM)?;
        thread::sleep(Duration::from_millis(20));
        receiver.signal(Signal::SIGTERM)?;
        let said = receiver.end()?.refused(1)?;
        ensure!(said.contains("ended by signal 15"), "{program}: {said}");
        ensure!(nic_settings(NIC)? == before, "the NIC is not as it was");
    }
    for turn in 0..4 {
        let port = 5000 + turn;
        let line = match turn % 2 {
            0 => format!(
                "6 {} recv --json -f {NIC} -l {NIC_ADDRESS}:{port}",
                devmem_tcp().display()
            ),
            _ => format!(
                "6 {} -l -f {NIC} -s {NIC_ADDRESS} -p {port}",
                ours("ncdevmem").display()
            ),
        };
        let run = Running::start(command(None, Path::new("timeout"), &line))?;
        let end = run.end_within(SOON)?;
        println_line(end.stderr.trim_end());
        ensure!(end.status.code() == Some(124), "{end:?}");
        ensure!(end.stderr.contains("ended by signal 15"), "{end:?}");
        if turn % 2 == 0 {
            check_documented("recv", &end.stdout)?;
        }
        ensure!(nic_settings(NIC)? == before, "the NIC is not as it was");
    }
    Ok(())
}

case!(stuck_ncdevmem_ends_by_a_second_signal);
/// Blocks `ncdevmem` in a write to a full pipe. A second signal must end it, and the guardian
/// restore the NIC.
fn stuck_ncdevmem_ends_by_a_second_signal() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let (reader, writer) = small_pipe()?;
    let mut receiver = listening_into(receiver("ncdevmem", 5000), writer)?;
    let sender = Sender::to(testbed::at(5000)).bytes("8M").start()?;
    until("payload", SOON, || Ok(received()? > 20))?;
    // As far as it goes: the pipe has a page, and the window of a peer that is not read from is small.
    thread::sleep(Duration::from_secs(1));
    receiver.signal(Signal::SIGTERM)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(!receiver.ended()?, "it was not stuck");
    ensure!(bound_queues()? == 1, "it was not stuck");
    receiver.signal(Signal::SIGTERM)?;
    receiver.end()?.refused(143)?;
    until("the NIC as it was", SOON, || {
        Ok(bound_queues()? == 0 && nic_settings(NIC)? == before)
    })?;
    drop(reader);
    sender.kill()?;
    Ok(())
}

/// Waits for a process to end with this exit status, and kills it if it does not end in time.
fn ended_with(mut child: Child, code: i32) -> Result<()> {
    if let Err(error) = until("an end", SOON, || Ok(child.try_wait()?.is_some())) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    let status = child.wait()?;
    ensure!(status.code() == Some(code), "{status}");
    Ok(())
}

case!(stuck_watch_ends_by_a_second_signal);
/// Blocks `show --watch` in a write to a full pipe. A second Ctrl-C must end it.
fn stuck_watch_ends_by_a_second_signal() -> Result<()> {
    let (reader, writer) = small_pipe()?;
    fill_pipe(&writer)?;
    let mut command = command(None, &devmem_tcp(), "show --watch");
    let mut child = command.stdout(writer).spawn()?;
    drop(command);
    thread::sleep(Duration::from_secs(1));
    for _ in 0..2 {
        ensure!(child.try_wait()?.is_none(), "it was not stuck");
        framework::tool::signal(child.id().try_into()?, Signal::SIGINT)?;
        thread::sleep(Duration::from_millis(500));
    }
    ended_with(child, 130)?;
    drop(reader);
    Ok(())
}

case!(stuck_lease_ends_by_a_second_signal);
/// Blocks `lease` in a write to a full pipe after its work is done. A second signal must end it,
/// and the lease stay.
fn stuck_lease_ends_by_a_second_signal() -> Result<()> {
    testbed::wire()?;
    let (reader, writer) = small_pipe()?;
    fill_pipe(&writer)?;
    let line = format!("lease --json --phys {NIC} --queue 3 --netkit nk0");
    let mut command = command(None, &devmem_tcp(), &line);
    let mut child = command.stdout(writer).spawn()?;
    drop(command);
    until("the lease", SOON, || {
        Ok(Link::open()?.by_name("nk0").is_ok())
    })?;
    for _ in 0..2 {
        thread::sleep(Duration::from_secs(1));
        ensure!(child.try_wait()?.is_none(), "it was not stuck");
        framework::tool::signal(child.id().try_into()?, Signal::SIGTERM)?;
    }
    ended_with(child, 143)?;
    drop(reader);
    ensure!(Link::open()?.by_name("nk0").is_ok(), "the lease is gone");
    Ok(())
}
