//! `doctor` finds faults of the NIC and of its driver.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, HeaderSplit, RssChange};
use netdev::{Ethtool, QueueId};

use framework::command_line::Recv;
use framework::doctor::{
    Report, Severity, check_avoided, check_cured, check_incurable, check_named,
};
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
    check_cured(NIC, "link.up", Severity::NoRx)
}

case!(no_carrier);
/// Takes the other end of the wire down. `doctor` must say that the fault is at the other end.
fn no_carrier() -> Result<()> {
    testbed::wire()?;
    sh("ip -n peer link set dev eth0 down")?;
    let remedy = check_named(NIC, "link.carrier", Severity::NoRx)?;
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
    check_cured(NIC, "link.xdp", Severity::NoRx)
}

case!(xdp_by_netlink);
fn xdp_by_netlink() -> Result<()> {
    testbed::wire()?;
    let program = xdp::program()?;
    for hook in [Hook::Generic, Hook::Native] {
        xdp::attach_by_netlink(ifindex(NIC)?.get(), &program, hook)?;
        check_cured(NIC, "link.xdp", Severity::NoRx)?;
    }
    Ok(())
}

case!(small_mtu);
fn small_mtu() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ip link set dev {NIC} mtu 1000"))?;
    check_cured(NIC, "link.mtu", Severity::Warns)
}

case!(no_coalescing);
fn no_coalescing() -> Result<()> {
    testbed::wire()?;
    if matches!(Driver::imitated(), Driver::Gve | Driver::Bnxt) {
        sh(&format!("ethtool -K {NIC} rx-gro-hw off"))?;
    }
    check_cured(NIC, "link.coalesce", Severity::Warns)
}

case!(split_off_and_threshold);
/// Switches header split off, then sets its threshold, which ethtool can't do before version 6.15.
/// The remedy of `doctor` must help.
fn split_off_and_threshold() -> Result<()> {
    testbed::wire()?;
    if Driver::imitated().switches_split_off() {
        testbed::set_header_split(HeaderSplit::Disabled, 0)?;
        check_cured(NIC, "split.on", Severity::Warns)?;
        sh(&format!("{} restore {NIC}", devmem_tcp().display()))?;
    }
    testbed::set_header_split(HeaderSplit::Enabled, 128)?;
    if Driver::imitated().has_threshold() {
        check_cured(NIC, "split.threshold", Severity::Warns)?;
    }
    Ok(())
}

case!(one_channel);
fn one_channel() -> Result<()> {
    testbed::wire()?;
    testbed::set_nic_channels(1)??;
    check_cured(NIC, "queues.count", Severity::NoRx)
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
    check_avoided(&line, "queues.free")?;
    receiver.stop()?;
    Report::of(&line)?.healthy()
}

case!(queue_in_af_xdp_use);
fn queue_in_af_xdp_use() -> Result<()> {
    testbed::wire()?;
    let _socket = xdp::socket(ifindex(NIC)?.get(), 3)?;
    check_avoided(&format!("{NIC} --queue 3"), "queues.free")
}

case!(no_such_queue);
fn no_such_queue() -> Result<()> {
    testbed::wire()?;
    check_avoided(&format!("{NIC} --queue 99"), "queues.free")
}

case!(all_queues_leased);
/// Leases out both queues in use of a device that can have four. `doctor` must say that none is
/// free, and its remedy must help.
fn all_queues_leased() -> Result<()> {
    testbed::wire()?;
    testbed::set_nic_channels(2)??;
    let mut guest = Guest::single("nk0", 3)?;
    guest.lease_as(0, 1)?;
    guest.lease_as(1, 2)?;
    check_cured(NIC, "queues.free", Severity::NoRx)
}

case!(only_free_queue_is_rss);
/// Leaves one queue free, which gets all other traffic. `doctor` must say so, and its remedy must
/// help.
fn only_free_queue_is_rss() -> Result<()> {
    testbed::wire()?;
    testbed::set_nic_channels(2)??;
    Guest::single("nk0", 2)?.lease_as(0, 1)?;
    check_cured(NIC, "rss.others", Severity::NoRx)
}

case!(rss_context_has_the_queue);
fn rss_context_has_the_queue() -> Result<()> {
    testbed::wire()?;
    let change = RssChange {
        table: Some(vec![QueueId::new(3)]),
        ..RssChange::default()
    };
    Ethtool::open()?.create_rss_context(ifindex(NIC)?, &change)?;
    check_cured(NIC, "rss.contexts", Severity::Warns)
}

case!(ntuple_off);
fn ntuple_off() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} ntuple off"))?;
    check_cured(NIC, "ntuple.on", Severity::Warns)
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
    check_cured(NIC, "ntuple.room", Severity::NoRx)
}

case!(rule_for_the_queue);
fn rule_for_the_queue() -> Result<()> {
    testbed::wire()?;
    insert_rule(6000, 3)?;
    check_cured(NIC, "ntuple.others", Severity::Warns)
}

case!(ring_larger_than_the_buffer);
fn ring_larger_than_the_buffer() -> Result<()> {
    testbed::wire()?;
    check_cured(&format!("{NIC} --size 4M"), "pool.ring", Severity::Warns)
}

case!(scatter_gather_off);
fn scatter_gather_off() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} sg off"))?;
    check_cured(NIC, "driver.netmem-tx", Severity::OtherFails)
}

/// Checks that `doctor` names a fault without remedy on a NIC whose driver lacks a feature (the
/// software NIC's parameter `lacks`).
fn check_lacking(what: &str, id: &str, bad: Severity) -> Result<()> {
    testbed::wire_with(testbed::QUEUES, &format!("lacks={what}"))?;
    check_incurable(NIC, id, bad)
}

case!(driver_without_queue_api);
fn driver_without_queue_api() -> Result<()> {
    check_lacking("queue-ops", "driver.queue-api", Severity::NoRx)
}

case!(driver_without_split);
fn driver_without_split() -> Result<()> {
    check_lacking("split", "split.settable", Severity::NoRx)
}

case!(driver_without_ntuple);
fn driver_without_ntuple() -> Result<()> {
    check_lacking("ntuple", "ntuple.on", Severity::NoRx)
}

case!(driver_without_netmem_tx);
fn driver_without_netmem_tx() -> Result<()> {
    check_lacking("netmem-tx", "driver.netmem-tx", Severity::OtherFails)
}

case!(driver_without_rss);
fn driver_without_rss() -> Result<()> {
    check_lacking("rss", "rss.table", Severity::NoRx)
}

case!(driver_without_rx_page_size);
/// Runs `doctor` on a NIC without `rx-page-size`. It must find no fault, because niovs of one size
/// are enough.
fn driver_without_rx_page_size() -> Result<()> {
    testbed::wire_with(testbed::QUEUES, "lacks=rx-page-size")?;
    Report::of(NIC)?.healthy()?;
    testbed::enable_header_split()?;
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
