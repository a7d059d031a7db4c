//! How often a receiver calls the kernel and how many tokens it holds, counted by `strace`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use framework::far_end::pattern;
use framework::peers::{
    FIRST, ObservedReceiver, check_whole, close, expecting, find_ended, joined, peer, probe, send,
    summary,
};
use framework::println_line;
use framework::probe_receiver::{Probe, SinkKind, probe_receiver};
use framework::tool::{command, until};

const MIB: u64 = 1 << 20;
/// Output file of `strace`.
const TRACE: &str = "/tmp/trace";
/// Number of held tokens that makes a receiver return them: the default of `devmem::Thresholds`.
const THRESHOLD: u64 = 256;

/// Totals of the calls of `SO_DEVMEM_DONTNEED` that `strace` recorded.
#[derive(Debug, Default, PartialEq, Eq)]
struct DontNeed {
    calls: u64,
    ranges: u64,
    freed: u64,
}

impl DontNeed {
    /// Sums up the calls that `strace` has recorded so far.
    fn read_so_far() -> Result<Self> {
        let mut sum = Self::default();
        for line in fs::read_to_string(TRACE).context(TRACE)?.lines() {
            // `42 setsockopt(9, SOL_SOCKET, SO_DEVMEM_DONTNEED, "...", 16) = 300`; a strace that
            // does not know the name says 0x50.
            let ours = line.contains("SO_DEVMEM_DONTNEED") || line.contains("0x50 ");
            let Some((call, answer)) = line.rsplit_once(") = ").filter(|_| ours) else {
                continue;
            };
            let len = call.rsplit_once(", ").context("no length")?.1;
            let (len, freed): (u64, u64) = (len.parse()?, answer.trim().parse()?);
            ensure!(len <= 128 * 8 && freed <= 1024, "beyond the limits: {line}");
            sum.calls += 1;
            sum.ranges += len / 8; // struct dmabuf_token
            sum.freed += freed;
        }
        Ok(sum)
    }
}

/// Starts a probe receiver under `strace`.
fn start_traced(probe: &Probe) -> Result<ObservedReceiver> {
    let line = format!(
        "-f -o {TRACE} -e trace=setsockopt,write {} {}",
        probe_receiver().display(),
        probe.line()?
    );
    ObservedReceiver::start(command(None, Path::new("/usr/bin/strace"), &line))
}

case!(tokens_go_back_in_batches_of_few_ranges, on any_memory);
/// Receives with no time limit on holding tokens. Each `SO_DEVMEM_DONTNEED` must return a full
/// batch in few ranges, whether a `recvmsg` brings many frags or one.
fn tokens_go_back_in_batches_of_few_ranges() -> Result<()> {
    const DRIPS: usize = 600;
    const DRIP: usize = 500;
    let receiver = start_traced(&probe(SinkKind::Fair).peers(2).pool(16 << 20).hold(60_000))?;
    joined(send(peer(0)?, 8 << 20))?;
    let mut dripping = peer(1)?;
    dripping.set_nodelay(true)?;
    for drip in pattern(DRIPS * DRIP, None)?.chunks(DRIP) {
        dripping.write_all(drip)?;
        thread::sleep(Duration::from_millis(1));
    }
    close(dripping)?;
    let outcome = receiver.outcome()?;
    let seen = DontNeed::read_so_far()?;
    println_line(&format!("{seen:?}"));
    check_whole(find_ended(&outcome, FIRST)?, 8 * MIB)?;
    check_whole(find_ended(&outcome, FIRST + 1)?, (DRIPS * DRIP) as u64)?;
    ensure!(
        seen.freed == outcome.frags,
        "{} frags issued",
        outcome.frags
    );
    let counted = (outcome.calls, outcome.ranges, outcome.freed);
    ensure!(
        counted == (seen.calls, seen.ranges, seen.freed),
        "the engine counted {counted:?}"
    );
    ensure!(
        seen.calls <= seen.freed / THRESHOLD + 2,
        "{} calls for {} frags",
        seen.calls,
        seen.freed
    );
    ensure!(
        seen.ranges <= seen.freed / 32,
        "{} ranges for {} frags",
        seen.ranges,
        seen.freed
    );
    Ok(())
}

case!(tokens_of_single_messages_go_back_in_time);
/// Sends single messages 50 ms apart. The token of each must be returned on its own, about 2 ms
/// after it came.
fn tokens_of_single_messages_go_back_in_time() -> Result<()> {
    const MESSAGES: usize = 40;
    const MESSAGE: usize = 500;
    let receiver = ObservedReceiver::recv(&expecting(1).size("4M"))?;
    let mut stream = peer(0)?;
    stream.set_nodelay(true)?;
    for message in pattern(MESSAGES * MESSAGE, None)?.chunks(MESSAGE) {
        stream.write_all(message)?;
        thread::sleep(Duration::from_millis(50));
    }
    close(stream)?;
    let (summary, _) = summary(receiver, 0)?;
    let held = &summary.telemetry.hold_time_us;
    // A busy machine may let two of them wait for it.
    let flushes = held.count;
    ensure!(flushes >= MESSAGES as u64 / 2, "only {flushes} flushes");
    let p50 = held.p50.context("p50")?;
    println_line(&format!("{flushes} flushes, half of them within {p50} us"));
    ensure!((1000..20_000).contains(&p50), "held for {p50} us");
    Ok(())
}

case!(idle_connections_hold_nothing, on any_memory);
/// Has each peer send less than a batch of tokens, then stay silent. All tokens must be returned
/// nevertheless.
fn idle_connections_hold_nothing() -> Result<()> {
    const PEERS: u16 = 8;
    const BYTES: u64 = 50_000;
    let all = u64::from(PEERS) * BYTES;
    let probe = probe(SinkKind::Fair).peers(PEERS).pool(16 << 20);
    let receiver = start_traced(&probe.tell(all))?;
    let mut peers = Vec::new();
    for number in 0..PEERS {
        let mut stream = peer(number)?;
        stream.write_all(&pattern(BYTES as usize, None)?)?;
        peers.push(stream);
    }
    let mut issued = None;
    until("all payload", Duration::from_secs(20), || {
        issued = frags_counted()?;
        Ok(issued.is_some())
    })?;
    let held = || anyhow::Ok(issued.unwrap_or(0) - DontNeed::read_so_far()?.freed);
    let back = until("all tokens given back", Duration::from_secs(5), || {
        Ok(held()? == 0)
    });
    println_line(&format!("{issued:?} frags, {} held", held()?));
    peers.into_iter().try_for_each(close)?;
    let outcome = receiver.outcome()?;
    back?;
    ensure!(issued == Some(outcome.frags), "{} frags", outcome.frags);
    Ok(())
}

/// Reads from the trace how many frags the probe receiver has counted: `42 write(2, "277", 3)`.
fn frags_counted() -> Result<Option<u64>> {
    let text = fs::read_to_string(TRACE).unwrap_or_default();
    let mut parts = text
        .lines()
        .filter_map(|line| line.split_once("write(2, \"")?.1.split_once(" frags"));
    match parts.next() {
        Some((number, _)) => Ok(Some(number.parse()?)),
        None => Ok(None),
    }
}
