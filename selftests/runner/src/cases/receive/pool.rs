//! The NIC never runs out of memory, however many connections share the pool and however late the
//! receiver is: the receive windows together leave enough.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use framework::far_end::pattern;
use framework::peers::{
    ObservedReceiver, Wire, close, ended_well, expecting, joined, peer, peers, summary,
    wire_that_keeps_all,
};
use framework::println_line;
use framework::testbed::{NIC, PEER};
use framework::tool::{sh, until};

const MIB: usize = 1 << 20;
/// Bytes to send: more than any receive buffers hold.
const ALL_BYTES: usize = 48 * MIB;

/// Whether the kernel (GRO) and the NIC (coalescing) merge received packets.
#[derive(Debug, Clone, Copy)]
struct Packets {
    gro: bool,
    coalescing: bool,
}

impl Packets {
    fn set(self) -> Result<()> {
        let word = |on| if on { "on" } else { "off" };
        sh(&format!("ethtool -K {NIC} gro {}", word(self.gro)))?;
        sh(&format!(
            "ethtool -K {NIC} rx-gro-hw {}",
            word(self.coalescing)
        ))?;
        Ok(())
    }
}

/// Has all peers send to a stopped receiver until no packet moves any more, then lets the receiver
/// continue. The NIC must never run out of memory.
fn stop_and_continue(count: u16, packets: Packets) -> Result<()> {
    packets.set()?;
    let each = ALL_BYTES / usize::from(count);
    let receiver = ObservedReceiver::recv_here(&expecting(count))?;
    let peers = peers(count)?;
    let process = Pid::from_raw(i32::try_from(receiver.id())?);
    // All of them are accepted.
    thread::sleep(Duration::from_millis(300));
    kill(process, Signal::SIGSTOP)?;
    let wire = Wire::now()?;
    let sent = send_at_once(peers, each)?;
    wait_until_quiet()?;
    let stalled = wire.always_had_memory();
    kill(process, Signal::SIGCONT)?;
    sent.into_iter().try_for_each(joined)?;
    stalled?;
    wire.always_had_memory()?;
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, 0..count, each)?;
    summary.tokens_came_back()
}

case!(window_of_bulk_after_small_messages);
/// Sends much after small messages. A third of the receive buffer must stay out of the window:
/// longer segments than before make the kernel compute the window again (`tcp_measure_rcv_mss`).
/// The window is read once the bulk's first window is used up, because `tcp_select_window` never
/// takes a window back.
fn window_of_bulk_after_small_messages() -> Result<()> {
    const SMALL: usize = 100;
    const BULK: usize = 32 * MIB;
    /// Number of 2 MiB parts of the bulk, 16 MiB, that are more than the send buffer and the first
    /// window hold together.
    const FIRST_WINDOW: usize = 8;
    wire_that_keeps_all()?;
    let receiver = ObservedReceiver::recv_here(&expecting(1).size("16M"))?;
    let mut stream = peer(0)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let payload = pattern(400 * SMALL + BULK, None)?;
    let (small, bulk) = payload.split_at(400 * SMALL);
    for message in small.chunks(SMALL) {
        stream.write_all(message)?;
        thread::sleep(Duration::from_millis(1));
    }
    let mut offered = Vec::new();
    let mut buffer = 0;
    for (number, part) in bulk.chunks(2 * MIB).enumerate() {
        stream.write_all(part)?;
        if number >= FIRST_WINDOW {
            let sender = sh(&format!("ip netns exec {PEER} ss -Htni dport = :5000"))?;
            offered.push(number_after(&sender, "snd_wnd:")?);
            buffer = number_after(&sh("ss -Htnmi sport = :5000")?, ",rb")?;
        }
    }
    close(stream)?;
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, [0], payload.len())?;
    summary.tokens_came_back()?;
    println_line(&format!("{offered:?} offered, of a buffer of {buffer}"));
    let most = offered.iter().max().context("no part of the bulk")?;
    // Of a niov's 4096 bytes, and the head beside it, 1448 are the stream's: a third, less a third.
    ensure!(most * 100 < buffer * 27, "the window has its third back");
    Ok(())
}

/// Returns the number that follows a word in a text.
fn number_after(text: &str, word: &str) -> Result<u64> {
    let (_, rest) = text
        .split_once(word)
        .with_context(|| format!("no {word:?} in {text:?}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

type Sender = thread::JoinHandle<Result<()>>;

/// Starts one thread per peer, which all send at the same moment.
fn send_at_once(peers: Vec<TcpStream>, bytes: usize) -> Result<Vec<Sender>> {
    let payload = Arc::new(pattern(bytes, None)?);
    let begin = Arc::new(Barrier::new(peers.len()));
    let senders = peers.into_iter().map(|mut stream| {
        let (payload, begin) = (Arc::clone(&payload), Arc::clone(&begin));
        thread::spawn(move || {
            begin.wait();
            stream.write_all(&payload)?;
            close(stream)
        })
    });
    Ok(senders.collect())
}

/// Waits until the NIC has received next to nothing for 400 ms.
fn wait_until_quiet() -> Result<()> {
    let packets = || -> Result<u64> {
        let path = format!("/sys/class/net/{NIC}/statistics/rx_bytes");
        Ok(std::fs::read_to_string(path)?.trim().parse()?)
    };
    let mut before = packets()?;
    until("silence", Duration::from_secs(30), || {
        thread::sleep(Duration::from_millis(400));
        let now = packets()?;
        // Keepalives and window probes are few.
        let silent = now - std::mem::replace(&mut before, now) < 16 << 10;
        Ok(silent)
    })
}

case!(late_receiver_of_few);
/// Stops and continues a receiver of few connections, at the default memory size, with GRO and
/// coalescing each on and off. The NIC must never run out of memory.
fn late_receiver_of_few() -> Result<()> {
    check_late_receiver(&[1, 2, 8])
}

case!(late_receiver_of_many);
fn late_receiver_of_many() -> Result<()> {
    check_late_receiver(&[64, 256])
}

fn check_late_receiver(counts: &[u16]) -> Result<()> {
    wire_that_keeps_all()?;
    for packets in [(true, false), (false, false), (true, true)] {
        let packets = Packets {
            gro: packets.0,
            coalescing: packets.1,
        };
        for count in counts {
            println_line(&format!("{count} connections, {packets:?}"));
            stop_and_continue(*count, packets)?;
        }
    }
    Ok(())
}
