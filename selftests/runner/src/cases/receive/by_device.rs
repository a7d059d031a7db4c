//! Sinks that have a device read the payload, in batches of frags. The device is the CPU here.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::sinks::{write_random_file, zlib_crc32};
use super::wrong_byte::check_refuted;
use framework::command_line::{Recv, Sender};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::transfer::summary;

const LEN: usize = 3_000_001;

/// Loads a NIC that leaves a part of some packets beside the dmabuf, where a batch of frags ends.
fn wire_with_linear_bytes() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 7)?;
    testbed::parameter("unsplit_bytes", 100)
}

case!(summed_up_and_written_out);
/// Checksums and writes the payload by device. The checksum must be that of Python's zlib, the file
/// must equal what was sent.
fn summed_up_and_written_out() -> Result<()> {
    wire_with_linear_bytes()?;
    let (to, path, output) = (
        format!("{NIC_ADDRESS}:5000"),
        write_random_file("sent", LEN, 5)?,
        "/tmp/output",
    );
    let recv = Recv::on(NIC).listen(&to).by_device();
    for sums_up in [true, false] {
        let receiver = match sums_up {
            true => recv.clone().checksum().start()?,
            false => recv.clone().output(output).start()?,
        };
        Sender::to(&to).input(&path).run()?;
        let summary = summary(receiver)?;
        summary.tokens_came_back()?;
        ensure!(summary.linear_bytes > 0, "nothing came beside");
        if sums_up {
            let (ours, python) = (summary.first()?.crc32()?, zlib_crc32(&path)?);
            ensure!(ours == python, "{ours:08x}, not {python:08x}");
        } else {
            ensure!(fs::read(output)? == fs::read(&path)?, "not what was sent");
        }
    }
    Ok(())
}

case!(validated);
/// Validates a right stream by device, then one with two wrong bytes. The error must name the first
/// wrong byte.
fn validated() -> Result<()> {
    wire_with_linear_bytes()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let recv = Recv::on(NIC).listen(&to).by_device().validate(7);
    let mut payload: Vec<u8> = (1..=LEN).map(|i| (i % 7) as u8).collect();
    for byte in payload.iter_mut().filter(|byte| **byte == 0) {
        *byte = b'\n';
    }
    fs::write("/tmp/input", &payload)?;
    let receiver = recv.start()?;
    Sender::to(&to).input("/tmp/input").run()?;
    let summary = summary(receiver)?;
    summary.tokens_came_back()?;
    ensure!(summary.bytes == LEN as u64, "not all of it");
    let right = summary.validated()?;
    ensure!(right == LEN as u64, "{right} bytes were validated");
    payload[1_234_567] ^= 0x40;
    payload[2_345_678] ^= 0x40;
    fs::write("/tmp/input", &payload)?;
    let receiver = recv.start()?;
    // The receiver ends at the bad byte: whether the sender sees it depends on the moment.
    let _sent = Sender::to(&to).input("/tmp/input").run();
    check_refuted(receiver.end_within(Duration::from_secs(20))?, 1_234_567).map(drop)
}
