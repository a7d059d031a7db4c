//! The number of channels changes under a receiver, and the RSS table follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule};
use netdev::{Ethtool, QueueId};

use framework::driver::Driver;
use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, restore};
use framework::testbed::{self, NIC, NIC_ADDRESS, QUEUES};
use framework::tool::{Finished, Running, command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

case!(killed_while_they_change);
/// Kills `apply` after the channels, and with them the RSS table, have changed but before the
/// journal notes the table. `restore` must not take the table for another program's.
fn killed_while_they_change() -> Result<()> {
    const MANY: u32 = 70;
    for driver in [Driver::Mlx5, Driver::Bnxt, Driver::Swnic] {
        testbed::clear()?;
        testbed::wire_as(driver, MANY, "")?;
        testbed::set_nic_channels(QUEUES)??;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        testbed::parameter("slow_ms", 2000)?;
        let flow = format!("--flow {NIC_ADDRESS}:5000");
        let line = format!("apply {NIC} --channels {MANY} --queue 3 {flow}");
        let apply = Running::start(command(None, &devmem_tcp(), &line))?;
        until("a journal", STEP, || Ok(!nic_state::journals()?.is_empty()))?;
        thread::sleep(Duration::from_millis(700));
        apply.kill()?;
        testbed::parameter("slow_ms", 0)?;
        let channels = Ethtool::open()?.channels(ifindex(NIC)?)?;
        ensure!(channels.combined == Some(MANY), "not in time: {channels:?}");
        let said = restore()?;
        println_line(said.stderr.trim_end());
        ensure!(
            !said.stderr.contains("another program"),
            "{driver:?}: {}",
            said.stderr
        );
        said.good("restore")
            .and_then(|_| observer.soon_same(&before))
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

case!(refused_for_a_rule);
/// Makes the kernel refuse fewer channels because of another program's rule. RSS must not use the
/// additional queues meanwhile.
fn refused_for_a_rule() -> Result<()> {
    testbed::wire_with(testbed::QUEUES * 2, "")?;
    testbed::set_nic_channels(QUEUES)??;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("apply {NIC} --channels 8 --queue 2");
    tool(&line)?.good("apply")?;
    let to = format!("{NIC_ADDRESS}:7000").parse()?;
    let theirs = testbed::insert_rule(&FlowRule::tcp_to(to, Action::Queue(QueueId::new(6))))?;
    testbed::parameter("slow_ms", 300)?;
    let over = Arc::<AtomicBool>::default();
    let (nic, is_over) = (ifindex(NIC)?, Arc::clone(&over));
    let watcher = thread::spawn(move || -> Result<u32> {
        let (mut ethtool, mut looks) = (Ethtool::open()?, 0);
        while !is_over.load(Ordering::Relaxed) {
            let table = ethtool.rss(nic)?.table;
            let new = table.iter().find(|queue| queue.get() >= QUEUES);
            ensure!(new.is_none(), "RSS leads to queue {new:?}: {table:?}");
            looks += 1;
        }
        Ok(looks)
    });
    let refused = restore();
    over.store(true, Ordering::Relaxed);
    testbed::parameter("slow_ms", 0)?;
    let looks = watcher.join().ok().context("watcher")??;
    let refused = refused?.refused(1)?;
    println_line(refused.trim_end());
    println_line(&format!("{looks} looks at the table"));
    ensure!(refused.contains("ntuple filter"), "{refused}");
    Ethtool::open()?.delete_rule(nic, theirs)?;
    restore()?.good("restore")?;
    observer.soon_same(&before)
}
