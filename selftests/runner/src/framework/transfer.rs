//! One transfer: a receiver, a sender, and the receiver's summary.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::Ethtool;
use serde_json::Value;

use crate::memory;
use crate::testbed::PEER;
use crate::tool::{Finished, Running, command, finish, ours};

/// A receiver has so long to end after its sender.
const END: Duration = Duration::from_secs(30);

/// Our tool.
pub fn devmem_tcp() -> PathBuf {
    ours("devmem-tcp")
}

/// A receiver that listens.
pub fn start(netns: Option<&str>, line: &str) -> Result<Running> {
    let line = memory::recv_line(&format!("recv --json {line}"))?;
    Running::start(command(netns, &devmem_tcp(), &line))
}

/// Sends from the far end of the wire.
pub fn send(line: &str) -> Result<()> {
    finish(command(
        Some(PEER),
        &devmem_tcp(),
        &format!("send --wait 20 {line}"),
    ))?
    .good("send")
    .map(drop)
}

/// The receiver's summary, once it has ended well.
pub fn summary(receiver: Running) -> Result<Value> {
    parse(receiver.end_within(END)?)
}

fn parse(end: Finished) -> Result<Value> {
    let text = end.good("recv")?;
    crate::println_line(text.trim_end());
    serde_json::from_str(&text).with_context(|| format!("summary {text:?}"))
}

/// A transfer of the validation pattern from one end to the other.
pub fn validated(netns: Option<&str>, receiver: &str, to: &str, bytes: u64) -> Result<Value> {
    let running = start(netns, &format!("--validate 251 --listen {to} {receiver}"))?;
    let sent = send(&format!("{to} --pattern 251 --bytes {bytes}"));
    let summary = match sent {
        Ok(()) => summary(running)?,
        Err(error) => {
            let end = running.end_within(Duration::from_secs(5))?;
            return Err(error.context(format!("the receiver said {end:?}")));
        }
    };
    ensure!(number(&summary, "/bytes")? == bytes, "sent {bytes} bytes");
    all_validated(&summary)?;
    tokens_came_back(&summary)?;
    Ok(summary)
}

/// Holds if every byte was compared with the pattern and right.
pub fn all_validated(summary: &Value) -> Result<()> {
    ensure!(number(summary, "/validate_period")? == 251, "the period");
    let (bytes, right) = (
        number(summary, "/bytes")?,
        number(summary, "/validated_bytes")?,
    );
    ensure!(bytes == right, "{right} of {bytes} bytes were validated");
    Ok(())
}

/// Holds if every token that was issued was returned.
pub fn tokens_came_back(summary: &Value) -> Result<()> {
    let (issued, returned) = (
        number(summary, "/tokens/issued")?,
        number(summary, "/tokens/returned")?,
    );
    ensure!(
        issued == returned,
        "{issued} tokens issued, {returned} returned"
    );
    Ok(())
}

/// Holds if every byte came through the dmabuf.
pub fn all_in_dmabuf(summary: &Value) -> Result<()> {
    let (bytes, frag_bytes) = (number(summary, "/bytes")?, number(summary, "/frag_bytes")?);
    ensure!(
        bytes == frag_bytes,
        "{frag_bytes} of {bytes} bytes in the dmabuf"
    );
    ensure!(number(summary, "/linear_bytes")? == 0, "linear bytes");
    ensure!(number(summary, "/unsteered_bytes")? == 0, "unsteered bytes");
    Ok(())
}

/// A number in the summary.
pub fn number(summary: &Value, pointer: &str) -> Result<u64> {
    summary
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {pointer} in {summary}"))
}

/// The NIC's settings that a receiver changes and must put back.
pub fn nic_settings(nic: &str) -> Result<String> {
    let nic = crate::ifindex(nic)?;
    let mut ethtool = Ethtool::open()?;
    let rings = ethtool.rings(nic)?;
    let rss = ethtool.rss_contexts(nic)?;
    let rules = ethtool.rules(nic)?;
    Ok(format!("{rings:?}\n{rss:?}\n{rules:?}"))
}
