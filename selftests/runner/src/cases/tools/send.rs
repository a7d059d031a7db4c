//! Sending from a dmabuf: the payload that arrives, and who may use the memory meanwhile.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devmem::DmabufId;
use devmem::listen::{SocketOptions, connect};
use devmem::pattern::Pattern;
use devmem::send::{DevmemSender, PumpConfig, SendError, Until, pump};
use dmabuf::{Dmabuf, Mapping, Protection};
use netdev::queues::Binding;
use netdev::{NetNs, Netdev};
use udmabuf::Udmabuf;

use framework::command_line::Recv;
use framework::peers::tcp_counters;
use framework::summary::{Sent, parse};
use framework::sysctl;
use framework::testbed::{
    self, BOX, BOX_ADDRESS, GUEST, NIC, NIC_ADDRESS, PEER, SENDER, SENDER_ADDRESS,
};
use framework::tool::{command, finish, ours, sh};
use framework::transfer::{devmem_tcp, summary};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;
/// Time limit for an event of the testbed.
const SOON: Duration = Duration::from_secs(20);

/// Runs `devmem-tcp send --dmabuf` and returns its counters.
fn send_from_dmabuf(netns: Option<&str>, line: &str) -> Result<Sent> {
    let line = format!("send --json --wait 20 --dmabuf=4M {line}");
    let text = finish(command(netns, &devmem_tcp(), &line))?.good(&line)?;
    println_line(text.trim_end());
    parse(&text)
}

/// Checks that every send was completed and none was copied.
fn check_all_completed(sent: &Sent) -> Result<()> {
    let dmabuf = sent.dmabuf()?;
    ensure!(dmabuf.sends == dmabuf.completed, "not all completed");
    ensure!(dmabuf.copied == 0, "bytes were copied");
    Ok(())
}

case!(dmabuf_to_dmabuf);
/// Sends from dmabuf to dmabuf, then over a wire that loses packets. All must arrive, with
/// retransmissions out of the dmabuf.
fn dmabuf_to_dmabuf() -> Result<()> {
    testbed::wire()?;
    let far = NetNs::by_name(PEER)?;
    let resent = || -> Result<u64> {
        let counters = tcp_counters(&far)?;
        counters.get("RetransSegs").copied().context("RetransSegs")
    };
    for (port, loss) in [(5000, false), (5001, true)] {
        if loss {
            // Of some 700 long packets.
            sh(&format!(
                "ip netns exec {PEER} tc qdisc add dev {SENDER} root netem loss 3%"
            ))?;
        }
        let before = resent()?;
        let to = format!("{NIC_ADDRESS}:{port}");
        let receiver = Recv::on(NIC).validate(251).listen(&to).start()?;
        let sent = send_from_dmabuf(Some(PEER), &format!("{to} --dev {SENDER} --bytes 32M"))?;
        let received = summary(receiver)?;
        received.all_in_dmabuf()?;
        ensure!(received.bytes == 32 * MIB, "not all arrived");
        check_all_completed(&sent)?;
        ensure!(sent.dmabuf()?.max_in_flight > 1, "one send, one wait");
        let resent = resent()? - before;
        println_line(&format!("{resent} segments were sent again"));
        ensure!(!loss || resent > 0, "nothing was lost, nothing sent again");
    }
    Ok(())
}

case!(through_a_lease);
/// Sends from a container, through the netkit that leases a queue of the NIC, to ordinary TCP. All
/// must arrive.
fn through_a_lease() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!("lease --phys {NIC} --netkit {GUEST} --netns {BOX} --queue 3");
    finish(command(None, &devmem_tcp(), &line))?.good("lease")?;
    testbed::route_to_container()?;
    let to: SocketAddr = format!("{SENDER_ADDRESS}:5000").parse()?;
    let receiver = plain_receiver(to)?;
    let line = format!("{to} --netns {BOX} --dev {GUEST} --from {BOX_ADDRESS}:0 --bytes 8M");
    check_all_completed(&send_from_dmabuf(None, &line)?)?;
    let received = receiver.join().ok().context("receiver")??;
    ensure!(received == pattern(8 * MIB), "other bytes arrived");
    Ok(())
}

case!(a_file_of_odd_length);
/// Sends a file of odd length over IPv6, larger than the dmabuf. All must arrive.
fn a_file_of_odd_length() -> Result<()> {
    testbed::wire()?;
    let content = pattern(9 * MIB + 4097);
    fs::write("/tmp/content", &content)?;
    let to: SocketAddr = "[2001:db8:2::1]:5000".parse()?;
    let receiver = plain_receiver(to)?;
    let sent = send_from_dmabuf(None, &format!("{to} --dev {NIC} --input /tmp/content"))?;
    check_all_completed(&sent)?;
    ensure!(sent.bytes == content.len() as u64, "not all was sent");
    let received = receiver.join().ok().context("receiver")??;
    ensure!(received == content, "other bytes arrived");
    Ok(())
}

/// Starts a receiver of ordinary TCP in the peer's namespace, which reads to the end.
fn plain_receiver(address: SocketAddr) -> Result<thread::JoinHandle<Result<Vec<u8>>>> {
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))??;
    Ok(thread::spawn(move || {
        let mut content = Vec::new();
        listener.accept()?.0.read_to_end(&mut content)?;
        Ok(content)
    }))
}

fn pattern(bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    if let Ok(pattern) = Pattern::new(251) {
        pattern.fill(0, &mut content);
    }
    content
}

/// A dmabuf bound to the NIC for sending, a sender on it, and the far end of its connection.
pub(crate) struct Outgoing {
    pub(crate) sender: DevmemSender<TcpStream>,
    pub(crate) mapping: Mapping,
    pub(crate) binding: Binding,
    pub(crate) far: TcpStream,
}

pub(crate) fn outgoing(len: u64) -> Result<Outgoing> {
    let memory = Udmabuf::builder(len).build()?;
    let mapping = memory.map(Protection::ReadWrite)?;
    let binding = Netdev::open()?.bind_tx(ifindex(NIC)?, &memory)?;
    let (near, far) = connection()?;
    let id = DmabufId::new(binding.id().get());
    Ok(Outgoing {
        sender: DevmemSender::new(near, id, len)?,
        mapping,
        binding,
        far,
    })
}

/// Connects from this namespace to the peer's, and returns both ends.
pub(crate) fn connection() -> Result<(TcpStream, TcpStream)> {
    let address: SocketAddr = format!("{SENDER_ADDRESS}:0").parse()?;
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))??;
    let near = connect(listener.local_addr()?, &SocketOptions::default(), SOON)?;
    Ok((near, listener.accept()?.0))
}

case!(ranges_stay_the_kernels_until_acknowledged);
/// Sends to a receiver that does not read. The ranges must stay in flight until it does, even after
/// the unbind.
fn ranges_stay_the_kernels_until_acknowledged() -> Result<()> {
    testbed::wire()?;
    let mut out = outgoing(4 * MIB)?;
    // More than both sockets' buffers hold.
    let mut taken = 0;
    let end = Instant::now() + SOON;
    loop {
        let offset = taken % (4 * MIB);
        let range = offset..(offset + 65_536).min(4 * MIB);
        match out.sender.send(std::slice::from_ref(&range)) {
            Ok(bytes) => taken += bytes,
            Err(SendError::WouldBlock) => {
                match out.sender.wait(Until::Room, Duration::from_secs(1)) {
                    Ok(()) => {
                        out.sender.completions()?;
                    }
                    Err(SendError::Deadline { .. }) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        ensure!(Instant::now() < end, "the socket takes without end");
    }
    let in_flight = out.sender.in_flight();
    println_line(&format!("{taken} bytes taken; {in_flight}"));
    ensure!(in_flight.sends > 0, "nothing is in flight");
    for range in &in_flight.ranges {
        ensure!(out.sender.is_in_flight(range), "{range:?} is free");
    }
    // Unbound, nothing more is taken, but what was taken arrives.
    out.binding.unbind();
    let whole = 0..4 * MIB;
    match out.sender.send(std::slice::from_ref(&whole)) {
        Err(SendError::NotBound { .. }) => {}
        other => anyhow::bail!("after the unbind: {other:?}"),
    }
    out.far.set_read_timeout(Some(SOON))?;
    let mut content = vec![1; usize::try_from(taken)?];
    out.far.read_exact(&mut content)?;
    ensure!(content.iter().all(|byte| *byte == 0), "other bytes arrived");
    out.sender.drain(SOON)?;
    ensure!(!out.sender.is_in_flight(&whole), "still in flight");
    let stats = out.sender.stats();
    ensure!(stats.completed == stats.sends, "{stats:?}");
    Ok(())
}

case!(small_chunks_and_little_memory);
/// Sends chunks of 3 bytes with little `optmem_max`, while acknowledgements take 2 ms. `ENOBUFS`
/// must be waited out, and all bytes arrive.
fn small_chunks_and_little_memory() -> Result<()> {
    testbed::wire()?;
    sh(&format!(
        "ip netns exec {PEER} tc qdisc add dev {SENDER} root netem delay 2ms"
    ))?;
    let _little = sysctl::set("net.core.optmem_max", "2048")?;
    let mut out = outgoing(MIB)?;
    let few = send_until_enobufs(&mut out)?;
    let content = pattern(100_001);
    let mut far = out.far;
    let receiver = thread::spawn(move || -> Result<Vec<u8>> {
        let mut content = Vec::new();
        far.set_read_timeout(Some(SOON))?;
        far.read_to_end(&mut content)?;
        Ok(content)
    });
    let config = PumpConfig {
        piece: 10_000,
        chunk: Some(3),
        deadline: SOON,
    };
    let bytes = pump(
        &mut out.sender,
        &out.mapping,
        &mut content.as_slice(),
        &config,
    )?;
    ensure!(bytes == content.len() as u64, "{bytes} bytes were sent");
    let stats = out.sender.stats();
    println_line(&format!("{stats:?}"));
    // All of a piece would have been in flight, 200 sends, if nothing had refused them.
    ensure!(stats.max_in_flight <= 4 * few, "not held up: {stats:?}");
    drop(out.sender);
    let received = receiver.join().ok().context("receiver")??;
    ensure!(received == content, "other bytes arrived");
    Ok(())
}

/// Sends single bytes until the kernel answers `ENOBUFS`, and reads them at the far end. Returns
/// the number that was in flight.
fn send_until_enobufs(out: &mut Outgoing) -> Result<u64> {
    // Else the bytes would wait for each other, and go as one send.
    out.sender.socket().set_nodelay(true)?;
    let mut sent = 0;
    let in_flight = loop {
        let byte = sent..sent + 1;
        match out.sender.send(std::slice::from_ref(&byte)) {
            Ok(bytes) => sent += bytes,
            Err(error @ SendError::TooManyInFlight(_)) => {
                println_line(&format!("after {sent} bytes: {error}"));
                break out.sender.in_flight().sends;
            }
            Err(error) => return Err(error.into()),
        }
        ensure!(sent < 4096, "no ENOBUFS in {sent} sends");
    };
    out.sender.drain(SOON)?;
    out.far.read_exact(&mut vec![0; usize::try_from(sent)?])?;
    Ok(in_flight as u64)
}

case!(standard_input);
/// Sends standard input of a pipe from a dmabuf. All must arrive.
fn standard_input() -> Result<()> {
    testbed::wire()?;
    let to: SocketAddr = format!("{SENDER_ADDRESS}:5000").parse()?;
    let receiver = plain_receiver(to)?;
    let tool = ours("devmem-tcp");
    let line = format!(
        "printf 'hello\\nworld' | {} send {to} --dmabuf --dev {NIC} --input -",
        tool.display()
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line]);
    finish(shell)?.good("send")?;
    let received = receiver.join().ok().context("receiver")??;
    ensure!(received == b"hello\nworld", "{received:?} arrived");
    Ok(())
}
