//! Errors that are found before the NIC is changed.

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use framework::nic_state::{self, Observer};
use framework::println_line;
use framework::receiver::{STEP, bound_queues, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::says;
use framework::tool::{Running, command, finish, ours, sh};
use framework::transfer::devmem_tcp;

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

fn check_refused(line: &str, words: &[&str]) -> Result<()> {
    let said = finish(tool(line))?.refused(1)?;
    println_line(said.trim_end());
    says(&said, words)
}

case!(wrong_queues);
/// Asks for queues that don't exist, a queue named twice, and a queue of a device that is down.
/// Each must be refused with the NIC unchanged.
fn wrong_queues() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let recv = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000");
    let there = format!("{NIC} has rx queues 0-3");
    check_refused(&format!("{recv} --queue 99"), &["--queue 99", &there])?;
    check_refused(&format!("{recv} --queue 3 --queue 99"), &["99", &there])?;
    check_refused(&format!("{recv} --queue 3 --queue 3"), &["3", "twice"])?;
    nic_state::check_untouched()?;
    for line in [
        format!("apply {NIC} --queue 99"),
        format!("plan {NIC} --queue 3 --queue 99 --flow {NIC_ADDRESS}:5000"),
    ] {
        check_refused(&line, &["99", &there])?;
    }
    let line = format!("-f {NIC} -l -s {NIC_ADDRESS} -p 5000 -v 7 -t 99 -q 1");
    let said = finish(command(None, &ours("ncdevmem"), &line))?.refused(1)?;
    says(&said, &["99", &there])?;
    let line = format!("ip link set {NIC} down");
    sh(&line)?;
    check_refused(&format!("{recv} --queue 3"), &["is down", "ip link set"])?;
    nic_state::check_nothing_left()?;
    observer.same(&before)
}

case!(wrong_addresses);
/// Listens at a port in use and at an address that no device has. Both must be refused before the
/// NIC is touched.
fn wrong_addresses() -> Result<()> {
    testbed::wire()?;
    let _taken = TcpListener::bind((NIC_ADDRESS, 5000))?;
    let own = format!("(pid {})", std::process::id());
    let words = ["5000", "Address already in use", &own];
    check_refused(&format!("recv -f {NIC} -l {NIC_ADDRESS}:5000"), &words)?;
    check_refused(&format!("recv -f {NIC} -l [::]:5000"), &words)?;
    let nobodys = format!("recv -f {NIC} -l 192.0.2.77:5000");
    check_refused(&nobodys, &["192.0.2.77", "ip address"])?;
    nic_state::check_untouched()?;
    let line = format!("-f {NIC} -l -s {NIC_ADDRESS} -p 5000 -v 7 -t 3 -q 1");
    let said = finish(command(None, &ours("ncdevmem"), &line))?.refused(1)?;
    println_line(said.trim_end());
    says(&said, &["5000", "Address already in use", "ss -ltnp"])?;
    nic_state::check_untouched()
}

case!(bound_queue);
/// Asks for a queue that another receiver has bound. The error must name the receiver; if the
/// receiver ends soon, the queue must be waited for.
fn bound_queue() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = |port: u16| format!("recv -f {NIC} --queue 3 -l {NIC_ADDRESS}:{port} --size 4M");
    // It leaves the NIC alone, so that nothing but the binding speaks of it.
    let first = start_bound(tool(&format!("{} --no-config", line(5000))))?;
    let began = Instant::now();
    let who = format!("devmem-tcp (pid {})", first.id());
    check_refused(&line(5001), &["rx queue 3", "bound to dmabuf", &who])?;
    ensure!(began.elapsed() > Duration::from_secs(2), "no patience");
    nic_state::check_untouched()?;
    check_refused(&format!("{} --no-config", line(5001)), &["bound", &who])?;

    let second = Running::start(tool(&line(5001)))?;
    thread::sleep(Duration::from_millis(500));
    first.kill()?;
    framework::tool::until("the second one", STEP, || {
        Ok(bound_queues()? == 1 && observer.same(&before).is_err())
    })?;
    second.stop()?;
    observer.soon_same(&before)
}
