//! Restoring the settings of drivers that switch ntuple rules off, have separate rx and tx
//! channels, few RSS contexts or none, or RSS tables that follow the channels.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, HeaderSplit, RingsChange, RssChange, equal_table};
use netdev::{Ethtool, Ifindex, QueueId};

use framework::command_line::{Recv, Sender};
use framework::driver::Driver;
use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, bound_queues, restore};
use framework::receiver::{crash, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS, QUEUES};
use framework::tool::says;
use framework::tool::{command, finish, until};
use framework::transfer::{devmem_tcp, summary};
use framework::{ifindex, println_line};

const NTUPLE: &str = "rx-ntuple-filter";

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

fn load_nic(driver: Driver, queues: u32) -> Result<(Ethtool, Ifindex)> {
    testbed::clear()?;
    testbed::wire_as(driver, queues, "")?;
    Ok((Ethtool::open()?, ifindex(NIC)?))
}

case!(ntuple_off);
/// Receives on drivers with ntuple rules switched off. They must be on while the driver needs that,
/// and off again after a normal end and after a crash.
fn ntuple_off() -> Result<()> {
    for driver in [Driver::Gve, Driver::Bnxt, Driver::Mlx5] {
        let (mut ethtool, at) = load_nic(driver, QUEUES)?;
        ethtool.set_feature(at, NTUPLE, false)?;
        check_ntuple(&mut ethtool, at, driver != Driver::Mlx5)
            .with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

fn check_ntuple(ethtool: &mut Ethtool, at: Ifindex, on: bool) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let line = format!("recv -f {NIC} --queue 3 --size 4M -l {to} --refuse-unsteered");
    let would = finish(tool(&format!("{line} --dry-run")))?.good("dry run")?;
    says(&would, &["ntuple off"])?;
    observer.same(&before)?;
    let receiver = Recv::on(NIC).queue(3).size("4M").listen(&to);
    let receiver = receiver.refuse_unsteered().start_bound()?;
    ensure!(ethtool.features(at)?.active.contains(NTUPLE) == on, "{on}");
    Sender::to(&to).bytes("1M").run()?;
    summary(receiver)?.all_in_dmabuf()?;
    observer.soon_same(&before)?;

    crash(tool(&line))?;
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(ntuple_that_others_use);
/// Ends the users of ntuple rules one by one. The last one must switch rules off, unless another
/// program has added a rule, which the driver would remove.
fn ntuple_that_others_use() -> Result<()> {
    let (mut ethtool, at) = load_nic(Driver::Gve, QUEUES)?;
    let apply = |queue: u32| -> Result<()> {
        let flow = format!("--flow {NIC_ADDRESS}:{}", 5000 + queue);
        let line = format!("apply {NIC} --queue {queue} {flow}");
        println_line(finish(tool(&line))?.good("apply")?.trim_end());
        Ok(())
    };
    let on = |ethtool: &mut Ethtool| -> Result<bool> {
        Ok(ethtool.features(at)?.active.contains(NTUPLE))
    };
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    apply(2)?;
    let line = format!("recv -f {NIC} --queue 3 --size 4M -l {NIC_ADDRESS}:5000");
    let receiver = start_bound(tool(&line))?;
    restore()?.good("restore")?;
    ensure!(on(&mut ethtool)?, "off under a receiver");
    receiver.stop()?;
    observer.soon_same(&before)?;

    apply(2)?;
    let to = format!("{NIC_ADDRESS}:7000").parse()?;
    let theirs = ethtool.insert_rule(at, &FlowRule::tcp_to(to, Action::Queue(QueueId::new(1))))?;
    let restored = restore()?;
    says(&restored.stderr, &["ntuple stays on", &theirs.to_string()])?;
    restored.good("restore")?;
    ensure!(
        on(&mut ethtool)? && ethtool.has_rule(at, theirs)?,
        "it is gone"
    );
    nic_state::check_nothing_left()
}

case!(ntuple_with_a_rule_that_stays);
/// Makes the driver refuse to remove our rule. `restore` must switch ntuple rules off, which
/// removes it.
fn ntuple_with_a_rule_that_stays() -> Result<()> {
    let (_, _) = load_nic(Driver::Gve, QUEUES)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("apply {NIC} --queue 2 --flow {NIC_ADDRESS}:5000");
    finish(tool(&line))?.good("apply")?;
    testbed::parameter("refuse", "rule-delete")?;
    let restored = restore();
    testbed::parameter("refuse", "")?;
    let restored = restored?;
    println_line(restored.stderr.trim_end());
    restored.good("restore")?;
    observer.soon_same(&before)
}

case!(split_by_itself);
/// Receives on drivers that split headers by default. Split must be asked for, and be afterwards
/// what it was: default, or asked for by another program.
fn split_by_itself() -> Result<()> {
    for driver in [Driver::Bnxt, Driver::Fbnic] {
        for asked in [false, true] {
            let (_, at) = load_nic(driver, QUEUES)?;
            if asked {
                ensure!(changes_split(at, HeaderSplit::Enabled)?, "it was asked for");
            }
            check_split(at, asked).with_context(|| format!("{driver:?}, asked for: {asked}"))?;
        }
    }
    Ok(())
}

fn check_split(at: Ifindex, asked: bool) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC)
        .queue(3)
        .listen(&to)
        .refuse_linear()
        .start_bound()?;
    Sender::to(&to).bytes("1M").run()?;
    summary(receiver)?.all_in_dmabuf()?;
    observer.soon_same(&before)?;
    let setting = match asked {
        true => HeaderSplit::Enabled,
        false => HeaderSplit::Auto,
    };
    ensure!(!changes_split(at, setting)?, "it is not {setting} any more");
    Ok(())
}

/// Whether asking for this header split changes the driver's setting.
fn changes_split(at: Ifindex, split: HeaderSplit) -> Result<bool> {
    let mut changes = Ethtool::open()?.ring_changes()?;
    let change = RingsChange {
        tcp_data_split: Some(split),
        ..RingsChange::default()
    };
    Ethtool::open()?.set_rings(at, &change)?;
    Ok(changes.is_changed(at)?)
}

case!(rounded_rings);
/// Asks for a ring size that the driver rounds up. It must be set once, not again by each receiver.
fn rounded_rings() -> Result<()> {
    for driver in [Driver::Mlx5, Driver::Bnxt] {
        let (mut ethtool, at) = load_nic(driver, QUEUES)?;
        let small = RingsChange {
            rx: Some(256),
            ..RingsChange::default()
        };
        ethtool.set_rings(at, &small)?;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let line = format!("apply {NIC} --queue 2 --rx-ring 500");
        println_line(finish(tool(&line))?.good("apply")?.trim_end());
        let rx = ethtool.rings(at)?.rx;
        ensure!(rx >= Some(500), "{rx:?}");
        let mut changes = Ethtool::open()?.ring_changes()?;
        let line = format!("recv -f {NIC} --queue 3 --size 4M -l {NIC_ADDRESS}:5000");
        let receiver = start_bound(tool(&line))?;
        ensure!(!changes.is_changed(at)?, "set again: {driver:?}, {rx:?}");
        receiver.stop()?;
        ensure!(!changes.is_changed(at)?, "set again at its end");
        restore()?.good("restore")?;
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(channels_apart);
/// Changes the channels of a driver with separate rx and tx channels. Only rx channels must change.
fn channels_apart() -> Result<()> {
    let (mut ethtool, at) = load_nic(Driver::Gve, 8)?;
    testbed::set_channels(&mut ethtool, at, QUEUES)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let flow = format!("--flow {NIC_ADDRESS}:5000");
    let line = format!("apply {NIC} --channels 6 --queue 5 {flow}");
    println_line(finish(tool(&line))?.good("apply")?.trim_end());
    let channels = ethtool.channels(at)?;
    ensure!(
        (channels.rx, channels.tx) == (Some(6), Some(QUEUES)),
        "{channels:?}"
    );
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(table_that_follows_the_channels);
/// Adds channels on drivers whose RSS table then grows. `restore` must bring back the old table,
/// the default or another program's.
fn table_that_follows_the_channels() -> Result<()> {
    const MANY: u32 = 70;
    for driver in [Driver::Mlx5, Driver::Bnxt] {
        for somebodys in [false, true] {
            let (mut ethtool, at) = load_nic(driver, MANY)?;
            testbed::set_channels(&mut ethtool, at, QUEUES)?;
            let len = ethtool.rss(at)?.table.len();
            if somebodys {
                let change = RssChange {
                    table: Some(equal_table(len, 3)),
                    ..RssChange::default()
                };
                ethtool.set_rss(at, None, &change)?;
            }
            match somebodys && testbed::kernel()? < (7, 3) {
                true => check_channels_refused(MANY),
                false => check_longer_table(&mut ethtool, at, MANY, len),
            }
            .with_context(|| format!("{driver:?}, somebody's: {somebodys}"))?;
        }
    }
    Ok(())
}

/// Adds channels before Linux 7.3 while another program's RSS table is set, which the driver
/// refuses. The error must say so, and its remedy help.
fn check_channels_refused(many: u32) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("apply {NIC} --channels {many} --queue 3 --flow {NIC_ADDRESS}:5000");
    let refused = finish(tool(&line))?.refused(1)?;
    for words in ["an RSS table is set", "ethtool -X eth1 default"] {
        ensure!(refused.contains(words), "{refused}");
    }
    observer.soon_same(&before)?;
    let remedy = format!("-X {NIC} default");
    finish(command(None, Path::new("ethtool"), &remedy))?.good("ethtool")?;
    finish(tool(&line))?.good("apply")?;
    restore()?.good("restore").map(drop)
}

fn check_longer_table(ethtool: &mut Ethtool, at: Ifindex, many: u32, len: usize) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let flow = |port: u16| format!("--flow {NIC_ADDRESS}:{port}");
    let line = format!("--channels {many} --queue {} --queue 3", many - 1);
    let line = format!("apply {NIC} {line} {}", flow(5000));
    println_line(finish(tool(&line))?.good("apply")?.trim_end());
    let table = ethtool.rss(at)?.table;
    ensure!(table.len() == 2 * len, "{} entries", table.len());
    let last = QueueId::new(many - 1);
    ensure!(!table.contains(&last), "the queue is in it");
    // One comes and goes meanwhile.
    let receiver = start_bound(tool(&format!(
        "recv -f {NIC} --queue 2 --size 4M -l {NIC_ADDRESS}:5001"
    )))?;
    receiver.stop()?;
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(without_contexts);
/// Asks for two queues on drivers without a free RSS context. One flow must be refused, and two
/// flows must get a queue each.
fn without_contexts() -> Result<()> {
    for driver in [Driver::Gve, Driver::Fbnic] {
        let (mut ethtool, at) = load_nic(driver, QUEUES)?;
        if driver == Driver::Fbnic {
            // There is one, and it is taken.
            ethtool.create_rss_context(at, &RssChange::default())?;
        }
        check_without_contexts().with_context(|| format!("{driver:?}"))?;
    }
    Ok(())
}

fn check_without_contexts() -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let at = |port: u16| format!("-l {NIC_ADDRESS}:{port}");
    let line = format!(
        "-f {NIC} --queue 2 --queue 3 --refuse-unsteered {}",
        at(5000)
    );
    for dry in ["", " --dry-run"] {
        let said = finish(tool(&format!("recv {line}{dry}")))?.refused(1)?;
        println_line(said.trim_end());
        says(&said, &["no RSS context for queues 2,3", "--listen"])?;
        observer.soon_same(&before)?;
    }
    let receiver = Recv::on(NIC).queue(2).queue(3).refuse_unsteered();
    let receiver = receiver.listen(testbed::at(5000)).listen(testbed::at(5001));
    let receiver = receiver.connections(2).start()?;
    until("bindings", STEP, || Ok(bound_queues()? == 2))?;
    let rules = Ethtool::open()?.rules(ifindex(NIC)?)?;
    let mut actions: Vec<Action> = rules.iter().map(|rule| rule.action).collect();
    actions.sort_by_key(|action| format!("{action:?}"));
    let wanted = [2, 3].map(|queue| Action::Queue(QueueId::new(queue)));
    ensure!(actions == wanted, "{rules:?}");
    for port in [5000, 5001] {
        Sender::to(testbed::at(port)).bytes("1M").run()?;
    }
    summary(receiver)?.all_in_dmabuf()?;
    observer.soon_same(&before)
}
