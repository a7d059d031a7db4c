//! Locations of flow rules on drivers that want to be given one: no existing rule is overwritten.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, Location};
use netdev::{Ethtool, QueueId};

use framework::command_line::{Recv, Sender};
use framework::driver::Driver;
use framework::nic_state::Observer;
use framework::testbed::{self, NIC, NIC_ADDRESS, QUEUES};
use framework::tool::says;
use framework::tool::{command, finish, sh};
use framework::transfer::{devmem_tcp, summary};
use framework::{ifindex, println_line};

/// Drivers that want a location for each rule.
const WANT_LOCATION: [Driver; 3] = [Driver::Mlx5, Driver::Gve, Driver::Ice];
const PLACES: u32 = 8;

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

/// A rule of another program at this location.
fn foreign_rule(place: u32) -> Result<FlowRule> {
    let to = format!("{NIC_ADDRESS}:{}", 7000 + place).parse()?;
    let mut rule = FlowRule::tcp_to(to, Action::Queue(QueueId::new(1)));
    rule.location = Location::At(place);
    Ok(rule)
}

/// Loads a NIC with [`PLACES`] rule locations, and switches ntuple rules on.
fn load_nic(driver: Driver) -> Result<Ethtool> {
    testbed::clear()?;
    testbed::wire_as(driver, QUEUES, &format!("rules={PLACES}"))?;
    let mut ethtool = Ethtool::open()?;
    ethtool.set_feature(ifindex(NIC)?, "rx-ntuple-filter", true)?;
    Ok(ethtool)
}

case!(only_free_place);
/// Occupies all rule locations but one, then all. Our rule must go to the free one, or be refused.
fn only_free_place() -> Result<()> {
    for driver in WANT_LOCATION {
        let (mut ethtool, mut port) = (load_nic(driver)?, 5000);
        for free in [0, 3, PLACES - 1] {
            let others: Vec<u32> = (0..PLACES).filter(|place| *place != free).collect();
            for place in &others {
                ethtool.insert_rule(ifindex(NIC)?, &foreign_rule(*place)?)?;
            }
            let round = match driver {
                // It has no queue API.
                Driver::Ice => check_apply(&mut ethtool, free, port),
                _ => check_recv(&mut ethtool, free, port),
            };
            round.with_context(|| format!("{driver:?}, {free}"))?;
            port += 1;
            for place in others {
                ethtool.delete_rule(ifindex(NIC)?, place)?;
            }
        }
        for place in 0..PLACES {
            ethtool.insert_rule(ifindex(NIC)?, &foreign_rule(place)?)?;
        }
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let line = format!("recv -f {NIC} --queue 3 -l {NIC_ADDRESS}:6000");
        let said = finish(tool(&line))?.refused(1)?;
        println_line(said.trim_end());
        says(&said, &["ENOSPC", "full"])?;
        observer.soon_same(&before)?;
    }
    Ok(())
}

fn check_apply(ethtool: &mut Ethtool, free: u32, port: u16) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("apply {NIC} --queue 3 --flow {NIC_ADDRESS}:{port}");
    finish(tool(&line))?.good("apply")?;
    let rule = ethtool.rule(ifindex(NIC)?, free)?;
    ensure!(rule.action == Action::Queue(QueueId::new(3)), "{rule:?}");
    finish(tool(&format!("restore {NIC}")))?.good("restore")?;
    observer.soon_same(&before)
}

fn check_recv(ethtool: &mut Ethtool, free: u32, port: u16) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let to = format!("{NIC_ADDRESS}:{port}");
    let receiver = Recv::on(NIC)
        .queue(3)
        .listen(&to)
        .refuse_unsteered()
        .start_bound()?;
    let rule = ethtool.rule(ifindex(NIC)?, free)?;
    ensure!(rule.action == Action::Queue(QueueId::new(3)), "{rule:?}");
    Sender::to(&to).bytes("1M").run()?;
    summary(receiver)?.all_in_dmabuf()?;
    observer.soon_same(&before)
}

case!(rules_of_other_kinds);
/// Inserts rules of kinds that the `netdev` crate does not know. Our rules must go to other
/// locations.
fn rules_of_other_kinds() -> Result<()> {
    let mut ethtool = load_nic(Driver::Mlx5)?;
    let top = PLACES - 1;
    for (place, flow) in [
        (top, "ether dst 02:00:00:00:00:77"),
        (top - 2, "ip4 src-ip 198.51.100.7"),
    ] {
        sh(&format!(
            "ethtool -N {NIC} flow-type {flow} action 1 loc {place}"
        ))?;
    }
    let before = sh(&format!("ethtool -n {NIC}"))?;
    ensure!(ethtool.rules(ifindex(NIC)?)?.is_empty(), "they are known");
    let flows = [5000, 5001].map(|port| format!("--flow {NIC_ADDRESS}:{port}"));
    let line = format!("apply {NIC} --queue 3 {}", flows.join(" "));
    println_line(finish(tool(&line))?.good("apply")?.trim_end());
    let places: Vec<Location> = ethtool
        .rules(ifindex(NIC)?)?
        .iter()
        .map(|rule| rule.location)
        .collect();
    let wanted = [top - 3, top - 1].map(Location::At);
    ensure!(places == wanted, "{places:?}");
    finish(tool(&format!("restore {NIC}")))?.good("restore")?;
    ensure!(sh(&format!("ethtool -n {NIC}"))? == before, "their rules");
    Ok(())
}

case!(rules_that_come_and_go);
/// Adds and deletes rules by another program all the time. `apply` must succeed, and neither
/// program lose a rule to the other.
fn rules_that_come_and_go() -> Result<()> {
    for driver in [Driver::Mlx5, Driver::Gve, Driver::Bnxt, Driver::Swnic] {
        let mut ethtool = load_nic(driver)?;
        let chooses = ethtool.rule_table(ifindex(NIC)?)?.chooses;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let over = Arc::new(AtomicBool::new(false));
        let churn = thread::spawn({
            let over = Arc::clone(&over);
            move || churn(&over, chooses)
        });
        for _ in 0..12 {
            let flows = format!("--flow {NIC_ADDRESS}:5000 --flow {NIC_ADDRESS}:5001");
            let line = format!("apply {NIC} --queue 3 {flows}");
            finish(tool(&line))?.good(&line)?;
            // Place by place: a list may be cut off while rules come and go.
            let mut ours = 0;
            for place in 0..PLACES {
                let rule = ethtool.rule(ifindex(NIC)?, place);
                let action = rule.map(|rule| rule.action);
                ours += usize::from(action.ok() == Some(Action::Queue(QueueId::new(3))));
            }
            ensure!(ours == 2, "{driver:?}: {ours} rules");
            finish(tool(&format!("restore {NIC}")))?.good("restore")?;
        }
        over.store(true, Ordering::Relaxed);
        let rounds = churn.join().ok().context("churn")??;
        println_line(&format!("{driver:?}: {rounds} rules came and went"));
        ensure!(rounds > 100, "hardly anything came and went");
        observer.soon_same(&before)?;
    }
    Ok(())
}

/// Adds and deletes three rules until `over` is set, and returns how often.
fn churn(over: &AtomicBool, chooses: bool) -> Result<u32> {
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        for place in 0..3 {
            let mut rule = foreign_rule(place)?;
            if chooses {
                rule.location = Location::Any;
            }
            let at = ethtool.insert_rule(nic, &rule)?;
            ethtool.delete_rule(nic, at)?;
            rounds += 1;
        }
    }
    Ok(rounds)
}
