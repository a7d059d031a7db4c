//! Receiving into a GPU's memory, tested without a GPU: a fake CUDA driver uses host memory, and
//! runs the kernels that read the payload on the CPU.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::sinks::{crc32_of_peer, write_random_file, zlib_crc32};
use framework::command_line::Sender;
use framework::nic_state;
use framework::peers::{ObservedReceiver, summary};
use framework::println_line;
use framework::summary::Summary;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{command, ours};

const MIB: u64 = 1 << 20;

/// Starts a `devmem-tcp recv` that loads the fake CUDA driver, with injected faults, without
/// reloading the NIC.
fn start_recv_here(faults: &str, line: &str) -> Result<ObservedReceiver> {
    let fake = ours("../fake");
    let fake = fake.display();
    let line = format!(
        "LD_LIBRARY_PATH={fake} {faults} {fake}/devmem-tcp recv --json -f {NIC} \
         -l {NIC_ADDRESS}:5000 --size 4M {line}"
    );
    ObservedReceiver::start_here(command(None, Path::new("/usr/bin/env"), &line))
}

/// Starts `recv --memory cuda` on a freshly loaded NIC that leaves a part of some packets beside
/// the dmabuf.
fn start_recv(line: &str) -> Result<ObservedReceiver> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 5)?;
    testbed::parameter("unsplit_bytes", 100)?;
    start_recv_here("", &format!("--memory cuda {line}"))
}

case!(validated);
/// Validates the pattern on the device, first with all payload in the dmabuf, then with some beside
/// it.
fn validated() -> Result<()> {
    for beside in [false, true] {
        testbed::wire()?;
        testbed::parameter("unsplit_every", if beside { 5 } else { 0 })?;
        testbed::parameter("unsplit_bytes", 100)?;
        let receiver = start_recv_here("", "--memory cuda:0 --validate 251")?;
        Sender::to(testbed::at(5000))
            .pattern(251)
            .bytes("4M")
            .run()?;
        let (summary, _) = summary(receiver, 0)?;
        ensure!(summary.bytes == 4 * MIB, "bytes");
        summary.all_validated()?;
        summary.tokens_came_back()?;
        match beside {
            false => summary.all_in_dmabuf()?,
            true => ensure!(summary.linear_bytes > 0, "nothing beside"),
        }
        testbed::clear()?;
    }
    Ok(())
}

case!(checksum_of_each_peer);
/// Checksums the streams of two peers on the device. Both must equal those of Python's zlib.
fn checksum_of_each_peer() -> Result<()> {
    let files = [
        write_random_file("one", 1_000_001, 1)?,
        write_random_file("other", 234_567, 2)?,
    ];
    let receiver = start_recv("--checksum --connections 2")?;
    for path in &files {
        Sender::to(testbed::at(5000)).input(path).run()?;
    }
    let (summary, _) = summary(receiver, 0)?;
    summary.tokens_came_back()?;
    for path in &files {
        let (ours, python) = (
            crc32_of_peer(&summary, fs::metadata(path)?.len())?,
            zlib_crc32(path)?,
        );
        ensure!(ours == python, "{path}: {ours:08x}, not {python:08x}");
    }
    Ok(())
}

case!(payload_to_a_file);
/// Writes the payload to a file out of the device's memory. The file must equal what was sent.
fn payload_to_a_file() -> Result<()> {
    let sent = write_random_file("sent", 1_000_003, 3)?;
    let receiver = start_recv("--output /tmp/received")?;
    Sender::to(testbed::at(5000)).input(&sent).run()?;
    let (summary, _) = summary(receiver, 0)?;
    summary.tokens_came_back()?;
    ensure!(fs::read("/tmp/received")? == fs::read(sent)?, "other bytes");
    Ok(())
}

case!(wrong_byte_is_named);
/// Validates a stream with one wrong byte on the device. The error must name the byte's offset.
fn wrong_byte_is_named() -> Result<()> {
    let sent = write_random_file("wrong", 100_000, 4)?;
    let mut payload: Vec<u8> = (0..100_000u32).map(|at| (at % 7 + 1) as u8).collect();
    for byte in &mut payload {
        if *byte == 7 {
            *byte = b'\n';
        }
    }
    payload[54_321] ^= 0x40;
    fs::write(&sent, payload)?;
    let receiver = start_recv("--validate 7")?;
    // The receiver ends at the bad byte: whether the sender sees it depends on the moment.
    println_line(&format!(
        "{:?}",
        Sender::to(testbed::at(5000)).input(&sent).run()
    ));
    let (printed, said) = receiver.end(1)?;
    println_line(said.trim_end());
    ensure!(said.contains("54321"), "byte 54321 is not named");
    let summary = Summary::parse(&printed)?;
    let right = summary.validated()?;
    ensure!(right == 54_321, "{right} bytes are said to be right");
    ensure!(summary.bytes > right, "{summary}");
    Ok(())
}

case!(device_is_lost_midway);
/// Lets the device fail for good after some work. The receiver must report the device's error once,
/// not hang, and restore the NIC.
fn device_is_lost_midway() -> Result<()> {
    testbed::wire()?;
    for (work, launch) in [("--validate 251", 3), ("--checksum", 5), ("-o /tmp/out", 2)] {
        // CUDA_ERROR_LAUNCH_FAILED
        let fault = format!("FAKECUDA_FAIL=cuLaunchKernel:{launch}:719");
        let receiver = start_recv_here(&fault, &format!("--memory cuda {work}"))?;
        let sent = Sender::to(testbed::at(5000)).pattern(251).bytes("4M").run();
        println_line(&format!("{work}: sender: {sent:?}"));
        let (_, said) = receiver.end(1)?;
        println_line(said.trim_end());
        ensure!(said.contains("LAUNCH_FAILED"), "{work}: not what happened");
    }
    Ok(())
}

case!(refusals_say_what_is_missing);
/// Takes away the library, the GPU, its dmabufs or its memory. `recv` must say which is missing
/// before it touches the NIC.
fn refusals_say_what_is_missing() -> Result<()> {
    testbed::wire()?;
    for (faults, line, words) in [
        ("LD_LIBRARY_PATH=/nowhere", "cuda", "libcuda.so.1"),
        ("FAKECUDA_DEVICES=0", "cuda", "GPU"),
        ("", "cuda:7", "7"),
        ("FAKECUDA_DMABUF=0", "cuda", "dmabuf"),
        ("", "cuda:0:pcie", "leave out :pcie"),
        ("FAKECUDA_FAIL=cuMemAlloc:1:2", "cuda", "OUT_OF_MEMORY"),
    ] {
        let receiver = start_recv_here(faults, &format!("--memory {line}"))?;
        let (_, said) = receiver.end(1)?;
        println_line(&format!("{faults} {line}:\n{}", said.trim_end()));
        ensure!(said.contains(words), "{words:?} is not in {said:?}");
        nic_state::check_untouched()?;
    }
    Ok(())
}
