//! Detection of a peer that has vanished, or that takes no bytes.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::sys;

/// Time of silence before the first keepalive probe to the peer.
const IDLE: Duration = Duration::from_secs(15);
/// Time between keepalive probes to the peer.
const INTERVAL: Duration = Duration::from_secs(5);
/// Number of unanswered keepalive probes after which the connection ends.
const PROBES: u32 = 6;

/// Makes the kernel end the connection (`ETIMEDOUT`) once its peer has vanished, by TCP keepalive
/// where nothing is in flight: within 45 s, or after `within` where that is longer, since a user
/// timeout takes the place of the number of probes (`tcp_keepalive_timer`). Bytes that are not
/// acknowledged, or not taken, for longer than `within` end the connection, too
/// (`TCP_USER_TIMEOUT`); with `None`, the system's limit does (`net.ipv4.tcp_retries2`, a quarter
/// of an hour).
///
/// # Errors
/// Those of `setsockopt`.
pub fn watch_peer(socket: impl AsFd, within: Option<Duration>) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(INTERVAL)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // The kernel takes an int of milliseconds.
    let most = Duration::from_millis(i32::MAX as u64);
    socket.set_tcp_user_timeout(within.map(|within| within.min(most)))
}

/// Number of bytes that were handed to the socket and that its peer has not acknowledged
/// (`SIOCOUTQ`).
///
/// # Errors
/// Those of `ioctl`.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    sys::unacknowledged(socket.as_fd())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn received_bytes_are_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        watch_peer(&near, Some(Duration::from_millis(1500))).unwrap();
        let socket = SockRef::from(&near);
        assert!(socket.keepalive().unwrap());
        let set = socket.tcp_user_timeout().unwrap();
        assert_eq!(set, Some(Duration::from_millis(1500)));
        watch_peer(&near, Some(Duration::MAX)).unwrap();
        watch_peer(&near, None).unwrap();
        assert_eq!(SockRef::from(&near).tcp_user_timeout().unwrap(), None);

        near.write_all(&[7; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unacknowledged(&near).unwrap(), 0);
        // More than the peer takes without reading.
        near.set_nonblocking(true).unwrap();
        while near.write(&[7; 1 << 16]).is_ok() {}
        assert!(unacknowledged(&near).unwrap() > 0);
    }
}
