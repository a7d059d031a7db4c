//! One transfer, from a thread of ours to a receiver's process.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devmem::pattern::Pattern;
use netdev::NetNs;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde_json::Value;

use super::Sample;
use super::contender::Contender;
use crate::bed::PEER;

/// A receiver has so long until it listens.
const LISTENS: Duration = Duration::from_secs(20);
/// Where strace writes.
const CALLS: &str = "/tmp/bench.strace";
/// What the receiver prints as its result.
const RESULT: &str = "/tmp/bench.stdout";
/// What the receiver says.
const WORDS: &str = "/tmp/bench.stderr";
/// The pattern's period: that of upstream's `-v 7`.
const PERIOD: usize = 7;
/// Bytes of a write, a multiple of the period.
const PIECE: usize = PERIOD << 15;

/// Sends so many bytes to a contender, and says what that cost it.
pub(super) fn transfer(
    contender: &Contender,
    address: SocketAddr,
    bytes: u64,
    count_calls: bool,
) -> Result<Sample> {
    let before = children()?;
    let mut command = contender.command(address, count_calls.then_some(CALLS));
    let keep = |path: &str| -> Result<Stdio> {
        let file = fs::File::create(path).context(path.to_owned())?;
        Ok(match contender.chatty {
            true => Stdio::null(),
            false => Stdio::from(file),
        })
    };
    command.stdout(keep(RESULT)?).stderr(keep(WORDS)?);
    let mut receiver = command.spawn().context("starting it")?;
    let sent = NetNs::by_name(PEER)?.run(|| send(address, bytes, receiver.id()));
    let (seconds, memory) = match sent? {
        Ok(sent) => sent,
        Err(error) => {
            receiver.kill()?;
            receiver.wait()?;
            return Err(error.context(last_words()));
        }
    };
    let status = receiver.wait()?;
    ensure!(status.success(), "{status}: {}", last_words());
    let after = children()?;
    Ok(Sample {
        who: String::new(),
        gro: false,
        bytes,
        seconds,
        user: after.0 - before.0,
        system: after.1 - before.1,
        in_loop: in_loop(),
        memory,
        calls: match count_calls {
            true => Some(calls()?),
            false => None,
        },
    })
}

/// What it says that its loop cost, if it does.
fn in_loop() -> Option<(f64, f64)> {
    let result: Value = serde_json::from_str(&fs::read_to_string(RESULT).ok()?).ok()?;
    let seconds = |name| result.pointer(name)?.as_f64();
    Some((seconds("/cpu/user")?, seconds("/cpu/system")?))
}

/// The end of what the receiver said.
fn last_words() -> String {
    let text = fs::read(WORDS).unwrap_or_default();
    let end = text.len().saturating_sub(500);
    String::from_utf8_lossy(&text[end..]).into_owned()
}

/// User and system time of all children that have been waited for, in seconds.
fn children() -> Result<(f64, f64)> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}

/// Connects, sends, waits for the receiver's close; seconds, and the receiver's memory.
fn send(address: SocketAddr, bytes: u64, receiver: u32) -> Result<(f64, u64)> {
    let end = Instant::now() + LISTENS;
    let mut socket = loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(socket) => break socket,
            Err(error) if Instant::now() > end => return Err(error).context("connecting"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut piece = vec![0; PIECE];
    Pattern::new(PERIOD)?.fill(0, &mut piece);
    let begin = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE as u64);
        socket.write_all(&piece[..usize::try_from(now)?])?;
        left -= now;
    }
    let memory = memory(receiver)?;
    socket.shutdown(Shutdown::Write)?;
    socket.set_read_timeout(Some(Duration::from_secs(120)))?;
    match socket.read(&mut [0]) {
        Ok(0) => Ok((begin.elapsed().as_secs_f64(), memory)),
        Ok(_) => bail!("it answered"),
        Err(error) => Err(error).context("waiting for its close"),
    }
}

/// The most anonymous memory that a process had, as far as that can be told: what it has now.
fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("its status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("RssAnon")?.parse().context("RssAnon")
}

/// The total in strace's table.
fn calls() -> Result<u64> {
    let text = fs::read_to_string(CALLS).context(CALLS)?;
    let total = text.lines().rev().find(|line| line.ends_with("total"));
    let fields = total.context("strace's total")?.split_whitespace();
    // % time, seconds, usecs/call, calls, (errors,) total
    fields
        .into_iter()
        .nth(3)
        .context("calls")?
        .parse()
        .context("calls")
}
