//! Changes to a NIC that it must survive, or refuse, while one of its queues is bound or leased.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netdev::QueueId;
use nix::sys::signal::Signal;

use framework::command_line::{Recv, Sender};
use framework::leases::{set_link_down, set_link_up};
use framework::receiver::bound_queues;
use framework::receiver::received;
use framework::testbed::{self, BOX, NIC, NIC_ADDRESS, PEER};
use framework::tool::{sh, until};
use framework::transfer::{devmem_tcp, summary, validated};
use framework::xdp;
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;
const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

case!(link_flap_while_receiving);
/// Takes the link down and up in mid-stream. The binding must stay, and TCP send again what was
/// lost.
fn link_flap_while_receiving() -> Result<()> {
    testbed::wire()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC).listen(&to).validate(251).start_bound()?;
    let sender = Sender::to(&to).bytes("128M").start()?;
    for _ in 0..2 {
        let before = received()?;
        until("more payload", Duration::from_secs(30), || {
            Ok(received()? > before + 1000)
        })?;
        // Not by commands, which take so long on a busy machine that the transfer may end.
        set_link_down(None, NIC)?;
        set_link_up(None, NIC)?;
        ensure!(bound_queues()? == 1, "the binding went with the link");
    }
    sender.end_within(Duration::from_secs(60))?.good("send")?;
    let summary = summary(receiver)?;
    ensure!(summary.bytes == 128 * MIB, "bytes");
    summary.all_in_dmabuf()
}

case!(moves_between_namespaces);
/// Moves the NIC to another namespace and back while a queue is bound through a lease. Binding and
/// lease must stay usable.
fn moves_between_namespaces() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!("lease --phys {NIC} --queue {LAST} --netkit nk0 --netns {BOX}");
    sh(&format!("{} {line}", devmem_tcp().display()))?;
    testbed::route_to_container()?;
    let recv = Recv::on("nk0").netns(BOX);
    let listen = format!("{}:5000", testbed::BOX_ADDRESS);
    let receiver = recv.clone().listen(listen).start_bound()?;
    for _ in 0..3 {
        sh(&format!("ip link set {NIC} netns {PEER}"))?;
        sh(&format!("ip -n {PEER} link set {NIC} netns 1"))?;
        sh(&format!("ip link set {NIC} up"))?;
        ensure!(bound_queues()? == 1, "the binding went with the namespace");
    }
    receiver.signal(Signal::SIGTERM)?;
    println_line(&receiver.end_within(Duration::from_secs(5))?.refused(1)?);
    sh(&format!("ip address add {NIC_ADDRESS}/24 dev {NIC}"))?;
    // A device in another namespace has other settings.
    testbed::forward(&[NIC])?;
    let to = format!("{}:5001", testbed::BOX_ADDRESS);
    validated(recv, to, 4 * MIB)?.all_in_dmabuf()
}

case!(removed_while_receiving);
/// Unloads the NIC's module in mid-stream. The receiver must end, and a reloaded NIC must work.
fn removed_while_receiving() -> Result<()> {
    for round in 0..3 {
        testbed::wire()?;
        let to = format!("{NIC_ADDRESS}:5000");
        let receiver = Recv::on(NIC).listen(&to).start_bound()?;
        let sender = Sender::to(&to).bytes("1G").start()?;
        until("payload", Duration::from_secs(20), || Ok(received()? > 500))?;
        sh("rmmod swnic")?;
        ensure!(
            !Path::new("/sys/class/net").join(NIC).exists(),
            "round {round}: {NIC} is still there"
        );
        println_line(&receiver.end_within(Duration::from_secs(2))?.refused(3)?);
        sender.kill()?;
        testbed::clear()?;
    }
    testbed::wire()?;
    let to = format!("{NIC_ADDRESS}:5000");
    validated(Recv::on(NIC), &to, 4 * MIB)?.all_in_dmabuf()
}

case!(xdp_refused_while_bound);
fn xdp_refused_while_bound() -> Result<()> {
    testbed::wire()?;
    let receiver = Recv::on(NIC).listen(testbed::at(5000)).start_bound()?;
    for attach in [xdp::attach, xdp::attach_native] {
        match attach(ifindex(NIC)?.get()) {
            Ok(_) => bail!("attached to a NIC with a memory provider"),
            Err(error) => {
                println_line(&format!("{error:#}"));
                ensure!(format!("{error:#}").contains("busy"), "not refused as busy");
            }
        }
    }
    receiver.stop()?;
    drop(xdp::attach_native(ifindex(NIC)?.get())?);
    Ok(())
}
