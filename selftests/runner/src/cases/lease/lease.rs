//! Receiving through a leased queue, in another namespace or the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule};
use netdev::{Netdev, QueueId, QueueType};
use serde_json::Value;

use framework::command_line::Recv;
use framework::summary::{self, Leased, Summary};
use framework::testbed::{self, BOX, BOX_ADDRESS, GUEST, HOST, NIC};
use framework::tool::{command, finish, sh, until};
use framework::transfer::{devmem_tcp, nic_settings, validated};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;
/// Number of the NIC's queue that is leased.
const QUEUE: u32 = testbed::QUEUES - 1;

/// Runs `devmem-tcp lease` and returns what it printed.
fn lease(line: &str) -> Result<Leased> {
    let line = format!("lease --json --phys {NIC} --queue {QUEUE} {line}");
    let text = finish(command(None, &devmem_tcp(), &line))?.good(&line)?;
    println_line(text.trim_end());
    summary::parse(&text)
}

/// Counts the leased rx queues of the NIC.
fn count_leased_queues() -> Result<usize> {
    let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    Ok(queues
        .iter()
        .filter(|queue| queue.kind == QueueType::Rx && queue.lease.is_some())
        .count())
}

/// Transfers 8 MiB to the container. The receiver is started in the NIC's namespace with `--netns`.
fn transfer(device: &str, port: u16) -> Result<Summary> {
    let before = nic_settings(NIC)?;
    let receiver = Recv::on(device).netns(BOX);
    let summary = validated(receiver, format!("{BOX_ADDRESS}:{port}"), 8 * MIB)?;
    summary.all_in_dmabuf()?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(summary)
}

case!(through_a_pair);
fn through_a_pair() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let leased = lease(&format!("--netkit {GUEST} --netns {BOX}"))?;
    ensure!(
        leased.queues() == [Some(1)],
        "a netkit's first lease is its queue 1"
    );
    testbed::route_to_container()?;
    transfer(GUEST, 5000).map(drop)
}

case!(through_a_single);
/// Receives through a single netkit, which has no data path of its own: the packets arrive by a
/// pair beside it.
fn through_a_single() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    sh(&format!(
        "ip link add {HOST} type netkit peer name {GUEST} netns {BOX}"
    ))?;
    testbed::route_to_container()?;
    lease(&format!("--netkit nks0 --kind single --netns {BOX}"))?;
    sh(&format!("ip -n {BOX} link set nks0 up"))?;
    transfer("nks0", 5000).map(drop)
}

case!(across_namespaces);
/// Receives with a receiver that runs in the container, where it can't reach the NIC, which was set
/// up before.
fn across_namespaces() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    lease(&format!("--netkit {GUEST} --netns {BOX}"))?;
    testbed::route_to_container()?;
    testbed::enable_header_split()?;
    sh(&format!("ethtool -X {NIC} equal {QUEUE}"))?;
    let to = format!("{BOX_ADDRESS}:5000").parse()?;
    testbed::insert_rule(&FlowRule::tcp_to(to, Action::Queue(QueueId::new(QUEUE))))?;
    let before = nic_settings(NIC)?;
    let to = format!("{BOX_ADDRESS}:5000");
    let receiver = Recv::on(GUEST).within(BOX).no_config();
    validated(receiver, &to, 8 * MIB)?.all_in_dmabuf()?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(of_an_existing_netkit);
fn of_an_existing_netkit() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    sh(&format!(
        "ip link add {HOST} type netkit peer name {GUEST} numrxqueues 2 netns {BOX}"
    ))?;
    let leased = lease(&format!("--netkit {GUEST} --netns {BOX}"))?;
    ensure!(!leased.made, "it made a netkit");
    testbed::route_to_container()?;
    transfer(GUEST, 5000).map(drop)
}

case!(shown_from_both_sides);
fn shown_from_both_sides() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    lease(&format!("--netkit {GUEST} --netns {BOX}"))?;
    testbed::route_to_container()?;
    let receiver = Recv::on(GUEST).netns(BOX);
    let receiver = receiver.listen(format!("{BOX_ADDRESS}:5000")).start()?;
    let show = |device: &str| -> Result<Value> {
        let line = format!("show --json {device}");
        let text = finish(command(None, &devmem_tcp(), &line))?.good("show")?;
        serde_json::from_str(&text).context("JSON of show")
    };
    let bound = |shown: &Value| shown.pointer("/leases/0/dmabuf").and_then(Value::as_u64);
    until("a binding", Duration::from_secs(30), || {
        Ok(bound(&show("")?).is_some())
    })?;
    let all = show("")?;
    println_line(&finish(command(None, &devmem_tcp(), "show"))?.good("show")?);
    let queues = all
        .pointer("/queues")
        .and_then(Value::as_array)
        .context("queues")?;
    ensure!(queues.len() == 2, "two ends, not {}", queues.len());
    let end = |device: &str| queues.iter().find(|row| row["device"] == device);
    let (phys, virt) = (end(NIC).context(NIC)?, end(GUEST).context(GUEST)?);
    ensure!(phys["leased_to"]["device"] == GUEST, "{phys}");
    ensure!(phys["leased_to"]["netns"] == BOX, "{phys}");
    ensure!(virt["leased_from"]["device"] == NIC, "{virt}");
    ensure!(
        virt["netns"] == BOX && virt["bound"].as_u64() == bound(&all),
        "{virt}"
    );
    let pools = all
        .pointer("/page_pools")
        .and_then(Value::as_array)
        .context("page_pools")?;
    ensure!(
        pools
            .iter()
            .any(|pool| pool["dmabuf"].as_u64() == bound(&all)),
        "{pools:?}"
    );
    receiver.signal(nix::sys::signal::Signal::SIGTERM)?;
    receiver
        .end_within(Duration::from_secs(5))?
        .refused(1)
        .map(drop)
}

case!(ends_with_the_netkit);
fn ends_with_the_netkit() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    for _ in 0..3 {
        lease(&format!("--netkit {GUEST} --netns {BOX}"))?;
        ensure!(count_leased_queues()? == 1, "one queue is leased");
        sh(&format!("ip link delete {HOST}"))?;
        ensure!(count_leased_queues()? == 0, "the lease outlived its netkit");
    }
    Ok(())
}
