//! The examples of the `receiver` crate do what they say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::QueueId;
use nix::sys::signal::Signal;

use framework::command_line::Sender;
use framework::nic_state::Observer;
use framework::println_line;
use framework::receiver::start_bound;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, ours};

const MIB: u64 = 1 << 20;
const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

/// Runs an example while `sending` sends to it, and returns its standard error; checks that the NIC
/// is then as before.
fn run_example(name: &str, line: &str, sending: impl FnOnce(&str) -> Result<()>) -> Result<String> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let running = Running::start(command(None, &ours(name), &format!("{NIC} {line} {to}")))?;
    let sent = sending(&to);
    let end = running.end_within(Duration::from_secs(20))?;
    sent.with_context(|| format!("{name} said {end:?}"))?;
    let said = end.stderr.clone();
    end.good(name)?;
    println_line(said.trim_end());
    observer.soon_same(&before)?;
    Ok(said)
}

case!(receiver);
/// Runs the example `receiver`, which validates every byte itself. It must receive everything by
/// frags.
fn receiver() -> Result<()> {
    let said = run_example("receiver", &LAST.to_string(), |to| {
        Sender::to(to).bytes("8M").run()
    })?;
    ensure!(said.contains(&format!("{} bytes", 8 * MIB)), "{said:?}");
    ensure!(!said.contains(" 0 frags"), "{said:?}");
    Ok(())
}

case!(interrupted);
/// SIGINT ends the first example while it waits for a peer, and it restores the NIC itself.
fn interrupted() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("{NIC} {LAST} {NIC_ADDRESS}:5000");
    let running = start_bound(command(None, &ours("receiver"), &line))?;
    running.signal(Signal::SIGINT)?;
    running
        .end_within(Duration::from_secs(10))?
        .good("receiver")?;
    // Not soon: the guardian has nothing to do.
    observer.same(&before)
}

case!(wrong_byte_is_found);
/// Sends a wrong payload to the validating examples. They must fail and name the wrong byte.
fn wrong_byte_is_found() -> Result<()> {
    for name in ["receiver", "custom_sink"] {
        testbed::wire()?;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let to = format!("{NIC_ADDRESS}:5000");
        let line = format!("{NIC} {LAST} {to}");
        let running = Running::start(command(None, &ours(name), &line))?;
        // The receiver resets the connection: whether the sender sees it depends on the moment.
        let _sent = Sender::to(&to).bytes("1M").pattern(7).run();
        let said = running.end_within(Duration::from_secs(20))?.refused(1)?;
        println_line(said.trim_end());
        ensure!(said.contains("byte 6 of the stream"), "{said:?}");
        observer.soon_same(&before)?;
        testbed::clear()?;
    }
    Ok(())
}

case!(two_queues);
/// Runs the example `two_queues` with eight peers. Every stream must be whole, with frags.
fn two_queues() -> Result<()> {
    let queues = format!("{} {LAST}", LAST.get() - 1);
    let said = run_example("two_queues", &queues, |to| {
        let peers: Vec<_> = (0..8)
            .map(|_| Sender::to(to).bytes("1M").start())
            .collect::<Result<_>>()?;
        for peer in peers {
            peer.end_within(Duration::from_secs(20))?.good("send")?;
        }
        Ok(())
    })?;
    let whole = said
        .lines()
        .filter(|line| line.starts_with(&format!("{MIB} bytes")));
    ensure!(whole.count() == 8 && !said.contains(" 0 frags"), "{said:?}");
    Ok(())
}

case!(custom_sink);
/// Runs the example `custom_sink`, which validates on another thread. Every frag must be given back
/// from there.
fn custom_sink() -> Result<()> {
    let said = run_example("custom_sink", &LAST.to_string(), |to| {
        Sender::to(to).bytes("8M").run()
    })?;
    let right = format!("{} bytes right; ", 8 * MIB);
    let counts = said.strip_prefix(&right).context("not all of it")?;
    let numbers: Vec<u64> = counts
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    ensure!(
        matches!(numbers[..], [kept, back] if kept == back && kept > 0),
        "{said:?}"
    );
    Ok(())
}
