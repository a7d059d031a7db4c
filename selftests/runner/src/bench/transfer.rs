//! One transfer, from threads of ours to a receiver's process.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use netdev::NetNs;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde_json::Value;

use super::contender::{Contender, Place};
use super::sender::Job;
use super::sweep::Point;
use super::{Cost, Counts};
use crate::bed::PEER;

/// Where strace writes.
const CALLS: &str = "/tmp/bench.strace";
/// What the receiver prints as its result.
const RESULT: &str = "/tmp/bench.stdout";
/// What the receiver says.
const WORDS: &str = "/tmp/bench.stderr";

/// How a transfer is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As little as can be.
    Fleeting,
    /// What the loop costs, too.
    Loop,
    /// How many system calls there are, too.
    Calls,
}

/// Sends so many bytes to a contender, from this source port on, and says what that cost it.
pub(super) fn transfer(
    contender: &Contender,
    place: &Place,
    point: &Point,
    bytes: u64,
    port: u16,
    look: Look,
) -> Result<Cost> {
    let before = children()?;
    let count_calls = look == Look::Calls;
    let mut command = contender.command(place, point, count_calls.then_some(CALLS));
    let keep = |path: &str| -> Result<Stdio> {
        let file = fs::File::create(path).context(path.to_owned())?;
        Ok(match contender.chatty {
            true => Stdio::null(),
            false => Stdio::from(file),
        })
    };
    command.stdout(keep(RESULT)?).stderr(keep(WORDS)?);
    let mut receiver = command.spawn().context("starting it")?;
    let job = Job {
        to: place.listen,
        bytes,
        connections: point.connections,
        port,
        receiver: receiver.id(),
        settle: look == Look::Loop,
    };
    let sent = match NetNs::by_name(PEER)?.run(|| job.run())? {
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
    let told = fs::read_to_string(RESULT).context(RESULT)?;
    let told = serde_json::from_str(&told).unwrap_or(Value::Null);
    Ok(Cost {
        seconds: sent.seconds,
        cpu: after.0 + after.1 - before.0 - before.1,
        in_loop: sent.cpu,
        user: user(&told).unwrap_or(after.0 - before.0),
        memory: sent.memory,
        calls: match count_calls {
            true => Some(calls()?),
            false => None,
        },
        counts: counts(&told),
        ..Cost::default()
    })
}

/// CPU seconds in user mode that it says its loop cost. Those who do not say it spend none to speak
/// of elsewhere.
fn user(told: &Value) -> Option<f64> {
    told.pointer("/cpu/user")?.as_f64()
}

/// What it says that it counted: the bare loop in its words, ours in its own.
fn counts(told: &Value) -> Option<Counts> {
    let either = |one, other| told.pointer(one).or_else(|| told.pointer(other))?.as_u64();
    Some(Counts {
        recvmsg: either("/recv", "/calls/recvmsg")?,
        frags: either("/frags", "/frags")?,
        dontneed: either("/dontneed", "/calls/dontneed")?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_tell_in_two_ways() {
        let counts_of = |text| counts(&serde_json::from_str(text).unwrap());
        let expected = Some(Counts {
            recvmsg: 3,
            frags: 9,
            dontneed: 2,
        });
        let bare = r#"{"bytes":1,"frags":9,"linear":0,"recv":3,"dontneed":2,"ranges":2}"#;
        assert_eq!(counts_of(bare), expected);
        let ours = r#"{"frags":9,"calls":{"recvmsg":3,"dontneed":2},"cpu":{"user":1,"system":2}}"#;
        assert_eq!(counts_of(ours), expected);
        assert_eq!(counts_of("null"), None);
        let told: Value = serde_json::from_str(ours).unwrap();
        assert_eq!(user(&told), Some(1.0));
    }
}
