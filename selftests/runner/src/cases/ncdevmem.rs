//! `ncdevmem`, as upstream's tests and the kernel series that brought leases call it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use netdev::{Lease, Link, Netdev, NetkitPair, QueueId};

use super::transfer::{nic_settings, send};
use super::{ifindex, println_line};
use crate::bed::{self, BOX, NIC, NIC_ADDRESS};
use crate::tool::{Running, command, ours, sh};

/// Upstream's payload: the bytes 1 to 6 and a newline.
fn payload(bytes: usize) -> Vec<u8> {
    b"\x01\x02\x03\x04\x05\x06\n"
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

pub(super) fn direct() -> Result<()> {
    bed::wire()?;
    let before = nic_settings(NIC)?;
    fs::write("/tmp/payload", payload(1 << 20))?;
    let ncdevmem = ours("ncdevmem");
    // To standard output, then validated, then with a linear byte that must fail it.
    let line = format!(
        "-L -l -f {NIC} -s {NIC_ADDRESS} -c {} -p 5201",
        bed::SENDER_ADDRESS
    );
    let receiver = Running::start(command(None, &ncdevmem, &line))?;
    // -c asks for flows from that port only.
    let from = format!("{}:5201", bed::SENDER_ADDRESS);
    send(&format!(
        "{NIC_ADDRESS}:5201 --input /tmp/payload --from {from}"
    ))?;
    let end = receiver.end_within(Duration::from_secs(20))?;
    println_line(&end.stderr);
    ensure!(
        end.good("ncdevmem")?.as_bytes() == payload(1 << 20),
        "stdout is not the payload"
    );

    let line = format!("-l -f {NIC} -s {NIC_ADDRESS} -p 5202 -v 7");
    let receiver = Running::start(command(None, &ncdevmem, &line))?;
    send(&format!("{NIC_ADDRESS}:5202 --input /tmp/payload"))?;
    let end = receiver.end_within(Duration::from_secs(20))?;
    println_line(&end.stderr);
    end.good("ncdevmem -v")?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );

    bed::parameter("unsplit_every", 3)?;
    bed::parameter("unsplit_bytes", 10)?;
    let line = format!("-L -l -f {NIC} -s {NIC_ADDRESS} -p 5203 -v 7");
    let receiver = Running::start(command(None, &ncdevmem, &line))?;
    let sent = send(&format!("{NIC_ADDRESS}:5203 --input /tmp/payload"));
    println_line(&format!("sender: {sent:?}"));
    let complaint = receiver.end_within(Duration::from_secs(20))?.refused(1)?;
    println_line(&complaint);
    ensure!(
        complaint.contains("split"),
        "the complaint does not say that a packet was not split"
    );
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

/// The words of the series: 16 queues, the last of them leased, RSS on the others, a context and a
/// rule for the service's address and port, and ncdevmem in the namespace.
pub(super) fn as_in_the_series() -> Result<()> {
    bed::wire_with(16, "")?;
    bed::container()?;
    bed::split()?;
    sh(&format!("ethtool -X {NIC} start 0 equal 15"))?;
    let made = sh(&format!("ethtool -X {NIC} start 15 equal 1 context new"))?;
    println_line(made.trim_end());
    let rule = "flow-type tcp4 dst-ip 1.2.3.4 dst-port 5000 action 15";
    println_line(sh(&format!("ethtool --config-ntuple {NIC} {rule}"))?.trim_end());
    let mut pair = NetkitPair::new("nk1", "nk0");
    pair.rx_queues = Some(2);
    let guest = Link::open()?.create_netkit(&pair)?.peer;
    let lease = Lease {
        of: ifindex(NIC)?,
        queue: QueueId::new(15),
        netns_id: None,
    };
    let queue = Netdev::open()?.lease(guest, lease)?;
    ensure!(queue == QueueId::new(1), "queue-create answered {queue}");
    for line in [
        format!("link set nk0 netns {BOX}"),
        "link set nk1 up".to_owned(),
        format!("-n {BOX} link set nk0 up"),
        format!("-n {BOX} addr add 1.2.3.4/32 dev nk0"),
        format!("-n {BOX} route add default dev nk0"),
        "route add 1.2.3.4/32 dev nk1".to_owned(),
        format!("-n {} route add 1.2.3.4/32 via {NIC_ADDRESS}", bed::PEER),
    ] {
        sh(&format!("ip {line}"))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    fs::write("/tmp/payload", payload(4 << 20))?;
    let line = "-s 1.2.3.4 -l -p 5000 -f nk0 -t 1 -q 1 -v 7";
    let receiver = Running::start(command(Some(BOX), &ours("ncdevmem"), line))?;
    let sent = send("1.2.3.4:5000 --input /tmp/payload");
    let end = receiver.end_within(Duration::from_secs(20))?;
    println_line(&end.stderr);
    sent?;
    ensure!(
        end.stderr.contains("total_received=4194304"),
        "not all was received"
    );
    ensure!(end.stderr.contains("linear_bytes=0"), "linear bytes");
    end.good("ncdevmem").map(drop)
}
