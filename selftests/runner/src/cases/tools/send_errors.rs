//! Sends from a dmabuf that are refused, and the text of the error.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use devmem::DmabufId;
use devmem::send::{DevmemSender, SendError, Until};
use netdev::queues::BindOptions;
use netdev::{NetNs, Netdev, QueueId};
use udmabuf::Udmabuf;

use super::send::{connection, outgoing};
use framework::testbed::{self, NIC, NIC_ADDRESS, PEER, SENDER, SENDER_ADDRESS};
use framework::tool::{command, finish, sh};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line, refused};

const MIB: u64 = 1 << 20;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// Checks that the tool ends with status 1 and all these words.
fn check_complaint(line: &str, words: &[&str]) -> Result<()> {
    let said = finish(command(None, &devmem_tcp(), line))?.refused(1)?;
    println_line(said.trim_end());
    for word in words {
        ensure!(said.contains(word), "{word:?} is not in {said:?}");
    }
    Ok(())
}

case!(bind_not_a_dmabuf);
fn bind_not_a_dmabuf() -> Result<()> {
    testbed::wire()?;
    let file = File::open("/dev/null")?;
    let result = Netdev::open()?.bind_tx(ifindex(NIC)?, file.as_fd());
    refused(result, EINVAL, None)
}

case!(bind_device_without_netmem);
fn bind_device_without_netmem() -> Result<()> {
    testbed::wire()?;
    let memory = Udmabuf::builder(MIB).build()?;
    let result = Netdev::open()?.bind_tx(ifindex("lo")?, &memory);
    refused(
        result,
        EOPNOTSUPP,
        Some("Driver does not support netmem TX"),
    )?;
    check_complaint(
        "send 127.0.0.1:5000 --dmabuf --dev lo",
        &["bind-tx lo", "Driver does not support netmem TX"],
    )
}

case!(bind_netkit_without_a_lease);
/// Binds a dmabuf for sending to a netkit without a lease. The kernel must refuse, because no NIC
/// is behind it.
fn bind_netkit_without_a_lease() -> Result<()> {
    testbed::wire()?;
    let netkit = framework::netkit("nk0", 2)?;
    let memory = Udmabuf::builder(MIB).build()?;
    let result = Netdev::open()?.bind_tx(netkit, &memory);
    refused(result, EOPNOTSUPP, Some("No DMA-capable device found"))
}

case!(bound_for_receiving);
/// Sends from a dmabuf that is bound for receiving. The send must fail.
fn bound_for_receiving() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let memory = Udmabuf::builder(MIB).build()?;
    let queue = QueueId::new(testbed::QUEUES - 1);
    let nic = ifindex(NIC)?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[queue], BindOptions::default())?;
    let (near, _far) = connection()?;
    let id = DmabufId::new(binding.id().get());
    let mut sender = DevmemSender::new(near, id, MIB)?;
    let whole = 0..MIB;
    match sender.send(std::slice::from_ref(&whole)) {
        Err(error @ SendError::NotBound { .. }) => println_line(&error.to_string()),
        other => bail!("{other:?}"),
    }
    ensure!(sender.in_flight().sends == 0, "something is in flight");
    Ok(())
}

case!(over_the_end);
/// Sends a range beyond the dmabuf's end with one inside. Neither may leave.
fn over_the_end() -> Result<()> {
    testbed::wire()?;
    let mut out = outgoing(MIB)?;
    match out.sender.send(&[0..4096, MIB - 1..MIB + 1]) {
        Err(error @ SendError::OutOfBounds { .. }) => println_line(&error.to_string()),
        other => bail!("{other:?}"),
    }
    // A sender that was told a wrong length: the kernel looks, too (`net_devmem_get_niov_at`).
    let id = DmabufId::new(out.binding.id().get());
    let (near, _far) = connection()?;
    let mut sender = DevmemSender::new(near, id, 2 * MIB)?;
    let beyond = MIB..MIB + 1;
    match sender.send(std::slice::from_ref(&beyond)) {
        Err(SendError::Io { source, .. }) if source.raw_os_error() == Some(14) => Ok(()),
        other => bail!("expected EFAULT, got {other:?}"),
    }
}

case!(route_by_another_device);
/// Sends to an address of this machine, whose packets leave by `lo`. The error must say that
/// another device is used.
fn route_by_another_device() -> Result<()> {
    testbed::wire()?;
    let listener = TcpListener::bind((NIC_ADDRESS, 5000))?;
    check_complaint(
        &format!("send {NIC_ADDRESS}:5000 --dmabuf --dev {NIC}"),
        &["another device", "No such device", "ip route get"],
    )?;
    drop(listener);
    Ok(())
}

case!(device_that_cannot_gather);
/// Sends over a device without scatter-gather. TCP takes the bytes, but the packets are dropped
/// (`sk_setup_caps`, `validate_xmit_skb`): the deadline must report the ranges in flight.
fn device_that_cannot_gather() -> Result<()> {
    testbed::wire()?;
    sh(&format!("ethtool -K {NIC} tx-scatter-gather off"))?;
    let mut out = outgoing(MIB)?;
    let part = 0..8192;
    let taken = out.sender.send(std::slice::from_ref(&part))?;
    match out.sender.drain(Duration::from_secs(1)) {
        Err(SendError::Deadline { in_flight, .. }) => {
            println_line(&in_flight.to_string());
            ensure!(in_flight.ranges.first() == Some(&(0..taken)), "{in_flight}");
        }
        other => bail!("{other:?}"),
    }
    // With gathering back, TCP's own retransmissions bring it all.
    sh(&format!("ethtool -K {NIC} tx-scatter-gather on"))?;
    Ok(out.sender.drain(Duration::from_secs(20))?)
}

case!(not_a_page_multiple);
fn not_a_page_multiple() -> Result<()> {
    testbed::wire()?;
    check_complaint(
        &format!("send {SENDER_ADDRESS}:5000 --dmabuf=5000 --dev {NIC}"),
        &["5000 bytes", "4096"],
    )?;
    check_complaint("send 192.0.2.1:5000 --dmabuf --dev nosuch0", &["nosuch0"])
}

/// Runs `send --idle-timeout 2` to a receiver that falls silent, and checks that it ends after that
/// time with status 6 and these words.
fn check_gives_up(line: &str, words: &[&str]) -> Result<()> {
    let begin = Instant::now();
    let line = format!("send {line} --idle-timeout 2");
    let complaint = finish(command(None, &devmem_tcp(), &line))?.refused(6)?;
    let took = begin.elapsed();
    println_line(&format!("{:.1} s: {complaint}", took.as_secs_f32()));
    for word in words.iter().chain(&["ss -tnoi", "--idle-timeout"]) {
        ensure!(complaint.contains(word), "{word:?} is not in the complaint");
    }
    ensure!(took > Duration::from_secs(2), "too early");
    // Emulated, on a busy machine.
    ensure!(took < Duration::from_secs(20), "too late");
    Ok(())
}

case!(silent_receiver);
/// Sends to a receiver that never reads. The error must name the ranges in flight, or the
/// unacknowledged bytes.
fn silent_receiver() -> Result<()> {
    testbed::wire()?;
    let address = SocketAddr::new(SENDER_ADDRESS.parse()?, 5000);
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))??;
    check_gives_up(
        &format!("{address} --dmabuf --dev {NIC} --bytes 64M"),
        &["no progress within 2 s", "in flight, bytes"],
    )?;
    check_gives_up(
        &format!("{address} --bytes 64M"),
        &["nothing from the receiver for 2 s", "did not acknowledge"],
    )?;
    drop(listener);
    Ok(())
}

case!(receiver_that_does_not_close);
/// Sends to a receiver that answers late, but in time, and to one that neither closes nor answers.
/// Only the second send must fail.
fn receiver_that_does_not_close() -> Result<()> {
    testbed::wire()?;
    let address = SocketAddr::new(SENDER_ADDRESS.parse()?, 5000);
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))??;
    let serve = |pause: Duration| {
        let listener = listener.try_clone()?;
        Ok::<_, anyhow::Error>(thread::spawn(move || -> std::io::Result<()> {
            let (mut socket, _) = listener.accept()?;
            std::io::copy(&mut socket, &mut std::io::sink())?;
            thread::sleep(pause);
            Ok(())
        }))
    };
    let late = serve(Duration::from_secs(1))?;
    let line = format!("send {address} --bytes 1M --idle-timeout 5");
    finish(command(None, &devmem_tcp(), &line))?.good("send")?;
    let never = serve(Duration::from_secs(30))?;
    check_gives_up(
        &format!("{address} --bytes 1M"),
        &["it has all of them, and does not close"],
    )?;
    ensure!(late.join().is_ok_and(|served| served.is_ok()), "no server");
    drop(never);
    Ok(())
}

case!(receiver_that_vanishes);
/// Takes the receiver's link down in mid-send, so that neither a reset nor an acknowledgement
/// comes. The send must give up.
fn receiver_that_vanishes() -> Result<()> {
    testbed::wire()?;
    let address = SocketAddr::new(SENDER_ADDRESS.parse()?, 5000);
    let listener = NetNs::by_name(PEER)?.run(|| TcpListener::bind(address))??;
    let vanish = move || -> Result<()> {
        let (mut socket, _) = listener.accept()?;
        std::io::Read::read_exact(&mut socket, &mut [0; 4096])?;
        sh(&format!("ip -n {PEER} link set {SENDER} down"))?;
        thread::sleep(Duration::from_secs(30));
        Ok(())
    };
    let peer = thread::spawn(vanish);
    check_gives_up(&format!("{address} --bytes 1G"), &["after"])?;
    ensure!(!peer.is_finished(), "the peer ended: {:?}", peer.join());
    Ok(())
}

case!(reset_by_the_receiver);
/// Resets the connection in mid-send. The error must say so, and nothing stay in flight.
fn reset_by_the_receiver() -> Result<()> {
    testbed::wire()?;
    let mut out = outgoing(MIB)?;
    let whole = 0..MIB;
    let taken = out.sender.send(std::slice::from_ref(&whole))?;
    ensure!(taken > 0, "nothing was taken");
    reset_on_close(&out.far)?;
    drop(out.far);
    let end = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match out.sender.send(std::slice::from_ref(&whole)) {
            Ok(_) | Err(SendError::WouldBlock) => {}
            Err(error) => break error,
        }
        let _full = out.sender.wait(Until::Room, Duration::from_millis(100));
        ensure!(Instant::now() < end, "no error comes");
    };
    println_line(&format!("{error:?}"));
    match error {
        SendError::Io { source, .. } => {
            let errno = source.raw_os_error();
            ensure!(errno == Some(104) || errno == Some(32), "{source}");
        }
        other => bail!("{other}"),
    }
    out.sender.drain(Duration::from_secs(5))?;
    ensure!(out.sender.in_flight().sends == 0, "still in flight");
    Ok(())
}

/// Makes the close of a socket send a reset.
fn reset_on_close(socket: &std::net::TcpStream) -> Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &linger)?;
    Ok(())
}
