//! Results of the payload sinks, with every kind of memory and page.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devmem::DmabufId;
use devmem::engine::{Config, Connection, ConnectionError, End, Engine, Report, Until};
use devmem::listen::{SocketOptions, listen};
use devmem::sink::{Gather, Memory, SinkError};
use dmabuf::{Dmabuf, Protection};
use netdev::ethtool::{Action, FlowRule};
use netdev::queues::BindOptions;
use netdev::{NetNs, Netdev, QueueId};
use nic::Plan;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use udmabuf::{HugePage, Udmabuf};

use framework::command_line::{Recv, Sender};
use framework::far_end::connect;
use framework::memory;
use framework::summary::Summary;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, sh};
use framework::transfer::{devmem_tcp, summary, validated};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;
const QUEUE: QueueId = QueueId::new(testbed::QUEUES - 1);

/// Writes a file of pseudo-random bytes, so that no part can be mistaken for another. Returns its
/// path.
pub(crate) fn write_random_file(name: &str, len: usize, seed: u32) -> Result<String> {
    let mut state = seed;
    let bytes = (0..len).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let path = format!("/tmp/{name}");
    fs::write(&path, bytes.collect::<Vec<_>>()).with_context(|| path.clone())?;
    Ok(path)
}

case!(checksum_of_each_peer, on and_passed);
/// Checksums the streams of two peers, with a part of every fifth packet beside the dmabuf. Both
/// must equal those of Python's zlib.
fn checksum_of_each_peer() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 5)?;
    testbed::parameter("unsplit_bytes", 100)?;
    let files = [
        write_random_file("one", 3_000_001, 1)?,
        write_random_file("other", 1_234_567, 2)?,
    ];
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC)
        .listen(&to)
        .checksum()
        .connections(2)
        .start()?;
    for path in &files {
        Sender::to(&to).input(path).run()?;
    }
    let summary = summary(receiver)?;
    summary.tokens_came_back()?;
    ensure!(summary.linear_bytes > 0, "nothing came beside the dmabuf");
    for path in &files {
        let len = fs::metadata(path)?.len();
        let ours = crc32_of_peer(&summary, len)?;
        let python = zlib_crc32(path)?;
        println_line(&format!("{path}: {ours:08x}, zlib {python:08x}"));
        ensure!(ours == python, "{path}: {ours:08x}, not {python:08x}");
    }
    Ok(())
}

case!(checksum_of_a_peer_that_fails);
/// Resets a connection in mid-stream. The checksum must cover the bytes that the sink got, and say
/// how many those are.
fn checksum_of_a_peer_that_fails() -> Result<()> {
    testbed::wire()?;
    for (port, json) in [(5000, "--json"), (5001, "")] {
        let path = write_random_file("reset", 1_000_001, 7)?;
        let bytes = fs::read(&path)?;
        let to = format!("{NIC_ADDRESS}:{port}");
        let line = memory::recv_line(&format!("recv {json} -f {NIC} -l {to} --checksum"))?;
        let receiver = Running::start(command(None, &devmem_tcp(), &line))?;
        let mut peer = connect(to.parse()?)?;
        peer.write_all(&bytes)?;
        thread::sleep(Duration::from_secs(2));
        let abort = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&peer, sockopt::Linger, &abort)?;
        drop(peer);
        let end = receiver.end_within(Duration::from_secs(20))?;
        println_line(end.stdout.trim_end());
        let (printed, _said) = (end.stdout.clone(), end.refused(1)?);
        if json.is_empty() {
            // The claim may go on in another line.
            let (_, claim) = printed.split_once("crc32").context("no sum")?;
            let claim = claim.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(
                claim.contains("of the first ") && claim.contains("not its whole stream"),
                "{claim}"
            );
            continue;
        }
        let summary = Summary::parse(&printed)?;
        let of = summary.first()?.crc32_bytes.context("no checksum")? as usize;
        ensure!(of > 0 && of <= bytes.len(), "{of} bytes");
        fs::write(&path, &bytes[..of])?;
        let (ours, python) = (summary.first()?.crc32()?, zlib_crc32(&path)?);
        ensure!(ours == python, "{ours:08x} of {of} bytes, not {python:08x}");
    }
    Ok(())
}

case!(checksum_of_a_peer_that_is_cut);
/// Ends the receiver by a signal while one of two peers is still connected. The checksum must not
/// be reported as that of a whole stream; that the other peer sent nothing must be reported.
fn checksum_of_a_peer_that_is_cut() -> Result<()> {
    testbed::wire()?;
    for (port, json) in [(5000, "--json"), (5001, "")] {
        let to = format!("{NIC_ADDRESS}:{port}");
        let line = format!("recv {json} -f {NIC} -l {to} --checksum --connections 2");
        let receiver = Running::start(command(None, &devmem_tcp(), &memory::recv_line(&line)?))?;
        drop(connect(to.parse()?)?);
        let mut peer = connect(to.parse()?)?;
        peer.write_all(&[7; 100_000])?;
        thread::sleep(Duration::from_secs(2));
        receiver.signal(Signal::SIGTERM)?;
        let end = receiver.end_within(Duration::from_secs(20))?;
        let (printed, _said) = (end.stdout.clone(), end.refused(1)?);
        println_line(printed.trim_end());
        if json.is_empty() {
            ensure!(printed.contains("of the first 100000 of"), "the sum");
            ensure!(printed.contains("nothing came from 192.0.2."), "the scan");
            continue;
        }
        let summary = Summary::parse(&printed)?;
        for (number, closed, bytes) in [(0, true, 0), (1, false, 100_000)] {
            let peer = summary.connections.get(number).context("a peer")?;
            ensure!((peer.closed, peer.bytes) == (closed, bytes), "{peer:?}");
        }
    }
    Ok(())
}

/// Returns the checksum of the one peer that sent this many bytes.
pub(crate) fn crc32_of_peer(summary: &Summary, bytes: u64) -> Result<u64> {
    let mut peers = summary.connections.iter();
    let peer = peers.find(|peer| peer.bytes == bytes);
    peer.with_context(|| format!("no peer sent {bytes} bytes"))?
        .crc32()
}

/// Computes the CRC-32 of a file with Python's zlib.
pub(crate) fn zlib_crc32(path: &str) -> Result<u64> {
    let script = "/tmp/crc32.py";
    let text = format!("import zlib\nprint(zlib.crc32(open('{path}', 'rb').read()))\n");
    fs::write(script, text)?;
    Ok(sh(&format!("python3 {script}"))?.trim().parse()?)
}

case!(gathered_in_one_piece, on and_passed);
/// Gathers a stream into one region of the right size, then into one that is a byte too small. The
/// first must equal what was sent, the second must fail with all tokens returned.
fn gathered_in_one_piece() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 7)?;
    testbed::parameter("unsplit_bytes", 33)?;
    let path = write_random_file("gathered", 2_500_003, 3)?;
    let sent = fs::read(&path)?;
    let [whole, short] = [sent.len(), sent.len() - 1].map(|capacity| gather(capacity, &path));
    let (whole, short) = (whole?, short?);
    let stats = &whole.connections[0].stats;
    println_line(&format!(
        "{} bytes in frags, {} beside",
        stats.frag_bytes, stats.linear_bytes
    ));
    ensure!(
        stats.frag_bytes > 0 && stats.linear_bytes > 0,
        "not of both kinds"
    );
    ensure!(matches!(whole.connections[0].end, End::Closed), "{whole:?}");
    ensure!(gathered(whole)? == sent, "not what was sent");
    let Connection { end, stats, .. } = &short.connections[0];
    ensure!(stats.tokens.outstanding() == 0, "{stats:?}");
    let End::Failed(ConnectionError::Sink(error @ SinkError::Full { .. })) = end else {
        anyhow::bail!("it ended with {end:?}");
    };
    println_line(&error.to_string());
    ensure!(sent.starts_with(&gathered(short)?), "not the begin of it");
    Ok(())
}

fn gathered(report: Report<Gather>) -> Result<Vec<u8>> {
    let sink = report.connections.into_iter().find_map(|peer| peer.sink);
    Ok(sink.context("no sink")?.into_bytes())
}

/// Receives a file into a region of `capacity` bytes by the sink `Gather`.
fn gather(capacity: usize, path: &str) -> Result<Report<Gather>> {
    let nic = ifindex(NIC)?;
    let address: SocketAddr = format!("{NIC_ADDRESS}:{}", 5000 + capacity % 2).parse()?;
    let buffer = framework::memory::make(16 * MIB)?;
    let applied = Plan::new(NIC, nic)
        .header_split()
        .reserve(&[QUEUE])
        .steer(FlowRule::tcp_to(address, Action::Drop), &[QUEUE])
        .apply(&NetNs::current()?)?;
    let binding = Netdev::open()?.bind_rx(nic, &buffer, &[QUEUE], BindOptions::default())?;
    let mapping = Arc::new(buffer.map(Protection::Read)?);
    let memory = Memory::new().with(DmabufId::new(binding.id().get()), mapping);
    let config = Config {
        until: Until::Peers(1),
        ..Config::for_pool(buffer.len(), 1)
    };
    let listener = listen(address, &SocketOptions::default())?;
    let engine = Engine::new(listener, config, |_: &_| {
        Ok(Gather::with_capacity(capacity, memory.clone()))
    })?;
    let sender = Sender::to(address).input(path);
    // Whether the sender sees that its stream was too long depends on the moment.
    let sender = thread::spawn(move || sender.run());
    let report = engine.run()?;
    let _sent = sender.join();
    drop(binding);
    applied.restore()?;
    Ok(report)
}

case!(pages_are_the_largest_there_are);
/// Builds buffers without choosing a page size. They must have reserved hugepages where enough are
/// free, else transparent ones, and receive in either case.
fn pages_are_the_largest_there_are() -> Result<()> {
    testbed::wire()?;
    let reserve = |pages: u32| fs::write("/proc/sys/vm/nr_hugepages", pages.to_string());
    let made = |len: u64| -> Result<HugePage> { Ok(Udmabuf::builder(len).build()?.hugepages()) };
    reserve(0)?;
    ensure!(made(8 * MIB)? == HugePage::Transparent, "none reserved");
    ensure!(made(8 * MIB + 4096)? == HugePage::Transparent, "and a page");
    ensure!(made(MIB)? == HugePage::None, "less than a hugepage");
    let to = format!("{NIC_ADDRESS}:5000");
    validated(Recv::on(NIC).size("8M"), &to, MIB)?.all_in_dmabuf()?;
    reserve(16)?;
    ensure!(made(8 * MIB)? == HugePage::Mb2, "16 reserved");
    ensure!(made(8 * MIB + 4096)? == HugePage::Transparent, "and a page");
    ensure!(
        made(64 * MIB)? == HugePage::Transparent,
        "more than reserved"
    );
    let to = format!("{NIC_ADDRESS}:5001");
    validated(Recv::on(NIC).size("8M"), &to, MIB)?.all_in_dmabuf()?;
    let plain = Udmabuf::builder(8 * MIB).hugepages(HugePage::None);
    ensure!(plain.build()?.hugepages() == HugePage::None, "as asked");
    Ok(reserve(0)?)
}
