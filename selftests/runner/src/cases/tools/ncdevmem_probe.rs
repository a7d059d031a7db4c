//! `ncdevmem -f IF`: the probe that upstream's suites run first.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use netdev::ethtool::HeaderSplit;
use netdev::queues::Lease;
use netdev::{Netdev, QueueId};
use nix::sys::signal::Signal;

use super::ncdevmem::{bound_queues, check_settings, ncdevmem, settings, wait_for_end};
use framework::nic_state;
use framework::sysctl;
use framework::testbed::{self, NIC};
use framework::tool::{Running, finish, sh, until};
use framework::{ifindex, netkit, println_line};

/// Checks that `ncdevmem` as probe ends with this status, and returns its standard error.
fn run_probe(line: &str, status: i32) -> Result<String> {
    let end = finish(ncdevmem(None, line))?;
    println_line(end.stderr.trim_end());
    ensure!(end.stdout.is_empty(), "on stdout: {:?}", end.stdout);
    end.refused(status)
}

case!(passes_and_restores);
/// Runs the probe with each setting of header split, threshold and RSS. It must pass and restore
/// them.
fn passes_and_restores() -> Result<()> {
    testbed::wire()?;
    for (split, threshold) in [
        (HeaderSplit::Auto, 0),
        (HeaderSplit::Enabled, 0),
        (HeaderSplit::Disabled, 0),
        (HeaderSplit::Enabled, 200),
    ] {
        testbed::set_header_split(split, threshold)?;
        let before = settings()?;
        let said = run_probe(&format!("-f {NIC}"), 0)?;
        for refusal in [
            "header split off is refused",
            "without queues is refused",
            "bound queues away is refused",
        ] {
            ensure!(said.contains(refusal), "{refusal:?} is not said");
        }
        check_settings(&before)?;
        ensure!(bound_queues()? == 0, "a binding is left");
    }
    sh(&format!("ethtool -X {NIC} weight 1 0 2 5"))?;
    let before = settings()?;
    let said = run_probe(&format!("-f {NIC} -t 1 -q 2"), 0)?;
    ensure!(said.contains("queues 1..3"), "other queues than named");
    check_settings(&before)
}

case!(rx_page_size);
/// Runs the probe with `-b`, without hugepages and with them. Before Linux 7.3 it must fail, and
/// say which version has the attribute.
fn rx_page_size() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let complaint = run_probe(&format!("-f {NIC} -b 16384"), 1)?;
    ensure!(complaint.contains("nr_hugepages"), "no remedy");
    let _reserved = sysctl::set("vm.nr_hugepages", "64")?;
    if testbed::kernel()? < (7, 3) {
        let complaint = run_probe(&format!("-f {NIC} -b 16384"), 1)?;
        ensure!(complaint.contains("Linux 7.3"), "no remedy");
    } else {
        run_probe(&format!("-f {NIC} -b 16384"), 0)?;
        run_probe(&format!("-f {NIC} -b 0x4000"), 0)?;
        let complaint = run_probe(&format!("-f {NIC} -b 5000"), 1)?;
        ensure!(complaint.contains("bind-rx"), "not the kernel's refusal");
    }
    check_settings(&before)
}

case!(fails_without_devmem);
fn fails_without_devmem() -> Result<()> {
    sh("ip link add v0 numrxqueues 4 numtxqueues 4 type veth peer name v1")?;
    netkit("nk0", 2)?;
    for device in ["lo", "v0", "nk0"] {
        run_probe(&format!("-f {device}"), 1)?;
        run_probe(&format!("-f {device} -t 1 -q 1"), 1)?;
    }
    sh("ip link delete v0")?;
    ensure!(run_probe("-f eth9", 1)?.contains("ENODEV"), "not named");
    Ok(())
}

case!(fails_over_a_leased_queue);
/// Runs the probe on queues of which one is leased, as in upstream's suites over netkit. It must
/// fail with a remedy, and restore the NIC.
fn fails_over_a_leased_queue() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let lease = Lease {
        of: ifindex(NIC)?,
        queue: QueueId::new(testbed::QUEUES - 1),
        netns_id: None,
    };
    Netdev::open()?.lease(netkit("nk0", 2)?, lease)?;
    let complaint = run_probe(&format!("-f {NIC}"), 1)?;
    ensure!(complaint.contains("devmem-tcp show"), "no remedy");
    check_settings(&before)?;
    // Those that are not leased are as good as before.
    run_probe(&format!("-f {NIC} -t 1 -q 2"), 0)?;
    check_settings(&before)
}

case!(refused_for_another_reason);
/// Runs the probe on a queue that does not exist. The refusal must not count as the one that is
/// tested for.
fn refused_for_another_reason() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let complaint = run_probe(&format!("-f {NIC} -t 99 -q 1"), 1)?;
    ensure!(
        complaint.contains("for another reason") && complaint.contains("bind-rx"),
        "not said: {complaint}"
    );
    ensure!(!complaint.contains("as it must be"), "counted: {complaint}");
    check_settings(&before)
}

case!(signals_restore);
/// Ends the probe by signals at different steps, on a driver that takes 600 ms for rings and RSS.
/// It must restore the NIC each time.
fn signals_restore() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("slow_ms", 300)?;
    let before = settings()?;
    for step in 0..8 {
        let running = Running::start(ncdevmem(None, &format!("-f {NIC}")))?;
        // Not the NIC, which answers when the driver has done what it is at.
        until("a journal", Duration::from_secs(30), || {
            Ok(!nic_state::journals()?.is_empty())
        })?;
        sleep(Duration::from_millis(step * 60));
        let signal = if step % 2 == 0 {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        };
        running.signal(signal)?;
        let end = wait_for_end(running)?;
        println_line(&format!("step {step}: {}", end.status));
        let said = end.refused(1)?;
        ensure!(
            said.contains("signal"),
            "it did not end by {signal}: {said}"
        );
        check_settings(&before)?;
        ensure!(bound_queues()? == 0, "a binding is left");
    }
    Ok(())
}

case!(bad_command_lines);
fn bad_command_lines() -> Result<()> {
    for (line, word) in [
        ("", "Missing -f"),
        ("-f lo -x", "-x"),
        ("-f lo -t 1", "-t and -q"),
        ("-f lo -n", "-n"),
        ("-f lo -c 192.0.2.1", "Missing -s"),
        ("-f lo -s 192.0.2.1", "Missing -p"),
        ("-f lo -s 192.0.2.1 -p 0", "port"),
        ("-f lo -s 192.0.2.1 -p 5000 -l -t 1 -q 0", "-q 0"),
        ("-f lo -s here -p 5000", "here"),
        ("-f lo -b 4294967296", "-b"),
    ] {
        let complaint = run_probe(line, 1)?;
        ensure!(complaint.contains(word), "{line:?}: {word:?} is not said");
    }
    Ok(())
}
