//! Peers that reset, vanish, stay silent, or are refused: the tool reports how each ended and never
//! waits for ever.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use devmem::listen::{SocketOptions, connect};
use netdev::{Link, NetNs};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::unistd::Pid;

use framework::far_end::pattern;
use framework::peers::{
    FIRST, ObservedReceiver, address, close, ended, ended_well, expecting, joined, peer, peers,
    send, summary,
};
use framework::println_line;
use framework::sysctl;
use framework::testbed::{self, PEER, SENDER, SENDER_ADDRESS};
use framework::tool::{sh, until};

/// Closes a connection with a reset instead of a FIN.
fn close_with_reset(stream: TcpStream) -> Result<()> {
    let abort = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &abort)?;
    drop(stream);
    Ok(())
}

fn receiver_pid(receiver: &ObservedReceiver) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(receiver.id())?))
}

case!(reset_with_the_last_bytes, on any_memory);
/// Lets the last bytes and a reset be there when the receiver wakes, before its first read or in
/// mid-stream. It must deliver the bytes and report the reset.
fn reset_with_the_last_bytes() -> Result<()> {
    testbed::wire()?;
    for before in [0, 300_000] {
        let receiver = ObservedReceiver::recv_here(&expecting(1).size("4M"))?;
        let mut stream = peer(0)?;
        let payload = pattern(before + 10, None)?;
        let (first, last) = payload.split_at(before);
        stream.write_all(first)?;
        // Accepted, and all so far received.
        thread::sleep(Duration::from_millis(300));
        kill(receiver_pid(&receiver)?, Signal::SIGSTOP)?;
        stream.write_all(last)?;
        // A reset throws away what was not sent yet.
        thread::sleep(Duration::from_millis(200));
        close_with_reset(stream)?;
        thread::sleep(Duration::from_millis(200));
        kill(receiver_pid(&receiver)?, Signal::SIGCONT)?;
        let (summary, said) = summary(receiver, 1)?;
        let (bytes, error) = ended(&summary, FIRST)?;
        ensure!(bytes == before as u64 + 10, "{bytes} bytes");
        ensure!(error.unwrap_or_default().contains("reset"), "{said:?}");
        summary.tokens_came_back()?;
    }
    Ok(())
}

case!(silent_peers_end_after_their_time);
/// Lets one of four peers fall silent in mid-stream, and one never send. Both must be given up
/// after `--idle-timeout`, the other streams arrive whole.
fn silent_peers_end_after_their_time() -> Result<()> {
    const BYTES: usize = 4 << 20;
    let receiver = ObservedReceiver::recv(&expecting(4).size("4M").idle_timeout(2))?;
    let others: Vec<_> = (2..4)
        .map(|number| Ok(send(peer(number)?, BYTES)))
        .collect::<Result<_>>()?;
    let mut silent = peer(0)?;
    silent.write_all(&pattern(100_000, None)?)?;
    let mute = peer(1)?;
    others.into_iter().try_for_each(joined)?;
    let (summary, said) = summary(receiver, 6)?;
    ended_well(&summary, [2, 3], BYTES)?;
    for (number, bytes) in [(0, 100_000), (1, 0)] {
        let (got, error) = ended(&summary, FIRST + number)?;
        let error = error.unwrap_or_default();
        ensure!(
            got == bytes && error.contains("nothing came for 2"),
            "{got} bytes, {error:?}"
        );
    }
    ensure!(said.contains(&format!(":{FIRST}")), "{said:?}");
    summary.tokens_came_back()?;
    drop((silent, mute));
    Ok(())
}

case!(urgent_data_stops_its_sender);
/// Sends urgent data, which in a frag would crash the kernel (`tcp_urg`). The sender must get no
/// further, other peers must.
fn urgent_data_stops_its_sender() -> Result<()> {
    const BYTES: usize = 1 << 20;
    let receiver = ObservedReceiver::recv(&expecting(2).size("4M").idle_timeout(2))?;
    let mut urgent = peer(0)?;
    urgent.write_all(&pattern(100_000, None)?)?;
    thread::sleep(Duration::from_millis(300));
    let rest = pattern(1_000, None)?;
    nix::sys::socket::send(urgent.as_raw_fd(), &rest, MsgFlags::MSG_OOB)?;
    send(peer(1)?, BYTES)
        .join()
        .map_err(|_| Error::msg("a panic"))??;
    let (summary, _) = summary(receiver, 6)?;
    let (bytes, error) = ended(&summary, FIRST)?;
    let error = error.unwrap_or_default();
    ensure!(
        bytes == 100_000 && error.contains("nothing came for 2"),
        "{bytes} bytes, {error:?}"
    );
    ended_well(&summary, [1], BYTES)?;
    summary.tokens_came_back()
}

case!(vanished_peer_is_noticed);
/// Removes the peer's address, so that nothing answers any more. `--keepalive` alone must end the
/// connection.
fn vanished_peer_is_noticed() -> Result<()> {
    check_vanished("--keepalive 3", || {
        sh(&format!("ip -n {PEER} addr flush dev {SENDER}"))?;
        Ok(())
    })
}

case!(lost_link_is_noticed);
/// Takes the link down. The idle timeout must end the connection, because keepalive probes that
/// can't be sent don't count (`tcp_keepalive_timer`).
fn lost_link_is_noticed() -> Result<()> {
    check_vanished("--keepalive 1 --idle-timeout 3", || {
        let mut link = Link::open_in(&NetNs::by_name(PEER)?)?;
        let sender = link.by_name(SENDER)?.ifindex;
        Ok(link.set_down(sender)?)
    })
}

fn check_vanished(options: &str, vanish: impl Fn() -> Result<()>) -> Result<()> {
    let receiver = ObservedReceiver::recv(&expecting(1).size("4M").options(options))?;
    let mut stream = peer(0)?;
    stream.write_all(&pattern(100_000, None)?)?;
    thread::sleep(Duration::from_millis(300));
    vanish()?;
    let began = Instant::now();
    let (summary, _) = summary(receiver, 6)?;
    println_line(&format!("noticed after {:?}", began.elapsed()));
    let (bytes, error) = ended(&summary, FIRST)?;
    ensure!(
        bytes == 100_000 && error.is_some(),
        "{bytes} bytes, {error:?}"
    );
    summary.tokens_came_back()
}

case!(strangers_are_refused);
/// Connects from another address than that of `--from`. The connections must be reset and named,
/// and not count as the expected one.
fn strangers_are_refused() -> Result<()> {
    const OTHER: &str = "192.0.2.77";
    testbed::wire()?;
    sh(&format!("ip -n {PEER} addr add {OTHER}/32 dev {SENDER}"))?;
    let receiver = ObservedReceiver::recv_here(&expecting(1).size("4M").from(SENDER_ADDRESS))?;
    // Not before it listens.
    let expected = connector_once_listening()?;
    let strangers: Vec<SocketAddr> = (7000..7003)
        .map(|port| {
            let name = SocketAddr::new(OTHER.parse()?, port);
            let options = SocketOptions {
                source: Some(name),
                ..SocketOptions::default()
            };
            let to = address()?;
            let patience = Duration::from_secs(10);
            let connected = NetNs::by_name(PEER)?.run(|| connect(to, &options, patience))?;
            let answer = connected.map_err(Error::from).and_then(|mut stranger| {
                stranger.set_read_timeout(Some(patience))?;
                Ok(std::io::Read::read(&mut stranger, &mut [0])?)
            });
            // A reset may come before it is seen that the connection was there.
            let error = answer.err().context("a stranger was served")?;
            let errno = error.root_cause().downcast_ref::<std::io::Error>();
            let errno = errno.and_then(std::io::Error::raw_os_error);
            ensure!(errno == Some(libc::ECONNRESET), "{error:#}");
            Ok(name)
        })
        .collect::<Result<_>>()?;
    joined(send(expected()?, 1 << 20))?;
    let (summary, said) = summary(receiver, 0)?;
    ended_well(&summary, [0], 1 << 20)?;
    ensure!(summary.refused.count == 3, "not 3 were refused");
    for stranger in strangers {
        let name = stranger.to_string();
        ensure!(said.contains(&name), "{name} is not named: {said:?}");
        let first = &summary.refused.first;
        ensure!(first.contains(&stranger), "{name}: {first:?}");
    }
    Ok(())
}

/// Waits for the receiver's listener, and returns a function that connects the expected peer.
fn connector_once_listening() -> Result<impl FnOnce() -> Result<TcpStream>> {
    until("a listener", Duration::from_secs(20), || {
        Ok(sh("ss -Hltn sport = :5000")?.contains(":5000"))
    })?;
    Ok(|| peer(0))
}

case!(connection_that_epoll_refuses);
/// Makes epoll refuse two of three connections. Those must fail, the first must go on.
fn connection_that_epoll_refuses() -> Result<()> {
    let receiver = ObservedReceiver::recv(&expecting(3).size("4M"))?;
    let first = send_half(peer(0)?)?;
    thread::sleep(Duration::from_millis(300));
    let full = sysctl::set("fs.epoll.max_user_watches", "1")?;
    let refused = [peer(1)?, peer(2)?];
    thread::sleep(Duration::from_millis(300));
    drop(full);
    first()?;
    let (summary, _) = summary(receiver, 1)?;
    ended_well(&summary, [0], 2 << 20)?;
    for number in [1, 2] {
        let (bytes, error) = ended(&summary, FIRST + number)?;
        let error = error.unwrap_or_default();
        ensure!(bytes == 0 && error.contains("No space left"), "{error:?}");
    }
    drop(refused);
    Ok(())
}

/// Sends 1 MiB, and returns a function that sends another and closes.
fn send_half(mut stream: TcpStream) -> Result<impl FnOnce() -> Result<()>> {
    let payload = pattern(2 << 20, None)?;
    stream.write_all(&payload[..1 << 20])?;
    Ok(move || {
        stream.write_all(&payload[1 << 20..])?;
        close(stream)
    })
}

case!(more_connections_than_files);
/// Takes more connections than the soft limit of open files. The limit must be raised; under a hard
/// limit connections must wait for each other, with one warning.
fn more_connections_than_files() -> Result<()> {
    const PEERS: u16 = 100;
    let program = framework::transfer::devmem_tcp();
    let line = format!(
        "recv --json -f {} --queue 3 --listen {} --connections {PEERS} --idle-timeout 15",
        testbed::NIC,
        address()?
    );
    testbed::wire()?;
    for (limit, warnings) in [("-Sn 40", 0), ("-n 60", 1)] {
        let line = format!("ulimit {limit}; exec {} {line}", program.display());
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]);
        let receiver = ObservedReceiver::start_here(shell)?;
        let open = peers(PEERS)?;
        let senders: Vec<_> = open.into_iter().map(|peer| send(peer, 10_000)).collect();
        senders.into_iter().try_for_each(joined)?;
        let (summary, said) = summary(receiver, 0)?;
        ended_well(&summary, 0..PEERS, 10_000)?;
        let said = said.matches("connections wait: accept").count();
        ensure!(said == warnings, "{said} warnings");
    }
    Ok(())
}
