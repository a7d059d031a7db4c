//! `ncdevmem` as a sender: standard input from a dmabuf.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use netdev::NetNs;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use super::ncdevmem::{
    bound_queues, check_settings, listening, ncdevmem, payload, set_up_series, settings,
    until_listening, wait_for_end,
};
use framework::println_line;
use framework::testbed::{self, BOX, NIC, NIC_ADDRESS, NIC_ADDRESS6, PEER, SENDER, SENDER_ADDRESS};
use framework::tool::{Finished, Running, finish};

/// Opens a listening socket of ordinary TCP in the namespace of the wire's other end.
fn plain_listener(address: &str) -> Result<TcpListener> {
    let address: SocketAddr = address.parse()?;
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))?;
    listener.context("a plain listener")
}

/// Accepts one connection in a thread, and returns its bytes and the peer's address.
fn collect_in_thread(listener: TcpListener) -> JoinHandle<io::Result<(Vec<u8>, SocketAddr)>> {
    thread::spawn(move || {
        let (mut socket, from) = listener.accept()?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        Ok((bytes, from))
    })
}

/// Runs `ncdevmem` with these bytes on standard input, and returns its end.
fn send_input(netns: Option<&str>, line: &str, input: &[u8]) -> Result<Finished> {
    fs::write("/tmp/input", input)?;
    let mut command = ncdevmem(netns, line);
    command.stdin(File::open("/tmp/input")?);
    let end = finish(command)?;
    println_line(end.stderr.trim_end());
    ensure!(end.stdout.is_empty(), "on stdout: {:?}", end.stdout);
    Ok(end)
}

/// Sends these bytes to a listener of ordinary TCP, which must get them. Returns the sender's
/// address.
fn check_arrives(netns: Option<&str>, to: &str, line: &str, input: &[u8]) -> Result<SocketAddr> {
    let peer = collect_in_thread(plain_listener(to)?);
    let address: SocketAddr = to.parse()?;
    let line = format!("-s {} -p {} {line}", address.ip(), address.port());
    let end = send_input(netns, &line, input)?;
    ensure!(end.stderr.contains("tx ok"), "not ok");
    end.good("ncdevmem -s")?;
    let (got, from) = peer.join().ok().context("the listener")??;
    ensure!(got == input, "{} bytes sent, others came", input.len());
    Ok(from)
}

case!(to_a_plain_listener);
/// Sends lines, chunks, and what upstream's `ncdevmem` can't: more than 1,024 chunks per line, no
/// newline at the end, any bytes, more than the dmabuf holds. All must arrive.
fn to_a_plain_listener() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let to = |port: u16| format!("{SENDER_ADDRESS}:{port}");
    let nic = format!("-f {NIC}");
    check_arrives(None, &to(5001), &nic, b"hello\nworld\n")?;
    check_arrives(None, &to(5002), &format!("{nic} -z 3"), b"hello\nworld\n")?;
    check_arrives(None, &to(5003), &format!("{nic} -z1"), &payload(5000))?;
    check_arrives(None, &to(5004), &nic, b"no newline")?;
    check_arrives(None, &to(5005), &nic, b"")?;
    let any: Vec<u8> = (0..1_000_000_u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    check_arrives(None, &to(5006), &nic, &any)?;
    check_arrives(None, &to(5007), &nic, &any.repeat(70))?;
    check_settings(&before)
}

case!(ipv6_from_an_address_of_choice);
fn ipv6_from_an_address_of_choice() -> Result<()> {
    testbed::wire()?;
    let line = format!("-f {NIC} -c {NIC_ADDRESS6}");
    let from = check_arrives(None, "[2001:db8:2::1]:5001", &line, &payload(100_000))?;
    let wanted: SocketAddr = format!("[{NIC_ADDRESS6}]:5001").parse()?;
    ensure!(from == wanted, "it came from {from}");
    let line = format!("-f {NIC} -c ::ffff:{NIC_ADDRESS}");
    let from = check_arrives(None, &format!("{SENDER_ADDRESS}:5002"), &line, b"x\n")?;
    ensure!(from.ip().to_string() == NIC_ADDRESS, "it came from {from}");
    Ok(())
}

case!(to_a_dmabuf);
/// Sends from dmabuf to dmabuf. Many sends must be in flight at a time, and none be copied.
fn to_a_dmabuf() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    for (port, chunk) in [(5001, ""), (5002, "-z 4000")] {
        let line = format!("-f {NIC} -s {NIC_ADDRESS} -p {port} -v 7 -L");
        let receiver = listening(None, &line)?;
        until_listening()?;
        let line = format!("-f {SENDER} -s {NIC_ADDRESS} -p {port} {chunk}");
        let sent = send_input(Some(PEER), &line, &payload(16 << 20));
        let end = wait_for_end(receiver)?;
        let sent = sent?;
        ensure!(!sent.stderr.contains("max_in_flight=1\n"), "one at a time");
        ensure!(sent.stderr.contains("copied=0"), "bytes were copied");
        sent.good("the sender")?;
        ensure!(end.stderr.contains("frag_bytes=16777216"), "not all frags");
        end.good("the receiver")?;
        check_settings(&before)?;
    }
    Ok(())
}

case!(through_a_leased_netkit);
/// Sends from a container through the NIC whose queue its netkit leases, without an option that
/// names a queue. All must arrive.
fn through_a_leased_netkit() -> Result<()> {
    set_up_series()?;
    let before = settings()?;
    let to = |port: u16| format!("{SENDER_ADDRESS}:{port}");
    check_arrives(Some(BOX), &to(5001), "-f nk0", &payload(2 << 20))?;
    check_arrives(
        Some(BOX),
        &to(5002),
        "-f nk0 -t 0 -q 1 -n -z 3",
        b"hello\nworld\n",
    )?;
    check_settings(&before)
}

/// Checks that a command line fails with status 1, these words and a remedy.
fn check_fails(netns: Option<&str>, line: &str, words: &[&str]) -> Result<()> {
    let complaint = send_input(netns, line, b"hello\n")?.refused(1)?;
    for word in words {
        ensure!(complaint.contains(word), "{word:?} is not said");
    }
    ensure!(complaint.contains("\n  "), "there is no remedy");
    Ok(())
}

case!(other_device);
/// Sends to an address of this machine, whose packets leave by `lo`. The error must say that
/// another device is used.
fn other_device() -> Result<()> {
    testbed::wire()?;
    let address: SocketAddr = format!("{NIC_ADDRESS}:5001").parse()?;
    let _here = TcpListener::bind(address)?;
    let line = format!("-f {NIC} -s {NIC_ADDRESS} -p 5001");
    check_fails(
        None,
        &line,
        &["another device", "No such device", "ip route"],
    )
}

case!(refusals_have_remedies);
fn refusals_have_remedies() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    framework::netkit("nk0", 2)?;
    check_fails(
        None,
        "-f lo -s 127.0.0.1 -p 5001",
        &["bind-tx lo", "EOPNOTSUPP"],
    )?;
    check_fails(
        None,
        "-f nk0 -s 127.0.0.1 -p 5001",
        &["bind-tx nk0", "EOPNOTSUPP"],
    )?;
    check_fails(None, "-f eth9 -s 127.0.0.1 -p 5001", &["eth9", "ENODEV"])?;
    let line = format!("-f {NIC} -s {SENDER_ADDRESS} -p 5001");
    check_fails(None, &line, &["refused", &format!("{SENDER_ADDRESS}:5001")])?;
    check_fails(None, &format!("{line} -c 192.0.2.99"), &["192.0.2.99"])
}

case!(reset_in_mid_send);
/// Resets the connection in mid-send. The error must say so, and what was in flight.
fn reset_in_mid_send() -> Result<()> {
    testbed::wire()?;
    let listener = plain_listener(&format!("{SENDER_ADDRESS}:5001"))?;
    let peer = thread::spawn(move || -> io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.read_exact(&mut [0; 100_000])
        // Closed with data unread: a reset.
    });
    let line = format!("-f {NIC} -s {SENDER_ADDRESS} -p 5001");
    let complaint = send_input(None, &line, &payload(32 << 20))?.refused(1)?;
    peer.join().ok().context("the listener")??;
    ensure!(
        complaint.contains("in flight"),
        "what is in flight is not said"
    );
    ensure!(complaint.contains("reset by peer"), "no reset");
    Ok(())
}

case!(no_completion_in_time);
/// Sends to a peer that reads nothing. After a while the error must name the ranges in flight.
fn no_completion_in_time() -> Result<()> {
    testbed::wire()?;
    let listener = plain_listener(&format!("{SENDER_ADDRESS}:5001"))?;
    let peer = thread::spawn(move || listener.accept());
    let line = format!("-f {NIC} -s {SENDER_ADDRESS} -p 5001");
    let complaint = send_input(None, &line, &payload(32 << 20))?.refused(1)?;
    let _open: (TcpStream, SocketAddr) = peer.join().ok().context("the listener")??;
    for word in ["no progress within", "in flight, bytes"] {
        ensure!(complaint.contains(word), "{word:?} is not said");
    }
    Ok(())
}

case!(signals_leave_nothing);
/// Ends a sending `ncdevmem` by signals. The NIC must be unchanged, and nothing stay bound.
fn signals_leave_nothing() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    for (signal, port) in [(Signal::SIGINT, 5001), (Signal::SIGTERM, 5002)] {
        let listener = plain_listener(&format!("{SENDER_ADDRESS}:{port}"))?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        let line = format!("-f {NIC} -s {SENDER_ADDRESS} -p {port}");
        let mut command = ncdevmem(None, &line);
        command.stdin(Stdio::from(reader));
        let running = Running::start(command)?;
        let (mut socket, _) = listener.accept()?;
        // A line is sent when it is there, though more may follow.
        let mut writer = File::from(writer);
        writer.write_all(b"hello\n")?;
        let mut line = [0; 6];
        socket.read_exact(&mut line)?;
        ensure!(&line == b"hello\n", "another line came: {line:?}");
        running.signal(signal)?;
        let end = wait_for_end(running)?;
        ensure!(!end.status.success(), "it ended well");
        check_settings(&before)?;
        ensure!(bound_queues()? == 0, "a binding is left");
    }
    Ok(())
}
