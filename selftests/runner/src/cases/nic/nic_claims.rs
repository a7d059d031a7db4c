//! Claims of several owners on one NIC: each ends on its own, and a dead owner's claim blocks no other.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::FlowRule;
use netdev::{Ethtool, NetNs, QueueId};
use nic::Plan;
use nix::sys::signal::Signal;

use framework::doctor::Report;
use framework::driver::Driver;
use framework::far_end::{Flood, connect};
use framework::nic_state::{self, Observer};
use framework::receiver::{
    STEP, bound_queues, kill_with_guardian, recv, restore, start_bound, wait_until_unbound,
};
use framework::testbed::{self, NIC, NIC_ADDRESS, QUEUES};
use framework::tool::{Finished, Running, command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

fn rules() -> Result<Vec<FlowRule>> {
    Ok(Ethtool::open()?.rules(ifindex(NIC)?)?)
}

case!(ended_by_force);
/// Ends a claim with `restore --force`, then restores it in its process. The claim of a receiver
/// that came meanwhile must stay.
fn ended_by_force() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let plan = Plan::new(NIC, ifindex(NIC)?)
        .header_split()
        .reserve(&[LAST]);
    let applied = plan.apply(&NetNs::current()?)?;
    tool("restore eth1 --force")?.good("restore")?;
    observer.same(&before)?;
    let receiver = start_bound(recv(5000))?;
    let bent = observer.state()?;
    applied.restore()?;
    observer.same(&bent)?;
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    receiver.stop()?;
    observer.soon_same(&before)
}

case!(rule_of_two);
/// Has `apply` and a receiver want the same rule. It must stay until the last of them ends, and
/// ntuple rules stay on as long.
fn rule_of_two() -> Result<()> {
    for driver in [Driver::Swnic, Driver::Gve] {
        testbed::clear()?;
        testbed::wire_as(driver, QUEUES, "")?;
        for first in ["apply", "recv", "killed"] {
            check_shared_rule(first).with_context(|| format!("{driver:?}, {first} ends first"))?;
        }
    }
    Ok(())
}

fn check_shared_rule(first: &str) -> Result<()> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let to: SocketAddr = format!("{NIC_ADDRESS}:5000").parse()?;
    tool(&format!("apply {NIC} --queue 3 --flow {to}"))?.good("apply")?;
    let line = format!("recv -f {NIC} --queue 3 -l {to} --size 4M --refuse-unsteered");
    let receiver = start_bound(command(None, &devmem_tcp(), &line))?;
    let flood = Flood::start(connect(to)?)?;
    flood.wait_for(100_000)?;
    ensure!(rules()?.len() == 1, "{:?}", rules()?);
    let end = |receiver: Running| -> Result<()> {
        if first == "killed" {
            nic_state::kill_guardian()?;
            receiver.signal(Signal::SIGKILL)?;
            receiver.end_within(STEP).map(drop)
        } else {
            receiver.stop().map(drop)
        }
    };
    if first == "apply" {
        let would = tool(&format!("restore {NIC} --dry-run"))?.good("dry run")?;
        ensure!(!would.contains("removed"), "{would}");
        restore()?.good("restore")?;
        flood.wait_for(300_000)?;
        ensure!(rules()?.len() == 1, "the receiver's rule is gone");
        end(receiver)?;
        drop(flood);
        return observer.soon_same(&before);
    }
    end(receiver)?;
    drop(flood);
    if first == "killed" {
        wait_until_unbound()?;
        // Of all NICs only what the dead have left.
        tool("restore")?.good("restore")?;
    }
    ensure!(rules()?.len() == 1, "what was applied is gone");
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(next_after_a_dead_one);
/// Starts a receiver after one that was killed, on a NIC with room for one rule or context. The
/// rest of the dead one must be removed first, and not count in `--dry-run` or `doctor`.
fn next_after_a_dead_one() -> Result<()> {
    for (driver, listen) in [
        (Driver::Fbnic, 5000),
        (Driver::Fbnic, 5001),
        (Driver::Gve, 5000),
    ] {
        testbed::clear()?;
        testbed::wire_as(driver, QUEUES, "")?;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        let queues = |queue: u32| match driver {
            Driver::Fbnic => "--queue 2 --queue 3".to_owned(),
            _ => format!("--queue {queue}"),
        };
        let line = format!(
            "recv -f {NIC} --size 4M {} -l {NIC_ADDRESS}:5000",
            queues(3)
        );
        let receiver = Running::start(command(None, &devmem_tcp(), &line))?;
        let wanted = line.matches("--queue").count();
        until("bindings", STEP, || Ok(bound_queues()? == wanted))?;
        kill_with_guardian(receiver)?;
        until("the bindings' end", STEP, || Ok(bound_queues()? == 0))?;

        let bent = observer.state()?;
        let at = format!("{} -l {NIC_ADDRESS}:{listen}", queues(2));
        let next = format!("recv -f {NIC} --size 4M {at}");
        let would = tool(&format!("{next} --dry-run"))?;
        let would = would
            .good("dry run")
            .with_context(|| format!("{driver:?}"))?;
        println_line(would.trim_end());
        let report = Report::of(&format!("{NIC} {at}"))?;
        for check in ["ntuple.flow", "rss.spread", "queues.owner"] {
            ensure!(report.status(check) != "fail", "{check}: {}", report.json);
        }
        observer.same(&bent)?;
        let receiver = Running::start(command(None, &devmem_tcp(), &next))?;
        let bound = until("bindings", STEP, || Ok(bound_queues()? == wanted));
        receiver.signal(Signal::SIGTERM)?;
        let end = receiver.end_within(STEP)?;
        bound.with_context(|| end.stderr)?;
        observer.soon_same(&before)?;
    }
    Ok(())
}
