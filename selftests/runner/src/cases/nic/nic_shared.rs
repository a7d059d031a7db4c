//! Several receivers on one NIC: none undoes a setting that another needs, and the last one restores the
//! NIC.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use netdev::ethtool::{Action, FlowRule, RingsChange, RssChange};
use netdev::{Ethtool, Ifindex, QueueId};
use nix::sys::signal::Signal;

use framework::driver::Driver;
use framework::far_end::{Flood, connect};
use framework::ifindex;
use framework::nic_state::{self, Observer, State};
use framework::println_line;
use framework::receiver::{STEP, bound_queues, restore};
use framework::rounds::{RoundReceiver, make_foreign_settings};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, signal, until};
use framework::transfer::devmem_tcp;

/// Way to end a receiver: SIGTERM, SIGKILL, or SIGKILL to its guardian, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndBy {
    /// SIGTERM, after which the receiver restores the NIC.
    Sigterm,
    /// SIGKILL, after which the guardian restores the NIC.
    Sigkill,
    /// SIGKILL to receiver and guardian.
    SigkillOfBoth,
}

/// A receiver that refuses linear and unsteered payload, with a sender that floods it.
struct FloodedReceiver {
    receiver: RoundReceiver,
    guardian: i32,
    flood: Flood,
}

/// Starts a receiver on this queue and a sender that floods it.
fn start_flooded_receiver(queue: u32, port: u16) -> Result<FloodedReceiver> {
    let (guardians, bound) = (nic_state::guardians()?, bound_queues()?);
    let receiver = start_receiver(Some(queue), port)?;
    until("one more binding", STEP, || Ok(bound_queues()? > bound))?;
    let guardian = nic_state::guardians()?
        .into_iter()
        .find(|pid| !guardians.contains(pid));
    let flood = Flood::start(connect(receiver.address)?)?;
    flood.wait_for(100_000)?;
    Ok(FloodedReceiver {
        receiver,
        guardian: guardian.ok_or_else(|| anyhow::anyhow!("no guardian"))?,
        flood,
    })
}

fn start_receiver(queue: Option<u32>, port: u16) -> Result<RoundReceiver> {
    let address = SocketAddr::new(NIC_ADDRESS.parse()?, port);
    let mut line =
        format!("recv -f {NIC} --size 4M --refuse-unsteered --refuse-linear -l {address}");
    if let Some(queue) = queue {
        line += &format!(" --queue {queue}");
    }
    let running = Running::start(command(None, &devmem_tcp(), &line))?;
    Ok(RoundReceiver { running, address })
}

impl FloodedReceiver {
    /// Checks that payload still arrives steered and split: otherwise the receiver would end.
    fn check_receives(&self) -> Result<()> {
        self.flood.wait_for(300_000)
    }

    fn end(self, by: EndBy) -> Result<()> {
        if by == EndBy::SigkillOfBoth {
            signal(self.guardian, Signal::SIGKILL)?;
        }
        if by == EndBy::Sigterm {
            self.receiver.signal(Signal::SIGTERM)?;
            let said = self.receiver.end()?.refused(1)?;
            ensure!(said.contains("signal"), "it ended by itself: {said}");
        } else {
            self.receiver.signal(Signal::SIGKILL)?;
            self.receiver.check_killed_by(Signal::SIGKILL)?;
        }
        Ok(())
    }
}

/// Waits until the NIC's state is as wanted, apart from the locations of rules.
fn wait_until_like(observer: &mut Observer, wanted: &State) -> Result<()> {
    let soon = until("the NIC of the one that is left", STEP, || {
        Ok(observer.state()?.like(wanted).is_ok())
    });
    if soon.is_err() {
        observer.state()?.like(wanted)?;
    }
    soon
}

case!(two_receivers_end);
/// Runs two receivers and ends them in each order and way, on a NIC with other programs' settings.
/// The first end must not disturb the second; after both the NIC must be as before.
fn two_receivers_end() -> Result<()> {
    testbed::wire()?;
    make_foreign_settings()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    // The same flow each time, so that the rules are.
    let start = |queue: u16| start_flooded_receiver(queue.into(), 5000 + queue);

    let mut alone = Vec::new();
    for queue in [2, 3] {
        let only = start(queue)?;
        alone.push(observer.state()?);
        only.end(EndBy::Sigterm)?;
        observer.soon_same(&before)?;
    }
    for first in [EndBy::Sigterm, EndBy::Sigkill, EndBy::SigkillOfBoth] {
        for second in [EndBy::Sigterm, EndBy::Sigkill] {
            for (ends, stays) in [(2, 3), (3, 2)] {
                println_line(&format!("queue {ends} by {first:?}, {stays} by {second:?}"));
                // The one with the lower queue is always the first to come.
                let (two, three) = (start(2)?, start(3)?);
                let (ending, staying) = if ends == 2 {
                    (two, three)
                } else {
                    (three, two)
                };
                ending.end(first)?;
                if first == EndBy::SigkillOfBoth {
                    restore()?.good("restore")?;
                }
                wait_until_like(&mut observer, &alone[stays - 2])?;
                staying.check_receives()?;
                staying.end(second)?;
                observer.soon_same(&before)?;
            }
        }
    }
    Ok(())
}

case!(two_receivers_at_once);
/// Starts two receivers at the same moment, and ends them at the same moment, also during their
/// set-up. The NIC must be as before.
fn two_receivers_at_once() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for round in 0..6 {
        let (two, three) = (
            start_receiver(Some(2), 5002)?,
            start_receiver(Some(3), 5003)?,
        );
        let want = if round % 2 == 0 { 2 } else { 1 };
        until("bindings", STEP, || Ok(bound_queues()? >= want))?;
        let signal = if round < 3 {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        two.signal(signal)?;
        three.signal(signal)?;
        two.end()?;
        three.end()?;
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(two_want_the_same_queue);
/// Starts a second receiver on the same queue. It must be refused, naming queue and first receiver,
/// and change nothing.
fn two_want_the_same_queue() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let first = start_flooded_receiver(3, 5003)?;
    let with_one = observer.state()?;
    let written = std::fs::read(nic_state::journal()?)?;

    let said = start_receiver(Some(3), 5004)?.end()?.refused(1)?;
    println_line(said.trim_end());
    let pid = first.receiver.running.id().to_string();
    ensure!(
        said.contains("queue 3") && said.contains(&pid),
        "the complaint does not name queue 3 and process {pid}: {said}"
    );
    observer.same(&with_one)?;
    ensure!(
        std::fs::read(nic_state::journal()?)? == written,
        "what is written down has changed"
    );
    first.check_receives()?;

    // One that does not mind gets another queue.
    let other = start_receiver(None, 5004)?;
    until("two bindings", STEP, || Ok(bound_queues()? == 2))?;
    other.signal(Signal::SIGTERM)?;
    other.end()?.refused(1)?;
    wait_until_like(&mut observer, &with_one)?;

    // What a dead one holds is free.
    first.end(EndBy::SigkillOfBoth)?;
    let heir = start_flooded_receiver(3, 5004)?;
    heir.check_receives()?;
    heir.end(EndBy::Sigterm)?;
    observer.soon_same(&before)
}

case!(changes_of_others_stay);
/// Changes rings, RSS table and rules by another program while a receiver runs. These changes must
/// stay and be reported; the receiver's own must be undone.
fn changes_of_others_stay() -> Result<()> {
    testbed::wire()?;
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    if Driver::imitated().switches_ntuple_on() {
        ethtool.set_feature(nic, "rx-ntuple-filter", true)?;
    }
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    // The same changes with no receiver there: what they alone make of the NIC.
    let ring = ethtool.rings(nic)?.rx;
    let place = make_foreign_changes(&mut ethtool, nic)?;
    let wanted = observer.state()?;
    ethtool.delete_rule(nic, place)?;
    set_ring_and_table(&mut ethtool, nic, ring, Vec::new())?;
    observer.same(&before)?;

    let receiver = start_flooded_receiver(3, 5003)?;
    make_foreign_changes(&mut ethtool, nic)?;
    receiver.check_receives()?;

    receiver.receiver.signal(Signal::SIGTERM)?;
    let said = receiver.receiver.end()?.refused(1)?;
    println_line(said.trim_end());
    ensure!(
        said.contains("another program"),
        "it says nothing of it: {said}"
    );
    let rings = ethtool.rings(nic)?;
    let rx = Driver::imitated().ring(333);
    ensure!(rings.rx == Some(rx), "rings {rings:?}");
    // Some drivers have it on by themselves.
    ensure!(
        rings.tcp_data_split == Some(netdev::ethtool::HeaderSplit::Disabled)
            || Driver::imitated() != Driver::Swnic,
        "header split is still on: {rings:?}"
    );
    let table = ethtool.rss(nic)?.table;
    ensure!(
        table.iter().all(|queue| queue.get() == 1),
        "the table is not theirs any more: {table:?}"
    );
    wait_until_like(&mut observer, &wanted)?;
    nic_state::check_nothing_left()
}

/// Changes the ring size and the RSS table and inserts a rule, as another program would. Returns
/// the rule's location.
fn make_foreign_changes(ethtool: &mut Ethtool, nic: Ifindex) -> Result<u32> {
    set_ring_and_table(ethtool, nic, Some(333), vec![QueueId::new(1)])?;
    // gve has no rule that drops.
    let action = match Driver::imitated() {
        Driver::Gve => Action::Queue(QueueId::new(1)),
        _ => Action::Drop,
    };
    let theirs = FlowRule::tcp_to(SocketAddr::new(NIC_ADDRESS.parse()?, 7003), action);
    testbed::insert_rule(&theirs)
}

/// Sets the rx ring size and the RSS table; an empty table is the driver's default.
fn set_ring_and_table(
    ethtool: &mut Ethtool,
    nic: Ifindex,
    rx: Option<u32>,
    table: Vec<QueueId>,
) -> Result<()> {
    let change = RingsChange {
        rx: rx.map(|rx| Driver::imitated().ring(rx)),
        ..RingsChange::default()
    };
    ethtool.set_rings(nic, &change)?;
    let change = RssChange {
        table: Some(table),
        ..RssChange::default()
    };
    Ok(ethtool.set_rss(nic, None, &change)?)
}
