//! Queues bound to a dmabuf whose owner has ended or is being killed: RSS avoids them until the binding
//! is gone. An ordinary socket can't read what arrives there.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::RssChange;
use netdev::queues::{BindOptions, Binding};
use netdev::{Ethtool, NetNs, Netdev, QueueId};
use nic::Plan;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use udmabuf::Udmabuf;

use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, crash, recv, restore, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::says;
use framework::tool::{Finished, command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// Binds the last queue to memory of this process.
fn bind_last_queue() -> Result<(Udmabuf, Binding)> {
    let memory = Udmabuf::builder(4 << 20).build()?;
    let bound = Netdev::open()?.bind_rx(ifindex(NIC)?, &memory, &[LAST], BindOptions::default())?;
    Ok((memory, bound))
}

/// Whether the RSS table uses the last queue.
fn rss_uses_last_queue() -> Result<bool> {
    Ok(Ethtool::open()?.rss(ifindex(NIC)?)?.table.contains(&LAST))
}

case!(by_another_program);
/// Has another program bind all queues but 0, which alone RSS uses. `recv` must refuse, and RSS
/// must not use the bound queues.
fn by_another_program() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    let table = vec![QueueId::new(0); ethtool.rss(nic)?.table.len()];
    let change = RssChange {
        table: Some(table),
        ..RssChange::default()
    };
    ethtool.set_rss(nic, None, &change)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let memory = Udmabuf::builder(4 << 20).build()?;
    let others: Vec<QueueId> = (1..testbed::QUEUES).map(QueueId::new).collect();
    let _bound = Netdev::open()?.bind_rx(nic, &memory, &others, BindOptions::default())?;
    for (queue, why) in [
        ("", "no rx queue is free"),
        ("--queue 0", "no queue is left for the other traffic"),
    ] {
        let line = format!("recv -f {NIC} {queue} --size 4M -l {NIC_ADDRESS}:5000");
        let said = tool(&line)?.refused(1)?;
        println_line(said.trim_end());
        says(&said, &[why])?;
        observer.same(&before)?;
    }
    Ok(())
}

case!(restore_waits);
/// Binds the queue that a dead receiver had reserved. `restore`, with `--force` too, must not give
/// the queue to RSS before the binding ends, but remove the rule at once.
fn restore_waits() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    crash(recv(5000))?;
    let (_memory, bound) = bind_last_queue()?;
    for line in ["restore", "restore eth1", "restore eth1 --force"] {
        let said = tool(line)?.refused(1)?;
        println_line(said.trim_end());
        says(&said, &["queue 3 is still bound to dmabuf"])?;
        ensure!(
            !rss_uses_last_queue()?,
            "{line}: RSS leads to the bound queue"
        );
    }
    let rules = Ethtool::open()?.rules(ifindex(NIC)?)?;
    ensure!(rules.is_empty(), "the flow is still led there: {rules:?}");
    bound.unbind();
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(guardian_waits);
/// Binds a queue that a killed receiver had reserved. The guardian must remove the rule, and wait
/// for the end of the binding.
fn guardian_waits() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("recv -f {NIC} --queue 2 --size 4M -l {NIC_ADDRESS}:5000");
    let receiver = start_bound(command(None, &devmem_tcp(), &line))?;
    let journal = nic_state::journal()?;
    let mut written: Value = serde_json::from_slice(&fs::read(&journal)?)?;
    written["claims"][0]["needs"]["reserved"] = json!([2, LAST.get()]);
    fs::write(&journal, serde_json::to_vec(&written)?)?;
    let (_memory, bound) = bind_last_queue()?;
    receiver.signal(Signal::SIGKILL)?;
    until("the rule's end", STEP, || {
        Ok(Ethtool::open()?.rules(ifindex(NIC)?)?.is_empty())
    })?;
    thread::sleep(Duration::from_secs(2));
    nic_state::guardian().context("the guardian did not wait")?;
    ensure!(!rss_uses_last_queue()?, "RSS leads to the bound queue");
    bound.unbind();
    // What it said ends with what its guardian says.
    let said = receiver.end_within(STEP)?.stderr;
    println_line(said.trim_end());
    observer.soon_same(&before)
}

case!(owner_is_refused);
/// Restores the NIC in a process that still has its queue bound. The restore must fail, and RSS not
/// use the queue.
fn owner_is_refused() -> Result<()> {
    testbed::wire()?;
    // Header split is not what is refused.
    testbed::enable_header_split()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let plan = Plan::new(NIC, ifindex(NIC)?).reserve(&[LAST]);
    let applied = plan.apply(&NetNs::current()?)?;
    let (_memory, bound) = bind_last_queue()?;
    let refused = applied.restore();
    println_line(&format!("{refused:?}"));
    let error = refused.err().context("it was restored while bound")?;
    says(&error.to_string(), &["queue 3 is still bound to dmabuf"])?;
    ensure!(!rss_uses_last_queue()?, "RSS leads to the bound queue");
    bound.unbind();
    restore()?.good("restore")?;
    // The guardian is left, which waits for the end of this process.
    observer.same(&before)
}
