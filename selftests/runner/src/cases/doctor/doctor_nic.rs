//! `doctor` finds faults of the NIC and of its driver.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, HeaderSplit, RssChange};
use netdev::{Ethtool, QueueId};

use framework::command_line::Recv;
use framework::doctor::{Bad, Report, avoided, cured, incurable, named};
use framework::driver::Driver;
use framework::leases::Guest;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{sh, until};
use framework::transfer::devmem_tcp;
use framework::xdp::{self, Hook};
use framework::{ifindex, println_line};

case!(link_down);
fn link_down() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ip link set dev {NIC} down"))?;
    cured(NIC, "link.up", Bad::NoRx)
}

case!(no_carrier);
/// Takes the other end of the wire down. `doctor` must say that the fault is at the other end.
fn no_carrier() -> Result<()> {
    testbed::wire()?;
    sh("ip -n peer link set dev eth0 down")?;
    let remedy = named(NIC, "link.carrier", Bad::NoRx)?;
    ensure!(remedy.contains("other end"), "{remedy}");
    sh("ip -n peer link set dev eth0 up")?;
    Report::of(NIC)?.healthy()
}

case!(xdp_by_a_link);
/// Attaches an XDP program by a BPF link, which `ip link` can't detach. The remedy of `doctor` must
/// help.
fn xdp_by_a_link() -> Result<()> {
    testbed::wire()?;
    let _link = xdp::attach(ifindex(NIC)?.get())?;
    cured(NIC, "link.xdp", Bad::NoRx)
}

case!(xdp_by_netlink);
fn xdp_by_netlink() -> Result<()> {
    testbed::wire()?;
    let program = xdp::program()?;
    for hook in [Hook::Generic, Hook::Native] {
        xdp::attach_by_netlink(ifindex(NIC)?.get(), &program, hook)?;
        cured(NIC, "link.xdp", Bad::NoRx)?;
    }
    Ok(())
}

case!(small_mtu);
fn small_mtu() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ip link set dev {NIC} mtu 1000"))?;
    cured(NIC, "link.mtu", Bad::Warns)
}

case!(no_coalescing);
fn no_coalescing() -> Result<()> {
    testbed::wire()?;
    if matches!(Driver::played(), Driver::Gve | Driver::Bnxt) {
        sh(&format!("ethtool -K {NIC} rx-gro-hw off"))?;
    }
    cured(NIC, "link.coalesce", Bad::Warns)
}

case!(split_off_and_threshold);
/// Switches header split off, then sets its threshold, which ethtool can't do before version 6.15.
/// The remedy of `doctor` must help.
fn split_off_and_threshold() -> Result<()> {
    testbed::wire()?;
    if Driver::played().switches_split_off() {
        testbed::rings(HeaderSplit::Disabled, 0)?;
        cured(NIC, "split.on", Bad::Warns)?;
        sh(&format!("{} restore {NIC}", devmem_tcp().display()))?;
    }
    testbed::rings(HeaderSplit::Enabled, 128)?;
    if Driver::played().has_threshold() {
        cured(NIC, "split.threshold", Bad::Warns)?;
    }
    Ok(())
}

case!(one_channel);
fn one_channel() -> Result<()> {
    testbed::wire()?;
    testbed::channels(1)??;
    cured(NIC, "queues.count", Bad::NoRx)
}

case!(queue_bound);
/// Binds the queue by another process. The remedy of `doctor` must be another queue, on which it
/// finds no fault.
fn queue_bound() -> Result<()> {
    testbed::wire()?;
    let receiver = Recv::on(NIC).queue(2).listen(testbed::at(5000)).start()?;
    until("a binding", Duration::from_secs(30), || {
        Ok(Report::of(&format!("{NIC} --queue 2"))?.status("queues.free") == "fail")
    })?;
    let line = format!("{NIC} --queue 2");
    avoided(&line, "queues.free")?;
    receiver.stop()?;
    Report::of(&line)?.healthy()
}

case!(queue_in_af_xdp_use);
fn queue_in_af_xdp_use() -> Result<()> {
    testbed::wire()?;
    let _socket = xdp::socket(ifindex(NIC)?.get(), 3)?;
    avoided(&format!("{NIC} --queue 3"), "queues.free")
}

case!(no_such_queue);
fn no_such_queue() -> Result<()> {
    testbed::wire()?;
    avoided(&format!("{NIC} --queue 99"), "queues.free")
}

case!(all_queues_leased);
/// Leases out both queues in use of a device that can have four. `doctor` must say that none is
/// free, and its remedy must help.
fn all_queues_leased() -> Result<()> {
    testbed::wire()?;
    testbed::channels(2)??;
    let mut guest = Guest::single("nk0", 3)?;
    guest.granted(0, 1)?;
    guest.granted(1, 2)?;
    cured(NIC, "queues.free", Bad::NoRx)
}

case!(only_free_queue_is_rss);
/// Leaves one queue free, which gets all other traffic. `doctor` must say so, and its remedy must
/// help.
fn only_free_queue_is_rss() -> Result<()> {
    testbed::wire()?;
    testbed::channels(2)??;
    Guest::single("nk0", 2)?.granted(0, 1)?;
    cured(NIC, "rss.others", Bad::NoRx)
}

case!(rss_context_has_the_queue);
fn rss_context_has_the_queue() -> Result<()> {
    testbed::wire()?;
    let change = RssChange {
        table: Some(vec![QueueId::new(3)]),
        ..RssChange::default()
    };
    Ethtool::open()?.create_rss_context(ifindex(NIC)?, &change)?;
    cured(NIC, "rss.contexts", Bad::Warns)
}

case!(ntuple_off);
fn ntuple_off() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} ntuple off"))?;
    cured(NIC, "ntuple.on", Bad::Warns)
}

fn insert_rule(port: u16, queue: u32) -> Result<u32> {
    let to = format!("{NIC_ADDRESS}:{port}").parse()?;
    let rule = FlowRule::tcp_to(to, Action::Queue(QueueId::new(queue)));
    testbed::insert_rule(&rule)
}

case!(rule_table_full);
fn rule_table_full() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("rules", 2)?;
    insert_rule(6000, 0)?;
    insert_rule(6001, 1)?;
    cured(NIC, "ntuple.room", Bad::NoRx)
}

case!(rule_for_the_queue);
fn rule_for_the_queue() -> Result<()> {
    testbed::wire()?;
    insert_rule(6000, 3)?;
    cured(NIC, "ntuple.others", Bad::Warns)
}

case!(ring_larger_than_the_buffer);
fn ring_larger_than_the_buffer() -> Result<()> {
    testbed::wire()?;
    cured(&format!("{NIC} --size 4M"), "pool.ring", Bad::Warns)
}

case!(scatter_gather_off);
fn scatter_gather_off() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} sg off"))?;
    cured(NIC, "driver.netmem-tx", Bad::OtherFails)
}

/// Checks that `doctor` names a fault without remedy on a NIC whose driver lacks a feature (the
/// software NIC's parameter `lacks`).
fn check_lacking(what: &str, id: &str, bad: Bad) -> Result<()> {
    testbed::wire_with(testbed::QUEUES, &format!("lacks={what}"))?;
    incurable(NIC, id, bad)
}

case!(driver_without_queue_api);
fn driver_without_queue_api() -> Result<()> {
    check_lacking("queue-ops", "driver.queue-api", Bad::NoRx)
}

case!(driver_without_split);
fn driver_without_split() -> Result<()> {
    check_lacking("split", "split.settable", Bad::NoRx)
}

case!(driver_without_ntuple);
fn driver_without_ntuple() -> Result<()> {
    check_lacking("ntuple", "ntuple.on", Bad::NoRx)
}

case!(driver_without_netmem_tx);
fn driver_without_netmem_tx() -> Result<()> {
    check_lacking("netmem-tx", "driver.netmem-tx", Bad::OtherFails)
}

case!(driver_without_rss);
fn driver_without_rss() -> Result<()> {
    check_lacking("rss", "rss.table", Bad::NoRx)
}

case!(driver_without_rx_page_size);
/// Runs `doctor` on a NIC without `rx-page-size`. It must find no fault, because niovs of one size
/// are enough.
fn driver_without_rx_page_size() -> Result<()> {
    testbed::wire_with(testbed::QUEUES, "lacks=rx-page-size")?;
    Report::of(NIC)?.healthy()?;
    testbed::split()?;
    Report::of(NIC)?.healthy()
}

case!(other_devices);
/// Runs `doctor` on devices that are neither NIC nor netkit. It must say so for each.
fn other_devices() -> Result<()> {
    // By itself the module makes a device, which stays.
    sh("modprobe dummy numdummies=0")?;
    sh("ip link add nkdummy type dummy")?;
    sh("ip link add nkveth0 type veth peer name nkveth1")?;
    for device in ["lo", "nkdummy", "nkveth0"] {
        let report = Report::of(device)?;
        ensure!(report.code == Some(1), "{device}: {:?}", report.code);
        ensure!(report.failed().contains(&"netkit.kind"), "{}", report.json);
        let found = report.check("netkit.kind").context("netkit.kind")?;
        println_line(&format!("{device}: {}", found["found"]));
    }
    sh("ip link del nkdummy")?;
    sh("ip link del nkveth0").map(drop)
}
