//! Receiving on a queue of the NIC itself.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use framework::command_line::{Recv, Sender};
use framework::driver::Driver;
use framework::memory;
use framework::receiver::{bound_queues, received, wait_until_unbound};
use framework::summary::Summary;
use framework::sysctl;
use framework::testbed::{self, NIC, NIC_ADDRESS, NIC_ADDRESS6};
use framework::tool::{sh, until};
use framework::transfer::{nic_settings, summary, validated};
use framework::{Skip, println_line};

const MIB: u64 = 1 << 20;

case!(direct, on and_passed);
fn direct() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let summary = validated(Recv::on(NIC), testbed::at(5000), 32 * MIB)?;
    summary.all_in_dmabuf()?;
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    ensure!(bound_queues()? == 0, "the binding is still there");
    Ok(())
}

case!(direct_ipv6, on and_passed);
fn direct_ipv6() -> Result<()> {
    testbed::wire()?;
    let to = format!("[{NIC_ADDRESS6}]:5000");
    validated(Recv::on(NIC).queue(1), &to, 4 * MIB)?.all_in_dmabuf()
}

case!(not_a_multiple_of_the_page, on and_passed);
fn not_a_multiple_of_the_page() -> Result<()> {
    testbed::wire()?;
    for (turn, bytes) in [1, 1447, 4095, 4097, 65_537, MIB - 1]
        .into_iter()
        .enumerate()
    {
        let to = format!("{NIC_ADDRESS}:{}", 5000 + turn);
        validated(Recv::on(NIC).size("4M"), to, bytes)?.all_in_dmabuf()?;
    }
    Ok(())
}

/// Receives 4 MiB, where every fifth packet keeps its first `bytes` payload bytes beside the
/// headers; 0 keeps all of them.
fn receive_unsplit(bytes: u64) -> Result<Summary> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 5)?;
    testbed::parameter("unsplit_bytes", bytes)?;
    let to = format!("{NIC_ADDRESS}:5000");
    validated(Recv::on(NIC), &to, 4 * MIB)
}

case!(linear_bytes_in_stream_order, on and_passed);
fn linear_bytes_in_stream_order() -> Result<()> {
    let summary = receive_unsplit(100)?;
    let linear = summary.linear_bytes;
    let frags = summary.frag_bytes;
    // Packets that have no more than that are ordinary ones; the last may be such.
    let whole = summary.unsteered_bytes;
    ensure!(linear > 0, "no linear bytes");
    ensure!(
        frags + linear + whole == 4 * MIB && whole < 1000,
        "linear {linear}, in the dmabuf {frags}, ordinary {whole}"
    );
    Ok(())
}

case!(wholly_linear_packets_in_stream_order, on and_passed);
/// Receives packets that the NIC did not split at all. They must count as ordinary data, although
/// they came from the bound queue, and be in stream order.
fn wholly_linear_packets_in_stream_order() -> Result<()> {
    let summary = receive_unsplit(0)?;
    let whole = summary.unsteered_bytes;
    let frags = summary.frag_bytes;
    ensure!(
        whole > 0 && frags > 0,
        "ordinary {whole}, in the dmabuf {frags}"
    );
    ensure!(
        frags + whole == 4 * MIB,
        "ordinary {whole}, in the dmabuf {frags}"
    );
    Ok(())
}

case!(unsteered, on and_passed);
/// Receives a flow that no rule steers to the bound queue. All bytes must be ordinary data, and be
/// refused with `--refuse-unsteered`.
fn unsteered() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    sh(&format!("ethtool -X {NIC} equal {}", testbed::QUEUES - 1))?;
    let recv = Recv::on(NIC).queue(testbed::QUEUES - 1).no_config();
    let summary = validated(recv.clone(), testbed::at(5000), 4 * MIB)?;
    ensure!(
        summary.unsteered_bytes == 4 * MIB,
        "not all of it was unsteered"
    );
    ensure!(summary.frags == 0, "frags");

    let receiver = recv.refuse_unsteered().listen(testbed::at(5001)).start()?;
    // The receiver resets the connection: whether the sender sees it depends on the moment.
    let sent = Sender::to(testbed::at(5001)).bytes("1M").run();
    println_line(&format!("sender: {sent:?}"));
    let complaint = receiver.end_within(Duration::from_secs(20))?.refused(1)?;
    println_line(&complaint);
    ensure!(
        complaint.contains("steer"),
        "the complaint names no steering"
    );
    Ok(())
}

case!(two_queues_one_dmabuf, on and_passed);
fn two_queues_one_dmabuf() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    // Without contexts a flow goes to one queue: it takes a second one.
    let ports: &[u16] = match Driver::imitated().contexts() {
        0 => &[5000, 5001],
        _ => &[5000],
    };
    let to: Vec<String> = ports.iter().map(|port| testbed::at(*port)).collect();
    let recv = Recv::on(NIC).queue(2).queue(3).connections(4).validate(251);
    let receiver = to.iter().fold(recv, Recv::listen).start()?;
    for to in to.iter().cycle().take(4) {
        Sender::to(to).bytes("2M").run()?;
    }
    let summary = summary(receiver)?;
    ensure!(summary.bytes == 8 * MIB, "bytes");
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    summary.all_in_dmabuf()
}

case!(payload_to_a_file, on and_passed);
fn payload_to_a_file() -> Result<()> {
    testbed::wire()?;
    let (input, output) = ("/tmp/input", "/tmp/output");
    let payload: Vec<u8> = (0..3 * MIB + 17).map(|i| (i * i % 253) as u8).collect();
    fs::write(input, &payload)?;
    let receiver = Recv::on(NIC)
        .listen(testbed::at(5000))
        .output(output)
        .start()?;
    Sender::to(testbed::at(5000)).input(input).run()?;
    summary(receiver)?.all_in_dmabuf()?;
    ensure!(
        fs::read(output)? == payload,
        "the file is not what was sent"
    );
    Ok(())
}

case!(wrong_byte_is_named, on and_passed);
fn wrong_byte_is_named() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let mut payload: Vec<u8> = (0..100_000).map(|i| ((i + 1) % 7) as u8).collect();
    for byte in &mut payload {
        if *byte == 0 {
            *byte = b'\n';
        }
    }
    payload[54_321] ^= 0x40;
    fs::write("/tmp/input", &payload)?;
    let receiver = Recv::on(NIC)
        .listen(testbed::at(5000))
        .validate(7)
        .start()?;
    // The receiver ends at the bad byte: whether the sender sees it depends on the moment.
    let sent = Sender::to(testbed::at(5000)).input("/tmp/input").run();
    println_line(&format!("sender: {sent:?}"));
    let complaint = receiver.end_within(Duration::from_secs(20))?.refused(1)?;
    println_line(&complaint);
    ensure!(
        complaint.contains("54321"),
        "the complaint does not name byte 54321"
    );
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(killed_receiver_leaves_no_binding, on and_passed);
fn killed_receiver_leaves_no_binding() -> Result<()> {
    testbed::wire()?;
    let receiver = Recv::on(NIC).listen(testbed::at(5000)).start_bound()?;
    receiver.kill()?;
    wait_until_unbound()?;
    // The queue serves the next one.
    let to = format!("{NIC_ADDRESS}:5001");
    validated(Recv::on(NIC), &to, MIB)?.all_in_dmabuf()
}

case!(interrupted_receiver_restores_the_nic, on and_passed);
fn interrupted_receiver_restores_the_nic() -> Result<()> {
    testbed::wire()?;
    for (turn, signal) in [Signal::SIGINT, Signal::SIGTERM].into_iter().enumerate() {
        let before = nic_settings(NIC)?;
        let to = format!("{NIC_ADDRESS}:{}", 5000 + turn);
        let receiver = Recv::on(NIC).listen(&to).start_bound()?;
        ensure!(
            nic_settings(NIC)? != before,
            "the receiver did not set the NIC up"
        );
        until("a listener", Duration::from_secs(30), || {
            Ok(sh("cat /proc/net/tcp")?.contains(" 0A "))
        })?;
        receiver.signal(signal)?;
        let complaint = receiver.end_within(Duration::from_secs(5))?.refused(1)?;
        println_line(&complaint);
        ensure!(
            complaint.contains("signal"),
            "the complaint names no signal"
        );
        ensure!(
            nic_settings(NIC)? == before,
            "{signal}: the NIC is not as it was before"
        );
    }
    Ok(())
}

case!(stuck_in_a_write_ends_by_a_second_signal);
/// Stops reading the receiver's output, so that it hangs in a write. A second signal must end it,
/// and the guardian restore the NIC.
fn stuck_in_a_write_ends_by_a_second_signal() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let output = "/tmp/stuck";
    sh(&format!("mkfifo {output}"))?;
    let mut reader = fs::File::options().read(true).write(true).open(output)?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC).listen(&to).output(output).start()?;
    let sender = Sender::to(&to).bytes("8M").start()?;
    // As far as it goes: a pipe has 64 KiB, which are 46 packets, and an unread window does
    // not grow.
    until("payload", Duration::from_secs(20), || Ok(received()? > 60))?;
    thread::sleep(Duration::from_secs(1));
    receiver.signal(Signal::SIGTERM)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(bound_queues()? == 1, "it was not stuck");
    receiver.signal(Signal::SIGTERM)?;
    receiver.end_within(Duration::from_secs(5))?.refused(143)?;
    until("the NIC as it was", Duration::from_secs(30), || {
        Ok(bound_queues()? == 0 && nic_settings(NIC)? == before)
    })?;
    sender.kill()?;
    let mut first = [0; 6];
    reader.read_exact(&mut first)?;
    ensure!(
        first == [1, 2, 3, 4, 5, 6],
        "the output begins with {first:?}"
    );
    Ok(())
}

case!(rx_page_size, on and_passed);
/// Receives with `--rx-page-size 64K`. There must be less than a quarter of the frags of 4 KiB
/// niovs.
fn rx_page_size() -> Result<()> {
    if testbed::kernel()? < (7, 3) {
        return Err(Skip("rx-page-size is of Linux 7.3".into()).into());
    }
    let pages = memory::pages_of_64_kib()?;
    let _reserved = sysctl::set("vm.nr_hugepages", "64")?;
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} rx-gro-hw on"))?;
    let recv = Recv::on(NIC).options(pages);
    let frags = |recv: Recv, port: u16| -> Result<u64> {
        let summary = validated(recv, testbed::at(port), 16 * MIB)?;
        summary.all_in_dmabuf()?;
        Ok(summary.frags)
    };
    let small = frags(recv.clone(), 5000)?;
    let large = frags(recv.rx_page_size("64K"), 5001)?;
    println_line(&format!(
        "frags a MiB: {} of 4 KiB, {} of 64 KiB",
        small / 16,
        large / 16
    ));
    ensure!(
        large * 4 < small,
        "{small} frags of 4 KiB, {large} of 64 KiB"
    );
    Ok(())
}
