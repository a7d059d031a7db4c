//! Receivers that must leave the NIC as it was, and peers at the far end of the wire.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use devmem::listen::{SocketOptions, connect};
use netdev::queues::Scope;
use netdev::{NetNs, Netdev, QueueId};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::command_line::Recv;
use crate::far_end::pattern;
use crate::nic_state::{Observer, State};
use crate::probe_receiver::{Ended, Outcome, Probe, SinkKind, probe_receiver};
use crate::summary::Summary;
use crate::sysctl;
use crate::testbed::{self, NIC, NIC_ADDRESS, PEER, SENDER_ADDRESS, SENDER_ADDRESS6};
use crate::tool::{Running, command, until};
use crate::{ifindex, println_line};

/// The rx queue that receivers use unless they name others: the NIC's last.
pub const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);
/// Source port of the first peer; the others have the following ones.
pub const FIRST: u16 = 6000;
/// Port that receivers listen at, on the NIC's address.
const PORT: u16 = 5000;
/// Time limit for a step of a receiver or peer.
const STEP: Duration = Duration::from_secs(20);

/// Returns the address that receivers listen at.
pub fn address() -> Result<SocketAddr> {
    Ok(SocketAddr::new(NIC_ADDRESS.parse()?, PORT))
}

/// Loads the NIC with a queueing discipline at the sender that drops nothing: the default,
/// `fq_codel`, would drop from a burst.
pub fn wire_that_keeps_all() -> Result<()> {
    let _queue = sysctl::set("net.core.default_qdisc", "pfifo_fast")?;
    testbed::wire()
}

/// A running receiver, and the state of the NIC before it.
pub struct ObservedReceiver {
    running: Running,
    observer: Observer,
    before: State,
}

impl ObservedReceiver {
    /// Starts a command on a freshly loaded NIC.
    pub fn start(command: Command) -> Result<Self> {
        testbed::wire()?;
        Self::start_here(command)
    }

    /// Starts a command on the NIC as it is.
    pub fn start_here(command: Command) -> Result<Self> {
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        Ok(Self {
            running: Running::start(command)?,
            observer,
            before,
        })
    }

    /// Starts `devmem-tcp recv` on a freshly loaded NIC.
    pub fn recv(recv: &Recv) -> Result<Self> {
        testbed::wire()?;
        Self::recv_here(recv)
    }

    /// Starts `devmem-tcp recv` on the NIC as it is.
    pub fn recv_here(recv: &Recv) -> Result<Self> {
        Self::start_here(recv.command()?)
    }

    /// Starts a probe receiver on a freshly loaded NIC.
    pub fn probe(probe: &Probe) -> Result<Self> {
        testbed::wire()?;
        Self::probe_here(probe)
    }

    /// Starts a probe receiver on the NIC as it is.
    pub fn probe_here(probe: &Probe) -> Result<Self> {
        Self::start_here(command(None, &probe_receiver(), &probe.line()?))
    }

    /// Returns the receiver's process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Waits for the end of a probe receiver, and returns the counts that it prints.
    pub fn outcome(self) -> Result<Outcome> {
        let text = self.end(0)?.0;
        println_line(text.trim_end());
        serde_json::from_str(&text).with_context(|| format!("outcome {text:?}"))
    }

    /// Waits for the receiver's end, which must have this exit status, and checks that the NIC and
    /// its page pools are as before. Returns standard output and standard error.
    pub fn end(mut self, code: i32) -> Result<(String, String)> {
        let end = self.running.end_within(STEP)?;
        ensure!(end.status.code() == Some(code), "it ended with {end:?}");
        self.observer.soon_same(&self.before)?;
        until("the end of all pools of device memory", STEP, || {
            free_deferred()?;
            let pools = Netdev::open()?.page_pools(None)?;
            Ok(pools.iter().all(|pool| pool.dmabuf.is_none()))
        })?;
        Ok((end.stdout, end.stderr))
    }
}

/// Makes each CPU free the packets that another CPU has read: otherwise they keep their niovs until
/// that CPU next receives packets (`skb_attempt_defer_free`, `net_rx_action`).
pub fn free_deferred() -> Result<()> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let own = socket.local_addr()?;
    for cpu in (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)) {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        socket.send_to(&[0], own)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &all)?)
}

/// A probe receiver at [`address`] on the last queue, with sinks of this kind.
pub fn probe(kind: SinkKind) -> Probe {
    probe_on(&[LAST], kind)
}

/// A probe receiver at [`address`] on these queues, with sinks of this kind.
pub fn probe_on(queues: &[QueueId], kind: SinkKind) -> Probe {
    let probe = Probe::of(kind).listen(testbed::at(PORT));
    queues.iter().fold(probe, Probe::queue)
}

/// Finds the connection of a probe receiver by its peer's port.
pub fn find_ended(outcome: &Outcome, port: u16) -> Result<&Ended> {
    let mut peers = outcome.peers.iter();
    let found = peers.find(|peer| peer.port == port);
    found.with_context(|| format!("no peer {port}"))
}

/// Checks that a connection brought exactly `bytes` right bytes, its peer closed, and every token
/// was returned.
pub fn check_whole(peer: &Ended, bytes: u64) -> Result<()> {
    let right = (peer.bytes, peer.right) == (bytes, bytes);
    let tokens = peer.freed == peer.frags && peer.frags > 0;
    ensure!(
        right && tokens && peer.error.is_none(),
        "not {bytes} bytes, whole: {peer:?}"
    );
    Ok(())
}

/// A validating `devmem-tcp recv` of this many peers, at [`address`] on the last queue.
pub fn expecting(peers: u16) -> Recv {
    expecting_on(&[LAST], peers)
}

/// A validating `devmem-tcp recv` of this many peers, at [`address`] on these queues.
pub fn expecting_on(queues: &[QueueId], peers: u16) -> Recv {
    let recv = Recv::on(NIC).listen(testbed::at(PORT)).connections(peers);
    queues.iter().fold(recv, Recv::queue).validate(251)
}

/// Waits for the end of `devmem-tcp recv`, which must have this exit status. Returns its summary
/// and its standard error.
pub fn summary(receiver: ObservedReceiver, code: i32) -> Result<(Summary, String)> {
    let (text, said) = receiver.end(code)?;
    println_line(text.trim_end());
    println_line(said.trim_end());
    Ok((Summary::parse(&text)?, said))
}

/// Returns the bytes and the error of the connection whose peer has this port.
pub fn ended(summary: &Summary, port: u16) -> Result<(u64, Option<String>)> {
    let end = summary.connection(port)?;
    Ok((end.bytes, end.error.clone()))
}

/// Checks that the connections of these peers brought `bytes` bytes each, without an error.
pub fn ended_well(
    summary: &Summary,
    numbers: impl IntoIterator<Item = u16>,
    bytes: usize,
) -> Result<()> {
    for number in numbers {
        let end = ended(summary, FIRST + number)?;
        ensure!(end == (bytes as u64, None), "peer {number}: {end:?}");
    }
    Ok(())
}

/// Connects peer number `number`, as soon as a receiver listens.
pub fn peer(number: u16) -> Result<TcpStream> {
    peer_at(number, address()?)
}

/// Connects peer number `number` to another address, as soon as a receiver listens there.
pub fn peer_at(number: u16, to: SocketAddr) -> Result<TcpStream> {
    NetNs::by_name(PEER)?.run(|| connected(number, to))?
}

/// Connects `count` peers.
pub fn peers(count: u16) -> Result<Vec<TcpStream>> {
    let to = address()?;
    NetNs::by_name(PEER)?.run(|| (0..count).map(|number| connected(number, to)).collect())?
}

fn connected(number: u16, to: SocketAddr) -> Result<TcpStream> {
    let from = match to {
        SocketAddr::V4(_) => SENDER_ADDRESS,
        SocketAddr::V6(_) => SENDER_ADDRESS6,
    };
    let source = SocketAddr::new(from.parse()?, FIRST + number);
    let options = SocketOptions {
        source: Some(source),
        ..SocketOptions::default()
    };
    let end = Instant::now() + STEP;
    loop {
        match connect(to, &options, STEP) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(anyhow!("nobody listens at {to}: {error}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Sends `bytes` bytes of the pattern in a thread, closes the peer's side, and waits until the
/// receiver has closed its own.
pub fn send(mut stream: TcpStream, bytes: usize) -> JoinHandle<Result<()>> {
    thread::spawn(move || {
        stream.set_write_timeout(Some(STEP))?;
        stream.write_all(&pattern(bytes, None)?)?;
        close(stream)
    })
}

/// Makes all peers send `bytes` bytes at the same time. Each sends a little before, because the
/// kernel chooses a connection's window until the receiver has seen its first bytes.
pub fn send_together(peers: Vec<TcpStream>, bytes: usize) -> Result<()> {
    const FIRST: usize = 8 << 10;
    let payload = Arc::new(pattern(bytes, None)?);
    let seen = Arc::new(Barrier::new(peers.len()));
    let senders = peers.into_iter().map(|mut stream| {
        let (payload, seen) = (Arc::clone(&payload), Arc::clone(&seen));
        thread::spawn(move || {
            let (first, rest) = payload.split_at(FIRST.min(payload.len()));
            let sent = stream.write_all(first);
            seen.wait();
            thread::sleep(Duration::from_millis(200));
            sent?;
            stream.set_write_timeout(Some(STEP))?;
            stream.write_all(rest)?;
            close(stream)
        })
    });
    let senders: Vec<_> = senders.collect();
    senders.into_iter().try_for_each(joined)
}

/// Closes a peer's side of the connection, and waits until the receiver has closed its own.
pub fn close(stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    closed(stream)
}

/// Waits until the receiver has closed its side of the connection.
pub fn closed(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    let answer = stream.read(&mut [0]).context("the receiver's end")?;
    ensure!(answer == 0, "the receiver answered with data");
    Ok(())
}

/// Waits for the end of a peer's thread, and returns its result.
pub fn joined(sender: JoinHandle<Result<()>>) -> Result<()> {
    sender.join().map_err(|_| anyhow!("a sender panicked"))?
}

/// Returns the number of frames for which the NIC had no buffer.
fn frames_without_buffer() -> Result<u64> {
    let stats = Netdev::open()?.qstats(Some(ifindex(NIC)?), Scope::Device)?;
    let device = stats.first().context("no qstats")?;
    device.counters.rx_alloc_fail.context("no rx-alloc-fail")
}

/// Reads the TCP counters of a namespace by name, such as `RetransSegs`.
pub fn tcp_counters(netns: &NetNs) -> Result<BTreeMap<String, u64>> {
    let mut counters = BTreeMap::new();
    for file in ["snmp", "netstat"] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = netns.run(|| fs::read_to_string(&path))??;
        let lines: Vec<&str> = text.lines().collect();
        for rows in lines.chunks(2).filter(|rows| rows[0].starts_with("Tcp")) {
            let [names, values] = rows else { continue };
            let values = values.split_whitespace().map(str::parse);
            for (name, value) in names.split_whitespace().zip(values) {
                // Some are less than 0, and the first is a name.
                counters.insert(name.to_owned(), value.unwrap_or(0));
            }
        }
    }
    Ok(counters)
}

/// Snapshot of the TCP counters at both ends of the wire.
pub struct Wire(Vec<(NetNs, BTreeMap<String, u64>)>);

impl Wire {
    pub fn now() -> Result<Self> {
        let ends = [NetNs::by_name(PEER)?, NetNs::current()?];
        let ends = ends.into_iter().map(|end| {
            let counters = tcp_counters(&end)?;
            Ok((end, counters))
        });
        Ok(Self(ends.collect::<Result<_>>()?))
    }

    /// Checks that the NIC has had a buffer for every frame.
    ///
    /// Retransmissions are only printed: on a slow machine a time-out is soon early.
    pub fn always_had_memory(&self) -> Result<()> {
        const TOLD: [&str; 5] = [
            "OutSegs",
            "RetransSegs",
            "TCPTimeouts",
            "TCPSpuriousRTOs",
            "TCPRcvQDrop",
        ];
        for (end, before) in &self.0 {
            let now = tcp_counters(end)?;
            let since = |name: &str| {
                let count = |counters: &BTreeMap<String, u64>| counters.get(name).copied();
                count(&now).unwrap_or(0) - count(before).unwrap_or(0)
            };
            let told = TOLD.map(|name| format!("{name} {}", since(name)));
            println_line(&told.join(", "));
        }
        let failures = frames_without_buffer()?;
        ensure!(failures == 0, "{failures} frames without a buffer");
        Ok(())
    }
}
