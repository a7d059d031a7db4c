//! Plans that are only previewed, plans that stay, and plans that a driver refuses.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::HeaderSplit;
use nix::sys::signal::Signal;

use framework::driver::Driver;
use framework::nic_state::{self, Observer};
use framework::println_line;
use framework::receiver::{STEP, bound_queues, restore};
use framework::rounds::make_foreign_settings;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Finished, Running, command, finish, until};
use framework::transfer::devmem_tcp;

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

/// A receiver on two queues, which needs every kind of change to the NIC.
fn recv() -> Command {
    let listen = two_flows("--listen", 5000);
    let line = format!("recv -f {NIC} --size 4M --queue 2 --queue 3 {listen}");
    tool(&line)
}

/// A receiver on one queue, to which a rule leads without an RSS context.
fn recv_one_queue() -> Command {
    let line = format!("recv -f {NIC} --size 4M --queue 3 -l {NIC_ADDRESS}:5000");
    tool(&line)
}

/// Options that steer flows to two queues: one flow, or without RSS contexts one for each queue.
fn two_flows(option: &str, port: u16) -> String {
    let second = match Driver::imitated().contexts() {
        0 => format!(" {option} {NIC_ADDRESS}:{}", port + 100),
        _ => String::new(),
    };
    format!("{option} {NIC_ADDRESS}:{port}{second}")
}

case!(looking_changes_nothing);
/// Runs `plan` and each `--dry-run`. They must say what would change, and change nothing.
fn looking_changes_nothing() -> Result<()> {
    testbed::wire()?;
    make_foreign_settings()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let flows = two_flows("--flow", 5000);
    let wish = format!("{NIC} --queue 2 --queue 3 {flows} --rx-ring 1024");
    let listen = two_flows("--listen", 5000);
    let mut said = Vec::new();
    for line in [
        &format!("plan {wish}"),
        &format!("apply --dry-run {wish}"),
        &format!("recv --dry-run -f {NIC} --queue 2 --queue 3 {listen}"),
        &format!("plan --json {wish}"),
        &format!("restore --dry-run {NIC}"),
    ] {
        said.push(finish(tool(line))?.good(line)?);
        println_line(said.last().map_or("", |text| text.trim_end()));
        observer.same(&before)?;
        nic_state::check_nothing_left()?;
    }
    for said in &said[..4] {
        let context = (Driver::imitated().contexts() > 0).then_some("context");
        let split = Driver::imitated().switches_split_off().then_some("split");
        for part in ["rss", "rule"].into_iter().chain(context).chain(split) {
            ensure!(said.contains(part), "no {part} in {said}");
        }
    }
    Ok(())
}

case!(applied_to_stay);
/// Runs `apply`. Its changes must stay after its end and after that of a receiver, until `restore`.
fn applied_to_stay() -> Result<()> {
    testbed::wire_with(testbed::QUEUES * 2, "")?;
    testbed::set_nic_channels(testbed::QUEUES)??;
    make_foreign_settings()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let flows = two_flows("--flow", 6000);
    let line = format!("apply {NIC} --channels 6 --queue 4 --queue 5 {flows} --rx-ring 1024");
    println_line(finish(tool(&line))?.good("apply")?.trim_end());
    let applied = observer.state()?;
    let changed = before.differs(&applied);
    // The table had none of the new queues; a context is new, where there are any.
    let rss = (Driver::imitated().contexts() > 0).then_some(nic_state::RSS);
    let parts = [nic_state::RINGS, nic_state::CHANNELS, nic_state::RULES];
    for part in parts.into_iter().chain(rss) {
        ensure!(changed.contains(&part), "{part} did not change");
    }
    ensure!(nic_state::guardians()?.is_empty(), "a guardian of nobody");

    // The only context is taken, where there is one.
    let (receiver, queues) = match Driver::imitated().contexts() {
        1 => (recv_one_queue(), 1),
        _ => (recv(), 2),
    };
    let receiver = Running::start(receiver)?;
    until("bindings", STEP, || Ok(bound_queues()? == queues))?;
    receiver.kill()?;
    until("the receiver's part", STEP, || {
        Ok(observer.state()?.like(&applied).is_ok() && nic_state::guardians()?.is_empty())
    })?;
    // Of all NICs only what the dead have left: that is none.
    finish(tool("restore"))?.good("restore")?;
    observer.same(&applied)?;
    println_line(restore()?.good("restore")?.trim_end());
    observer.soon_same(&before)
}

/// Runs a receiver that must end by itself, and returns its end.
fn run_to_end(command: Command) -> Result<Finished> {
    Running::start(command)?.end_within(STEP)
}

/// Checks that a command failed with an error that contains `what`.
fn check_fails_naming(end: Finished, what: &str) -> Result<()> {
    let said = end.refused(1)?;
    println_line(said.trim_end());
    let found = said.to_lowercase().contains(what);
    ensure!(found, "it does not name {what:?}: {said}");
    Ok(())
}

case!(driver_that_does_not_keep);
/// Makes the driver accept a setting and not keep it. The error must name the setting, and all
/// other changes be undone.
fn driver_that_does_not_keep() -> Result<()> {
    testbed::wire_with(testbed::QUEUES * 2, "")?;
    make_foreign_settings()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let more = format!("apply {NIC} --queue 3 --rx-ring 1024");
    for (setting, what, command) in [
        ("split", "tcp-data-split", recv()),
        ("hds-thresh", "hds-thresh", recv()),
        ("rss", "rss", recv()),
        ("rule", "rule", recv()),
        ("rule-queue", "rule", recv_one_queue()),
        ("rings", "rx", tool(&more)),
    ] {
        // What a driver has not, or has on by itself, it keeps.
        let kept = match setting {
            "split" => {
                !Driver::imitated().switches_split_off() || Driver::imitated().splits_by_hw_gro()
            }
            "hds-thresh" => !Driver::imitated().has_threshold(),
            _ => false,
        };
        if kept {
            continue;
        }
        testbed::set_header_split(HeaderSplit::Disabled, 100)?;
        set_rx_ring(Driver::imitated().ring(500))?;
        let before = observer.state()?;
        testbed::parameter("forget", setting)?;
        let end = run_to_end(command);
        testbed::parameter("forget", "")?;
        end.and_then(|end| check_fails_naming(end, what))
            .and_then(|()| observer.soon_same(&before))
            .with_context(|| format!("forget {setting}"))?;
    }
    let line = format!("apply {NIC} --channels 8 --rx-ring 1024");
    testbed::set_nic_channels(testbed::QUEUES)??;
    let before = observer.state()?;
    testbed::parameter("forget", "channels")?;
    let end = finish(tool(&line));
    testbed::parameter("forget", "")?;
    check_fails_naming(end?, "channels")?;
    observer.soon_same(&before)
}

case!(driver_that_refuses);
/// Makes the driver refuse one setting after the other. All changes made before must be undone.
fn driver_that_refuses() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for (setting, what) in [
        ("split", "rings-set"),
        ("rss", "rss-set"),
        ("context", "rss-create"),
        ("rule", "ntuple-insert"),
    ] {
        if setting == "context" && Driver::imitated().contexts() == 0 {
            continue;
        }
        testbed::parameter("refuse", setting)?;
        let end = run_to_end(recv());
        testbed::parameter("refuse", "")?;
        check_fails_naming(end?, what)
            .and_then(|()| observer.soon_same(&before))
            .with_context(|| format!("refuse {setting}"))?;
    }
    Ok(())
}

case!(rule_table_is_full);
/// Leaves no room for a rule, from the start or because of others' rules. `recv` must fail, and
/// undo all changes.
fn rule_table_is_full() -> Result<()> {
    // Others have a rule, and another one where they can have a context.
    let others = if Driver::imitated().contexts() > 1 {
        2
    } else {
        1
    };
    // Before the rules of others: where they choose the place, they would take the last.
    testbed::wire_with(testbed::QUEUES, &format!("rules={others}"))?;
    make_foreign_settings()?;
    let mut observer = Observer::of(NIC)?;
    for size in [others, 0] {
        testbed::parameter("rules", size)?;
        let before = observer.state()?;
        // A driver that has a place named has none to name.
        let what = match size {
            0 => "ntuple-insert",
            _ => "full",
        };
        check_fails_naming(run_to_end(recv())?, what).and_then(|()| observer.soon_same(&before))?;
    }
    Ok(())
}

case!(driver_that_refuses_the_way_back);
/// Makes the driver refuse or ignore the restoring of a setting. The error must name the setting,
/// the rest be restored, and a later `restore` complete it.
fn driver_that_refuses_the_way_back() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for (parameter, setting, what) in [
        ("refuse", "rule-delete", "rule"),
        ("refuse", "context-delete", "context"),
        ("refuse", "split", "rings-set"),
        ("forget", "rule-delete", "rule"),
        ("forget", "rss", "rss"),
        // Not rings: the kernel takes them for set, and does not ask the driver again
        // (`ethnl_set_rings` compares with `dev->cfg`).
    ] {
        if setting == "context-delete" && Driver::imitated().contexts() == 0 {
            continue;
        }
        // Where flow rules are off at first, they go when they are switched off again.
        let gone = setting == "rule-delete" && Driver::imitated().switches_ntuple_on();
        let receiver = Running::start(recv())?;
        until("bindings", STEP, || Ok(bound_queues()? == 2))?;
        // It would go on trying for some time.
        nic_state::kill_guardian()?;
        testbed::parameter(parameter, setting)?;
        receiver.signal(Signal::SIGTERM)?;
        let end = receiver.end_within(STEP);
        let failed = check_fails_naming(end?, what).and_then(|()| match gone {
            true => restore()?.good("restore").map(drop),
            false => check_fails_naming(restore()?, what),
        });
        testbed::parameter(parameter, "")?;
        failed
            .and_then(|()| restore()?.good("restore"))
            .and_then(|_| observer.soon_same(&before))
            .with_context(|| format!("{parameter} {setting}"))?;
    }
    Ok(())
}

fn set_rx_ring(rx: u32) -> Result<()> {
    let change = netdev::ethtool::RingsChange {
        rx: Some(rx),
        ..netdev::ethtool::RingsChange::default()
    };
    Ok(netdev::Ethtool::open()?.set_rings(framework::ifindex(NIC)?, &change)?)
}
