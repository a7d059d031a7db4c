//! One transfer: a receiver, a sender, and the receiver's summary.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::Ethtool;
use serde_json::Value;

use crate::command_line::{Recv, Sender};
use crate::summary::Summary;
use crate::tool::{Finished, Running, ours};

/// Time limit for a receiver to end after its sender.
const END: Duration = Duration::from_secs(30);

/// Returns the path of `devmem-tcp`.
pub fn devmem_tcp() -> PathBuf {
    ours("devmem-tcp")
}

/// Waits for the good end of a receiver, and returns its summary.
pub fn summary(receiver: Running) -> Result<Summary> {
    parse(receiver.end_within(END)?)
}

fn parse(end: Finished) -> Result<Summary> {
    let text = end.good("recv")?;
    crate::println_line(text.trim_end());
    Summary::parse(&text)
}

/// Sends `bytes` bytes of the validation pattern from the far end of the wire to a receiver at this
/// address, and checks that all were right and every token came back.
pub fn validated(receiver: Recv, to: impl Display, bytes: u64) -> Result<Summary> {
    let running = receiver.validate(251).listen(&to).start()?;
    let summary = match Sender::to(to).pattern(251).bytes(bytes).run() {
        Ok(()) => summary(running)?,
        Err(error) => {
            let end = running.end_within(Duration::from_secs(5))?;
            return Err(error.context(format!("the receiver said {end:?}")));
        }
    };
    ensure!(summary.bytes == bytes, "sent {bytes} bytes");
    summary.all_validated()?;
    summary.tokens_came_back()?;
    Ok(summary)
}

/// Returns a number in a tool's JSON, by its JSON pointer.
pub fn number(json: &Value, pointer: &str) -> Result<u64> {
    json.pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {pointer} in {json}"))
}

/// Formats the NIC's settings that a receiver changes and must restore.
pub fn nic_settings(nic: &str) -> Result<String> {
    let nic = crate::ifindex(nic)?;
    let mut ethtool = Ethtool::open()?;
    let rings = ethtool.rings(nic)?;
    let rss = ethtool.rss_contexts(nic)?;
    let rules = ethtool.rules(nic)?;
    Ok(format!("{rings:?}\n{rss:?}\n{rules:?}"))
}
