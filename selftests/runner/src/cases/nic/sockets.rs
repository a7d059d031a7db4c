//! Netlink messages from other programs: not taken for the kernel's, and no reason to wait longer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netlink::Socket;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, sendto,
    socket,
};

use framework::println_line;

/// Netlink group `RTNLGRP_LINK`, as a mask.
const LINKS: u32 = 1;
const WAIT: Duration = Duration::from_millis(300);

fn open_raw_socket() -> Result<OwnedFd> {
    let route = SockProtocol::NetlinkRoute;
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, route)?)
}

/// A message that looks like the kernel's notification of a link.
fn forged_notification() -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..4].copy_from_slice(&32_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&16_u16.to_ne_bytes());
    bytes
}

case!(datagrams_of_others);
/// Sends netlink messages from another program, to a listener's port and its group. They must not
/// be taken for the kernel's, nor extend the listener's deadline.
fn datagrams_of_others() -> Result<()> {
    let mut listener = Socket::route()?.listen(&[1])?;
    let address: NetlinkAddr = getsockname(listener.as_fd().as_raw_fd())?;
    let other = open_raw_socket()?;
    let to = |port: u32, groups: u32| {
        let sent = sendto(
            other.as_raw_fd(),
            &forged_notification(),
            &NetlinkAddr::new(port, groups),
            MsgFlags::MSG_DONTWAIT,
        );
        sent.map(drop)
    };
    let unicast = to(address.pid(), 0);
    println_line(&format!("sent to its port: {unicast:?}"));
    to(0, LINKS).context("to the group")?;
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let began = Instant::now();
        let heard = listener.next(Some(began + WAIT)).map(|it| it.is_some());
        let _late = ended.send((heard, began.elapsed(), listener));
    });
    let (heard, waited, mut listener) = end
        .recv_timeout(10 * WAIT)
        .context("the deadline was forgotten")?;
    ensure!(!heard?, "another's datagram was taken for the kernel's");
    ensure!(waited >= WAIT, "it waited {waited:?} only");
    ensure!(unicast == Err(Errno::ECONNREFUSED), "{unicast:?}");

    // However many come: a look ends.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = thread::spawn(move || {
        let other = open_raw_socket()?;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let group = NetlinkAddr::new(0, LINKS);
            let _full = sendto(
                other.as_raw_fd(),
                &forged_notification(),
                &group,
                MsgFlags::MSG_DONTWAIT,
            );
        }
        anyhow::Ok(())
    });
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        for _ in 0..5 {
            let heard = listener.next(Some(Instant::now() + WAIT));
            let lost = heard.as_ref().is_err_and(netlink::Error::is_overrun);
            let _late = ended.send(lost || matches!(heard, Ok(None)));
        }
    });
    let looks: Vec<_> = (0..5).map(|_| end.recv_timeout(10 * WAIT)).collect();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().ok().context("flood")??;
    for look in looks {
        ensure!(
            look.context("the deadline was forgotten")?,
            "heard something"
        );
    }
    Ok(())
}
