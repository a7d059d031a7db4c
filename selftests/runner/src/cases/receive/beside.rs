//! Payload that arrives in host memory instead of the dmabuf: the receiver takes it, and warns.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::telemetry::receiver::{LiveReceiver, SOON, connect};
use crate::cases::tools::json::check_documented;
use framework::command_line::Sender;
use framework::println_line;
use framework::summary::Summary;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Finished, sh, until};
use framework::transfer::{devmem_tcp, number};

const LAST: u32 = testbed::QUEUES - 1;

/// Prepares the NIC: header split on, RSS keeps off the last queue, and no flow rule leads there.
fn prepare_unsteered() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    sh(&format!("ethtool -X {NIC} equal {LAST}")).map(drop)
}

fn start_live(line: &str) -> Result<LiveReceiver> {
    LiveReceiver::start(&format!("--no-config --queue {LAST} --json {line}"))
}

/// Waits until the receiver warns of payload beside the dmabuf, and checks that the warning comes
/// with a remedy.
fn until_warned(receiver: &LiveReceiver, of: &str) -> Result<()> {
    until("a warning", SOON, || {
        Ok(receiver.said()?.contains("beside the dmabuf"))
    })
    .with_context(|| receiver.said().unwrap_or_default())?;
    let said = receiver.said()?;
    println_line(said.trim_end());
    for words in [
        "warning: recv eth1: all ",
        of,
        "\n  steer the flow",
        "ethtool -N IF",
    ] {
        ensure!(said.contains(words), "{words:?} is not in {said}");
    }
    Ok(())
}

/// Checks that the receiver ended well, with one warning on standard error and the same in its
/// summary. Returns the summary.
fn check_warned_summary(end: Finished, warning: &str) -> Result<Summary> {
    let warnings = end.stderr.matches("beside the dmabuf").count();
    ensure!(warnings == 1, "{warnings} warnings: {}", end.stderr);
    let said = end.good("recv")?;
    let (live, summary) = said
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", said.trim_end()));
    println_line(summary);
    if !live.is_empty() {
        check_documented("recv --live", live)?;
    }
    check_documented("recv", summary)?;
    let summary = Summary::parse(summary)?;
    let found = summary.warning.as_deref().unwrap_or_default();
    ensure!(found.contains(warning), "{warning:?} is not in {found:?}");
    ensure!(found.contains("ethtool -N IF"), "no remedy: {found}");
    Ok(summary)
}

case!(warned_while_it_comes);
/// Receives a flow that no rule steers. A warning must come while payload arrives, on a line of
/// `--live`, and in the summary.
fn warned_while_it_comes() -> Result<()> {
    prepare_unsteered()?;
    let receiver = start_live(&format!("--live -l {NIC_ADDRESS}:5000"))?;
    let peer = connect(5000, 2 << 20)?;
    let of = format!("from {}", peer.local_addr()?);
    until_warned(&receiver, &of)?;
    let live = receiver.line("a warning", |line| line["warning"].is_string())?;
    ensure!(number(&live, "/frags")? == 0, "{live}");
    drop(peer);
    let summary = check_warned_summary(receiver.end()?, "all 2097152 bytes came beside")?;
    ensure!(summary.unsteered_bytes == 2 << 20, "bytes");
    Ok(())
}

case!(few_bytes);
/// Sends ten unsteered bytes and then nothing. The warning must not wait for more.
fn few_bytes() -> Result<()> {
    prepare_unsteered()?;
    let receiver = start_live(&format!("-l {NIC_ADDRESS}:5000"))?;
    let peer = connect(5000, 10)?;
    until_warned(&receiver, "all 10 bytes so far")?;
    drop(peer);
    check_warned_summary(receiver.end()?, "all 10 bytes came beside").map(drop)
}

case!(short_stream);
/// Receives an unsteered stream that is over before it can be judged. The warning must come at the
/// end.
fn short_stream() -> Result<()> {
    prepare_unsteered()?;
    let receiver = start_live(&format!("-l {NIC_ADDRESS}:5000"))?;
    Sender::to(testbed::at(5000)).bytes("100K").run()?;
    check_warned_summary(receiver.end()?, "all 102400 bytes came beside").map(drop)
}

case!(one_of_two_peers);
/// Receives from two peers, one of them steered. The warning must name the unsteered peer only.
fn one_of_two_peers() -> Result<()> {
    testbed::wire()?;
    let tool = devmem_tcp();
    let tool = tool.display();
    sh(&format!(
        "{tool} apply {NIC} --queue {LAST} --flow {NIC_ADDRESS}:5000"
    ))?;
    let line = format!("-l {NIC_ADDRESS}:5000 -l {NIC_ADDRESS}:5001 --connections 2");
    let receiver = start_live(&line)?;
    let mut steered = connect(5000, 2 << 20)?;
    std::thread::sleep(Duration::from_millis(2500));
    ensure!(
        !receiver.said()?.contains("warning"),
        "{}",
        receiver.said()?
    );
    let other = connect(5001, 2 << 20)?;
    until_warned(&receiver, &format!("from {}", other.local_addr()?))?;
    steered.write_all(&[7; 1000])?;
    drop((steered, other));
    let summary = check_warned_summary(
        receiver.end()?,
        "all bytes of 1 of 2 connections came beside",
    )?;
    ensure!(summary.frags > 0, "nothing was steered");
    sh(&format!("{tool} restore {NIC}")).map(drop)
}
