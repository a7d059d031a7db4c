//! Tensors received over several connections into one region of a device, by the example `collective`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use framework::peers::{LAST, ObservedReceiver, address, close, joined, peers};
use framework::println_line;
use framework::testbed::{self, NIC};
use framework::tool::{command, ours, sh};

/// Bytes of memory that the NIC receives into.
const MEMORY: u64 = 32 << 20;
const TENSORS: u32 = 12;
/// Bytes of a tensor: not a multiple of anything.
const BYTES: usize = 1_000_003;
const CONNECTIONS: u16 = 4;
const SLOTS: u32 = 3;

/// Loads a NIC that leaves a part of some packets beside the dmabuf, and returns the example's
/// command line.
fn wire_and_arguments(connections: u16, tensors: u32) -> Result<String> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 7)?;
    testbed::parameter("unsplit_bytes", 33)?;
    Ok(format!(
        "{NIC} {LAST} {} --tensors {tensors} --bytes {BYTES} --connections {connections} --slots {SLOTS}",
        address()?
    ))
}

fn start_example(connections: u16, tensors: u32) -> Result<ObservedReceiver> {
    let line = wire_and_arguments(connections, tensors)?;
    let line = format!("{line} {}", framework::memory::option(MEMORY)?);
    ObservedReceiver::start_here(command(None, &ours("collective"), &line))
}

/// Starts the example on the memory of a GPU, which the fake CUDA driver plays.
fn start_on_gpu(faults: &str) -> Result<ObservedReceiver> {
    let fake = ours("../fake").canonicalize()?;
    let fake = fake.display();
    let line = wire_and_arguments(CONNECTIONS, TENSORS)?;
    let line = format!("LD_LIBRARY_PATH={fake} {faults} {fake}/collective {line} --memory cuda");
    ObservedReceiver::start_here(command(None, Path::new("/usr/bin/env"), &line))
}

fn part_header(tensor: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut header = b"part".to_vec();
    header.extend(tensor.to_le_bytes());
    header.extend(offset.to_le_bytes());
    header.extend(len.to_le_bytes());
    header
}

/// Returns one peer's data: for each tensor its share, split into parts that grow from one byte on.
fn parts_of_peer(tensors: &[u8], share: usize) -> Vec<Vec<u8>> {
    let per = BYTES / usize::from(CONNECTIONS);
    let begin = share * per;
    let end = match share + 1 == usize::from(CONNECTIONS) {
        true => BYTES,
        false => begin + per,
    };
    let of_tensor = |(number, tensor): (usize, &[u8])| {
        let (mut sent, mut at, mut len) = (Vec::new(), begin, 1);
        while at < end {
            let now = len.min(end - at);
            sent.extend(part_header(number as u32, at as u64, now as u64));
            sent.extend(&tensor[at..at + now]);
            (at, len) = (at + now, len * 5);
        }
        sent
    };
    tensors.chunks(BYTES).enumerate().map(of_tensor).collect()
}

/// Sends a peer's data in a thread. A `late` peer pauses before the fourth tensor, so that the
/// others get ahead by more tensors than there are slots.
fn send(mut stream: TcpStream, parts: Vec<Vec<u8>>, late: bool) -> JoinHandle<Result<()>> {
    thread::spawn(move || {
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        for (number, part) in parts.iter().enumerate() {
            if late && number == 3 {
                thread::sleep(Duration::from_millis(500));
            }
            stream.write_all(part)?;
        }
        close(stream)
    })
}

/// Sends all tensors from all peers. The inner result says whether everything was accepted.
fn send_all(tensors: &[u8]) -> Result<Result<()>> {
    let senders = peers(CONNECTIONS)?.into_iter().enumerate();
    let senders = senders.map(|(share, stream)| {
        let late = share + 1 == usize::from(CONNECTIONS);
        send(stream, parts_of_peer(tensors, share), late)
    });
    let senders: Vec<_> = senders.collect();
    Ok(senders.into_iter().try_for_each(joined))
}

fn random_tensors() -> Result<Vec<u8>> {
    let mut tensors = vec![0; BYTES * TENSORS as usize];
    File::open("/dev/urandom")?.read_exact(&mut tensors)?;
    Ok(tensors)
}

case!(tensors_over_connections, on any_memory);
/// Receives tensors over several connections. Each checksum must be right, gathers must overlap
/// with receiving, and every token must come back from the gathering thread.
fn tensors_over_connections() -> Result<()> {
    let tensors = random_tensors()?;
    let receiver = start_example(CONNECTIONS, TENSORS)?;
    let sent = send_all(&tensors)?;
    let (_, said) = receiver.end(0)?;
    sent?;
    check_output(&tensors, &said)
}

case!(tensors_in_a_gpus_memory);
/// Receives tensors into a GPU's memory, which the CPU cannot map, and gathers them there. Each
/// checksum must be right.
fn tensors_in_a_gpus_memory() -> Result<()> {
    let tensors = random_tensors()?;
    let receiver = start_on_gpu("")?;
    let sent = send_all(&tensors)?;
    let (_, said) = receiver.end(0)?;
    sent?;
    check_output(&tensors, &said)
}

case!(gpu_is_lost_midway);
/// Loses the GPU in mid-stream. The receiver must end, name the GPU's error, and restore the NIC.
fn gpu_is_lost_midway() -> Result<()> {
    // CUDA_ERROR_ILLEGAL_ADDRESS, at a gather somewhere in the middle.
    let receiver = start_on_gpu("FAKECUDA_FAIL=cuLaunchKernel:40:700")?;
    // Whether the peers see it depends on the moment.
    let _sent = send_all(&random_tensors()?)?;
    let (_, said) = receiver.end(1)?;
    println_line(said.trim_end());
    ensure!(said.contains("ILLEGAL_ADDRESS"), "not what it was");
    Ok(())
}

/// Checks the example's output: the checksum and slot of each tensor, and that frags were cut,
/// gathered during receiving and given back.
fn check_output(tensors: &[u8], said: &str) -> Result<()> {
    println_line(said.trim_end());
    let mut told: Vec<&str> = said.lines().collect();
    let last = told.pop().context("it said nothing")?;
    let expected = zlib_sums(tensors)?;
    let expected = expected.iter().enumerate().map(|(tensor, sum)| {
        let slot = tensor as u32 % SLOTS;
        format!("tensor {tensor}: {BYTES} bytes, crc32 {sum}, slot {slot}")
    });
    ensure!(told == expected.collect::<Vec<_>>(), "not what was sent");
    let numbers: Vec<u64> = last
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [bytes, pieces, _, meanwhile, received, back, frags] = numbers[..] else {
        anyhow::bail!("{last:?}");
    };
    ensure!(
        bytes < tensors.len() as u64,
        "nothing came beside the dmabuf"
    );
    ensure!(pieces > frags && frags > 0, "no frag was cut");
    ensure!(
        meanwhile > 0 && meanwhile <= received,
        "nothing was received meanwhile"
    );
    ensure!(back == frags, "not all frags went back from there");
    Ok(())
}

/// Computes the CRC-32 of each tensor with Python's zlib.
fn zlib_sums(tensors: &[u8]) -> Result<Vec<String>> {
    fs::write("/tmp/tensors", tensors)?;
    let script = format!(
        "import zlib\n\
         whole = open('/tmp/tensors', 'rb').read()\n\
         for at in range(0, len(whole), {BYTES}):\n    \
             print('%08x' % zlib.crc32(whole[at:at + {BYTES}]))\n"
    );
    fs::write("/tmp/sums.py", script)?;
    let sums = sh("python3 /tmp/sums.py")?;
    fs::remove_file("/tmp/tensors")?;
    Ok(sums.lines().map(str::to_owned).collect())
}

case!(headers_are_not_believed);
/// Sends headers with impossible contents. Each connection must be refused with its reason, and the
/// missing bytes of each tensor reported.
fn headers_are_not_believed() -> Result<()> {
    let len = BYTES as u64;
    let mut nonsense = part_header(0, 0, 1);
    nonsense[0] = 0;
    let mut twice = part_header(1, 100, 10);
    twice.extend([7; 10]);
    twice.extend(part_header(1, 109, 1));
    let mut short = part_header(1, 0, 100);
    short.extend([7; 60]);
    let bad: [(Vec<u8>, &str); 7] = [
        (nonsense, "not a header"),
        (part_header(2, 0, 1), "there is no such tensor"),
        (part_header(0, len, 1), "it leaves the tensor"),
        (part_header(0, 1, u64::MAX), "it leaves the tensor"),
        (twice, "bytes of it were announced before"),
        (
            short,
            "it ended 40 bytes before the end of a part of tensor 1",
        ),
        (
            part_header(0, 0, 1)[..5].to_vec(),
            "it ended within a header",
        ),
    ];
    let receiver = start_example(bad.len() as u16, 2)?;
    let streams = peers(bad.len() as u16)?;
    for (mut stream, (said, _)) in streams.into_iter().zip(&bad) {
        stream.write_all(said)?;
    }
    let (_, said) = receiver.end(1)?;
    println_line(said.trim_end());
    for (number, (_, why)) in bad.iter().enumerate() {
        let mut complaints = said.split([';', '\n']);
        let connection = format!("connection {number}: ");
        let found = complaints.find(|complaint| complaint.contains(&connection));
        let found = found.with_context(|| format!("nothing of connection {number}"))?;
        ensure!(found.contains(why), "{found:?}, not {why:?}");
    }
    ensure!(said.contains("tensor 0: 0 bytes came"), "tensor 0");
    ensure!(said.contains("tensor 1: 70 bytes came"), "tensor 1");
    Ok(())
}
