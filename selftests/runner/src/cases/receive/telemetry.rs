//! The receiver's telemetry agrees with what the kernel counts.

pub(crate) mod receiver;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::queues::{PagePool, QueueCounters, Scope};
use netdev::{Netdev, QueueType};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cases::tools::json::check_documented;
use framework::receiver::wait_until_bound;
use framework::summary::Summary;
use framework::testbed::{self, BOX, BOX_ADDRESS, GUEST, NIC, NIC_ADDRESS, PEER};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::{devmem_tcp, number};
use framework::{ifindex, println_line};
use receiver::{FreedAtOnce, LiveReceiver, SOON, StoppedThread, connect, connect_to};

const LAST: u32 = testbed::QUEUES - 1;

/// Returns the NIC's page pool whose memory is a dmabuf.
fn bound_page_pool() -> Result<PagePool> {
    let pools = Netdev::open()?.page_pools(Some(ifindex(NIC)?))?;
    let bound = pools.into_iter().find(|pool| pool.dmabuf.is_some());
    bound.context("no page pool has a dmabuf")
}

/// Reads the kernel's counters of the rx queue that payload arrives on.
fn queue_counters() -> Result<QueueCounters> {
    let all = Netdev::open()?.qstats(Some(ifindex(NIC)?), Scope::Queue)?;
    let ours = all.into_iter().find(|stats| {
        let of = stats.queue;
        of.is_some_and(|of| of.kind == QueueType::Rx && of.id.get() == LAST)
    });
    Ok(ours.context("no counters of the queue")?.counters)
}

fn check_number(line: &Value, pointer: &str, expected: u64) -> Result<()> {
    let found = number(line, pointer)?;
    ensure!(found == expected, "{pointer} is {found}, not {expected}");
    Ok(())
}

case!(live_adds_up, on any_memory);
/// Has two peers send and stay, then close. The figures of `--live` must add up and equal the
/// kernel's.
fn live_adds_up() -> Result<()> {
    testbed::wire()?;
    let _freed = FreedAtOnce::set()?;
    let line = format!("--live --json -l {NIC_ADDRESS}:5000 --connections 2");
    let receiver = LiveReceiver::start(&line)?;
    let (first, second) = (connect(5000, 3_000_000)?, connect(5000, 1_000_000)?);
    let settled = receiver.line("all bytes, all tokens back", |line| {
        let tokens = &line["tokens"];
        let taken = &line["memory"]["pools"][0]["in_use"];
        line["bytes"] == 4_000_000 && tokens["issued"] == tokens["returned"] && *taken == 0
    })?;
    println_line(&settled.to_string());
    let sum = |key: &str| -> u64 {
        let all = settled[key].as_array().into_iter().flatten();
        all.filter_map(|one| one["bytes"].as_u64()).sum()
    };
    ensure!(
        (sum("connections"), sum("queues")) == (4_000_000, 4_000_000),
        "connections or queues do not add up to the whole"
    );
    // The kernel's own figures, while nothing flows.
    let inflight = bound_page_pool()?.inflight.context("inflight")?;
    check_number(&settled, "/memory/pools/0/inflight", inflight)?;
    // This NIC keeps no ring of buffers: what came back is all free, though in the pool's own ring.
    ensure!(inflight > 0, "nothing is in the pool's own ring");
    check_number(&settled, "/memory/pools/0/in_use", 0)?;
    let mut queues = settled["queues"].as_array().into_iter().flatten();
    let ours = queues.find(|queue| queue["queue"] == LAST);
    let ours = ours.context("our queue")?;
    check_number(ours, "/bytes", 4_000_000)?;
    check_number(ours, "/connections", 2)?;
    let failed = queue_counters()?.rx_alloc_fail.context("rx-alloc-fail")?;
    check_number(ours, "/alloc_fail", failed)?;
    drop(first);
    receiver.line("one has ended", |line| {
        line["ended"] == 1 && line["bytes"] == 4_000_000
    })?;
    drop(second);
    let end = receiver.end()?;
    ensure!(!end.stderr.contains("warning"), "{}", end.stderr);
    let said = end.good("recv")?;
    let (live, summary) = said.trim_end().rsplit_once('\n').context("lines")?;
    check_documented("recv --live", live)?;
    check_documented("recv", summary)?;
    let summary = Summary::parse(summary)?;
    ensure!(summary.bytes == 4_000_000, "{summary}");
    ensure!(summary.frags == number(&settled, "/frags")?, "{summary}");
    check_consistent(&summary)
}

case!(live_of_two_queues, on any_memory);
/// Receives on two queues, each with a thread and a dmabuf. One line of `--live` must sum up both.
fn live_of_two_queues() -> Result<()> {
    const PEERS: u64 = 12;
    testbed::wire()?;
    let line = format!(
        "--live --json --queue 2 --queue 3 --thread-per-queue --dmabuf-per-queue --size 16M \
         -l {NIC_ADDRESS}:5000 --connections {PEERS}"
    );
    let receiver = LiveReceiver::start(&line)?;
    let peers = (0..PEERS).map(|_| connect(5000, 100_000));
    let peers = peers.collect::<Result<Vec<_>>>()?;
    let settled = receiver.line("all bytes", |line| line["bytes"] == PEERS * 100_000)?;
    println_line(&settled.to_string());
    check_number(&settled, "/missing", 0)?;
    let mut connections = 0;
    let mut bytes = 0;
    for (index, queue) in [2, 3].into_iter().enumerate() {
        let row = &settled["queues"][index];
        check_number(row, "/queue", queue)?;
        check_number(row, "/bytes", 100_000 * number(row, "/connections")?)?;
        connections += number(row, "/connections")?;
        bytes += number(row, "/bytes")?;
        let pool = &settled["memory"]["pools"][index];
        check_number(pool, "/niovs", 4096)?;
        let (inflight, empty) = (number(pool, "/inflight")?, number(row, "/bytes")? == 0);
        ensure!((inflight == 0) == empty, "pool {index}: {inflight}");
    }
    ensure!((connections, bytes) == (PEERS, PEERS * 100_000), "others");
    drop(peers);
    let said = receiver.end()?.good("recv")?;
    let (live, summary) = said.trim_end().rsplit_once('\n').context("lines")?;
    check_documented("recv --live", live)?;
    check_consistent(&serde_json::from_str(summary)?)
}

case!(live_with_a_thread_that_is_done);
/// Lets the thread of one of two queues finish. Its figures must still count in the lines of
/// `--live`.
fn live_with_a_thread_that_is_done() -> Result<()> {
    const PEERS: u64 = 12;
    testbed::wire()?;
    let line = format!(
        "--live --json --queue 2 --queue 3 --thread-per-queue -l {NIC_ADDRESS}:5000 --connections {PEERS}"
    );
    let receiver = LiveReceiver::start(&line)?;
    let peers = (0..PEERS).map(|_| connect(5000, 100_000));
    let peers = peers.collect::<Result<Vec<_>>>()?;
    let before = receiver.line("all bytes, all tokens back", |line| {
        let tokens = &line["tokens"];
        line["bytes"] == PEERS * 100_000 && tokens["issued"] == tokens["returned"]
    })?;
    let of = |queue: u64| {
        let all = before["connections"].as_array().into_iter().flatten();
        let of = all.filter(move |one| one["queue"] == queue);
        of.filter_map(|one| one["peer"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let (leaving, staying) = (of(2), of(3));
    ensure!(
        !leaving.is_empty() && !staying.is_empty(),
        "all on one queue"
    );
    let (gone, left): (Vec<_>, Vec<_>) = peers.into_iter().partition(|peer| {
        let address = peer.local_addr().map(|address| address.to_string());
        address.is_ok_and(|address| leaving.contains(&address))
    });
    drop(gone);
    let ended = leaving.len() as u64;
    // The first lines may still come from before.
    std::thread::sleep(Duration::from_millis(1500));
    for _ in 0..2 {
        let line = receiver.line("another line", |_| true)?;
        println_line(&line.to_string());
        check_number(&line, "/ended", ended)?;
        check_number(&line, "/missing", 0)?;
        check_number(&line, "/bytes", PEERS * 100_000)?;
        for pointer in ["/frags", "/tokens/issued", "/tokens/returned"] {
            check_number(&line, pointer, number(&before, pointer)?)?;
        }
        check_number(&line, "/queues/0/bytes", ended * 100_000)?;
        check_number(&line, "/queues/0/ended", ended)?;
        check_number(
            &line,
            "/telemetry/frag_size/count",
            number(&before, "/frags")?,
        )?;
    }
    drop(left);
    receiver.end()?.good("recv").map(drop)
}

case!(nic_out_of_reach);
/// Receives where neither the NIC nor its namespace can be seen. The receiver must say so once, and
/// report only what it counts itself.
fn nic_out_of_reach() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let tool = devmem_tcp();
    let tool = tool.display();
    sh(&format!(
        "{tool} lease --phys {NIC} --queue {LAST} --netkit {GUEST} --netns {BOX}"
    ))?;
    testbed::route_to_container()?;
    sh(&format!(
        "{tool} apply {NIC} --queue {LAST} --flow {BOX_ADDRESS}:5000"
    ))?;
    // Other namespaces are known by their names and by processes: there are none.
    let hidden = format!(
        "exec ip netns exec {BOX} unshare --pid --fork --mount --mount-proc \
         sh -c 'mount -t tmpfs none /run/netns && exec \"$@\"' sh"
    );
    let line = format!("--live --json -f {GUEST} -l {BOX_ADDRESS}:5000");
    let receiver = LiveReceiver::within(&hidden, &line)?;
    let peer = connect_to(BOX_ADDRESS, 5000, 1_000_000)?;
    let settled = receiver.line("all bytes, and their niovs back", |line| {
        line["bytes"] == 1_000_000 && line["memory"]["pools"][0]["in_use"] == 0
    })?;
    println_line(&settled.to_string());
    for unknown in [
        "/memory/pools/0/inflight",
        "/memory/alloc_fail",
        "/memory/hw_drops",
    ] {
        let found = settled.pointer(unknown);
        ensure!(found.is_some_and(Value::is_null), "{unknown}: {found:?}");
    }
    drop(peer);
    let end = receiver.end()?;
    println_line(&end.stderr);
    ensure!(end.stderr.contains("out of reach"), "not said");
    ensure!(
        end.stderr.matches("out of reach").count() == 1,
        "said twice"
    );
    let said = end.good("recv")?;
    let (live, summary) = said.trim_end().rsplit_once('\n').context("lines")?;
    check_documented("recv --live", live)?;
    check_documented("recv", summary)?;
    sh(&format!("{tool} restore {NIC}")).map(drop)
}

/// Checks that a summary's histograms agree with its counters, with no warning and no failed
/// allocation.
fn check_consistent(summary: &Summary) -> Result<()> {
    println_line(&summary.to_string());
    summary.tokens_came_back()?;
    let (telemetry, frags) = (&summary.telemetry, summary.frags);
    ensure!(telemetry.frag_size.count == frags, "frags: {summary}");
    for (name, histogram, expected) in [
        ("frag_size", &telemetry.frag_size, summary.frag_bytes),
        ("frags_per_call", &telemetry.frags_per_call, frags),
        ("held_at_flush", &telemetry.held_at_flush, frags),
    ] {
        let total = histogram.count as f64 * histogram.mean.context("mean")?;
        let off = (total - expected as f64).abs();
        ensure!(off < 1.0, "{name}: {total}, not {expected}");
    }
    let (flushes, held) = (&telemetry.held_at_flush, &telemetry.hold_time_us);
    ensure!(held.count == flushes.count, "flushes: {summary}");
    // 2 ms are due, or 8 in a steady stream, and a slow machine adds some.
    let half = held.p50.context("p50")?;
    ensure!(half < 20_000, "tokens were held for {half} us");
    let memory = &summary.memory;
    ensure!(memory.warnings == 0, "warnings: {summary}");
    ensure!(memory.alloc_fail == Some(0), "failures: {summary}");
    Ok(())
}

case!(healthy_run, on any_memory);
/// Receives 16 MiB through the default memory. The telemetry must be consistent, without a warning.
fn healthy_run() -> Result<()> {
    testbed::wire()?;
    let receiver = LiveReceiver::start(&format!("--json -l {NIC_ADDRESS}:5000"))?;
    let line = format!("send {NIC_ADDRESS}:5000 --bytes 16M");
    finish(command(Some(PEER), &devmem_tcp(), &line))?.good("send")?;
    let end = receiver.end()?;
    ensure!(!end.stderr.contains("warning"), "{}", end.stderr);
    let summary = Summary::parse(&end.good("recv")?)?;
    check_consistent(&summary)?;
    let pool = summary.memory.pools.first().context("a pool")?;
    let (niovs, peak) = (pool.niovs, pool.peak_inflight.context("peak")?);
    ensure!(niovs == 16_384 && peak <= niovs, "{peak} of {niovs}");
    Ok(())
}

case!(warning_before_the_pool_starves, on any_memory);
/// Stops the receiving thread while peers take one niov after the other. A warning must come before
/// the NIC runs out, and another when it has.
fn warning_before_the_pool_starves() -> Result<()> {
    const NIOVS: u64 = 64;
    const PEERS: u64 = 96;
    testbed::wire()?;
    let _freed = FreedAtOnce::set()?;
    let line = format!("--json --size 256K -l {NIC_ADDRESS}:5000 --connections {PEERS}");
    let receiver = LiveReceiver::start(&line)?;
    let halted = StoppedThread::stop(receiver.running.id())?;
    let mut peers = Vec::new();
    while !receiver.said()?.contains("warning: recv") {
        ensure!((peers.len() as u64) < NIOVS, "no warning");
        peers.push(connect(5000, 1000)?);
        // More than a look takes, where the warning is due.
        let slowly = if peers.len() < 50 { 10 } else { 400 };
        std::thread::sleep(Duration::from_millis(slowly));
    }
    println_line(&receiver.said()?);
    let enough = peers.len() as u64 >= NIOVS * 3 / 4;
    ensure!(enough, "a warning after {} packets", peers.len());
    let failed = queue_counters()?.rx_alloc_fail;
    ensure!(failed == Some(0), "the NIC has failed {failed:?} times");
    let inflight = bound_page_pool()?.inflight.unwrap_or(0);
    ensure!(inflight >= NIOVS * 7 / 8, "{inflight} of {NIOVS} in flight");
    let said = receiver.said()?;
    for word in [
        "of the 64 niovs",
        "does not answer",
        "\n  ",
        "more processors",
    ] {
        ensure!(said.contains(word), "{word:?} is not in {said}");
    }
    ensure!(
        said.matches("warning: recv").count() == 1,
        "said twice: {said}"
    );
    for _ in peers.len() as u64..PEERS {
        peers.push(connect(5000, 1000)?);
    }
    until("a word on failed allocations", SOON, || {
        Ok(receiver.said()?.contains("found no memory"))
    })?;
    halted.resume()?;
    drop(peers);
    let end = receiver.end()?;
    println_line(&end.stderr);
    ensure!(end.stderr.matches("warning: recv").count() == 2, "not two");
    let said = end.good("recv")?;
    let summary = Summary::parse(&said)?;
    ensure!(summary.bytes == PEERS * 1000, "{summary}");
    summary.tokens_came_back()?;
    let memory = &summary.memory;
    ensure!(memory.warnings == 2, "{} warnings", memory.warnings);
    let pool = memory.pools.first().context("a pool")?;
    let peak = pool.peak_in_use.context("peak")?;
    ensure!(peak >= NIOVS * 7 / 8, "{peak} of {NIOVS} at most");
    let failed = memory.alloc_fail.context("alloc_fail")?;
    ensure!(failed > 0, "no failed allocation");
    Ok(())
}

case!(live_on_a_terminal);
/// Receives on a terminal with `--live` and without, and to a file. On the terminal the view must
/// be redrawn in place and removed, with the terminal's settings unchanged.
fn live_on_a_terminal() -> Result<()> {
    testbed::wire()?;
    for (live, port, signal) in [
        (" --live", 5000, None),
        (" --live", 5001, Some(Signal::SIGINT)),
        ("", 5003, None),
    ] {
        let said = run_on_terminal(live, port, signal)?;
        let checked = check_view(&said, !live.is_empty());
        checked.with_context(|| said.escape_debug().to_string())?;
    }
    let receiver = LiveReceiver::start(&format!("--live -l {NIC_ADDRESS}:5002"))?;
    let peer = connect(5002, 1_000_000)?;
    until("two lines", SOON, || Ok(receiver.lines()?.len() >= 2))?;
    drop(peer);
    let said = receiver.end()?.good("recv")?;
    println_line(&said);
    ensure!(!said.contains('\x1b'), "an escape where no terminal is");
    let lines = said
        .lines()
        .filter(|line| line.contains("on average, 1 connection"));
    ensure!(lines.count() >= 1, "no plain line");
    Ok(())
}

/// Checks a terminal's output: the view was drawn and removed before the summary, and the
/// terminal's settings are unchanged.
fn check_view(said: &str, of_lines: bool) -> Result<()> {
    let settings: Vec<_> = said
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("settings "))
        .collect();
    let [before, after] = settings[..] else {
        anyhow::bail!("no settings")
    };
    ensure!(before == after, "{before} became {after}");
    ensure!(!said.contains("\x1b[?"), "a mode of the terminal was set");
    ensure!(said.matches("MiB/s\x1b").count() >= 2, "no view");
    let (view, last) = said
        .split_once("devmem-tcp: eth1: put back")
        .context("not put back")?;
    ensure!(last.contains("\nreceived 1000000 bytes"), "no summary");
    ensure!(view.ends_with("\r\x1b[J"), "the view was not taken off");
    ensure!(
        view.ends_with("A\r\x1b[J") == of_lines,
        "the view was of one line, or of more"
    );
    Ok(())
}

/// Runs a receiver on a terminal and returns all output, with the terminal's settings printed
/// before and after.
fn run_on_terminal(live: &str, port: u16, signal: Option<Signal>) -> Result<String> {
    let tool = devmem_tcp();
    let line = format!(
        "stty rows 30 cols 100; echo settings $(stty -g); \
         TERM=xterm {} recv{live} -f {NIC} -l {NIC_ADDRESS}:{port}; echo settings $(stty -g)",
        tool.display()
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]);
    let terminal = Running::start(terminal)?;
    if let Err(error) = wait_until_bound() {
        terminal.signal(Signal::SIGTERM)?;
        return Err(error.context(format!("{:?}", terminal.end_within(SOON))));
    }
    // The listener comes a moment after the binding.
    std::thread::sleep(Duration::from_millis(500));
    let peer = connect(port, 1_000_000)?;
    std::thread::sleep(Duration::from_millis(2600));
    if let Some(signal) = signal {
        let line = format!("-x -{} devmem-tcp", signal as i32);
        finish(command(None, std::path::Path::new("pkill"), &line))?.good("pkill")?;
    }
    drop(peer);
    Ok(terminal.end_within(SOON)?.stdout)
}
