//! One benchmark transfer, from threads of this process to a receiver's process.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use netdev::NetNs;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde_json::Value;

use super::contender::{Contender, Place};
use super::counters::Counters;
use super::meters::{Meter, Spent};
use super::sender::{Job, Sent};
use super::sweep::Point;
use super::{Cost, Counts};
use framework::testbed::PEER;

/// File for the receiver's standard output, which has its result.
const STDOUT_FILE: &str = "/tmp/bench.stdout";
/// File for the receiver's standard error.
const STDERR_FILE: &str = "/tmp/bench.stderr";

/// How a transfer is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MeasureOptions {
    /// Whether to wait, after the last byte, until the receiver is idle, and then read what it
    /// spent: the transfer takes longer.
    pub(super) settles: bool,
    /// Whether to count the receiver's system calls, which costs CPU time.
    pub(super) counts: bool,
}

/// Sends `bytes` bytes to a receiver, from source ports starting at `port`, and returns what that
/// cost the receiver.
pub(super) fn transfer(
    contender: &Contender,
    place: &Place,
    point: &Point,
    bytes: u64,
    port: u16,
    look: MeasureOptions,
) -> Result<Cost> {
    let before = children_cpu_seconds()?;
    let mut command = contender.command(place, point, look.counts);
    let keep = |path: &str| -> Result<Stdio> {
        let file = fs::File::create(path).context(path.to_owned())?;
        Ok(match contender.chatty {
            true => Stdio::null(),
            false => Stdio::from(file),
        })
    };
    command
        .stdout(keep(STDOUT_FILE)?)
        .stderr(keep(STDERR_FILE)?);
    let mut receiver = command.spawn().context("starting it")?;
    let meter = Meter::new(receiver.id(), attach_counters(&mut receiver, look)?)?;
    let job = Job {
        to: place.listen,
        bytes,
        connections: point.connections,
        port,
        payload: contender.payload,
        receiver: &meter,
        settles: look.settles,
    };
    let sent = match NetNs::by_name(PEER)?.run(|| job.run())? {
        Ok(sent) => sent,
        Err(error) => {
            receiver.kill()?;
            receiver.wait()?;
            return Err(error.context(end_of_stderr()));
        }
    };
    let status = receiver.wait()?;
    ensure!(status.success(), "{status}: {}", end_of_stderr());
    let after = children_cpu_seconds()?;
    let told = fs::read_to_string(STDOUT_FILE).context(STDOUT_FILE)?;
    let told = serde_json::from_str(&told).unwrap_or(Value::Null);
    let process = (after.0 - before.0, after.1 - before.1);
    Ok(Cost {
        cpu: process.0 + process.1,
        user_of_process: process.0,
        user: user_seconds(&told).unwrap_or(process.0),
        counts: reported_counts(&told),
        calls_of_process: meter.calls()?,
        ..loop_cost(sent)
    })
}

/// Computes the cost from the first byte to the last out of the readings before and after.
fn loop_cost(sent: Sent) -> Cost {
    let Sent {
        seconds,
        memory,
        before,
        after,
    } = sent;
    let Some(after) = after else {
        return Cost {
            seconds,
            memory,
            ..Cost::default()
        };
    };
    let calls = after.calls.zip(before.calls);
    Cost {
        seconds,
        memory,
        in_loop: Some(after.cpu - before.cpu),
        wakeups: after.wakeups.zip(before.wakeups).map(Spent::between),
        calls: calls.map(|(after, before)| after.since(&before)),
        ..Cost::default()
    }
}

/// Attaches system call counters to a process that waits to become the receiver, then lets it
/// continue.
fn attach_counters(receiver: &mut Child, look: MeasureOptions) -> Result<Option<Counters>> {
    if !look.counts {
        return Ok(None);
    }
    let counters = Counters::attach(receiver.id())?;
    let mut gate = receiver.stdin.take().context("its standard input")?;
    gate.write_all(b"go\n").context("starting the receiver")?;
    Ok(Some(counters))
}

/// Reads the CPU seconds in user mode that the receiver reports for its loop; `None` if it reports
/// none.
fn user_seconds(told: &Value) -> Option<f64> {
    told.pointer("/cpu/user")?.as_f64()
}

/// Reads the counts that a receiver reports in its JSON: under the bare loop's keys or those of
/// `devmem-tcp`.
fn reported_counts(told: &Value) -> Option<Counts> {
    let either = |one, other| told.pointer(one).or_else(|| told.pointer(other))?.as_u64();
    Some(Counts {
        recvmsg: either("/recv", "/calls/recvmsg")?,
        frags: either("/frags", "/frags")?,
        dontneed: either("/dontneed", "/calls/dontneed")?,
        epoll_wait: either("/epoll_wait", "/calls/epoll_wait"),
    })
}

/// Returns the end of the receiver's standard error.
fn end_of_stderr() -> String {
    let text = fs::read(STDERR_FILE).unwrap_or_default();
    let end = text.len().saturating_sub(500);
    String::from_utf8_lossy(&text[end..]).into_owned()
}

/// Returns the user and system time of all children that were waited for, in seconds.
fn children_cpu_seconds() -> Result<(f64, f64)> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_tell_in_two_ways() {
        let counts_of = |text| reported_counts(&serde_json::from_str(text).unwrap());
        let expected = Counts {
            recvmsg: 3,
            frags: 9,
            dontneed: 2,
            epoll_wait: None,
        };
        let bare = r#"{"bytes":1,"frags":9,"linear":0,"recv":3,"dontneed":2,"ranges":2}"#;
        assert_eq!(counts_of(bare), Some(expected));
        let ours = r#"{"frags":9,"calls":{"recvmsg":3,"dontneed":2,"epoll_wait":5},"cpu":{"user":1,"system":2}}"#;
        let expected = Counts {
            epoll_wait: Some(5),
            ..expected
        };
        assert_eq!(counts_of(ours), Some(expected));
        assert_eq!(counts_of("null"), None);
        let told: Value = serde_json::from_str(ours).unwrap();
        assert_eq!(user_seconds(&told), Some(1.0));
    }
}
