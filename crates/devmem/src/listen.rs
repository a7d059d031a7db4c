//! Sockets to listen on and to connect with.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::sys;

/// Options of a socket, set before it listens or connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Device whose packets alone the socket gets (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// Whether to listen although connections of an earlier listener linger (`SO_REUSEADDR`).
    pub reuse_address: bool,
    /// Greatest number of connections that wait to be accepted.
    pub backlog: i32,
    /// Size of the receive buffer in bytes, inherited by accepted sockets (`SO_RCVBUFFORCE`, or
    /// `SO_RCVBUF` without CAP_NET_ADMIN); see [`recv_buffer_for`]. The kernel doubles the size.
    pub recv_buffer: Option<usize>,
    /// Local address and port to connect from.
    pub source: Option<SocketAddr>,
}

impl Default for SocketOptions {
    /// Options with the defaults: any device, address reuse, a backlog of 128, the system's receive
    /// buffer.
    fn default() -> Self {
        Self {
            device: None,
            reuse_address: true,
            backlog: 128,
            recv_buffer: None,
            source: None,
        }
    }
}

/// Error of a socket that could not be set up. The kernel's words are the source.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}")]
pub struct SocketError {
    operation: &'static str,
    object: String,
    #[source]
    source: io::Error,
}

const CONNECT: &str = "connect to";

impl SocketError {
    fn at<T: ToString>(operation: &'static str, object: T) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            operation,
            object: object.to_string(),
            source,
        }
    }

    /// Error number (`errno`), where the kernel gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Operation that failed, in words: `connect to`.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// Object of the failed operation: an address, or a device.
    pub fn object(&self) -> &str {
        &self.object
    }
}

fn socket(address: SocketAddr, options: &SocketOptions) -> Result<Socket, SocketError> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .map_err(SocketError::at("open a socket for", address))?;
    if let Some(device) = &options.device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(SocketError::at("bind socket to device", device))?;
    }
    set_recv_buffer(&socket, options)?;
    if options.reuse_address {
        socket
            .set_reuse_address(true)
            .map_err(SocketError::at("reuse address", address))?;
    }
    Ok(socket)
}

fn set_recv_buffer(socket: &Socket, options: &SocketOptions) -> Result<(), SocketError> {
    let Some(bytes) = options.recv_buffer else {
        return Ok(());
    };
    sys::set_recv_buffer(socket.as_fd(), bytes)
        .or_else(|_| socket.set_recv_buffer_size(bytes))
        .map_err(SocketError::at("set a receive buffer of", bytes))
}

/// Receive buffer in bytes with which `connections` connections fit a dmabuf of `len` bytes, for
/// [`SocketOptions::recv_buffer`]; `None` where the system's own limit (`tcp_rmem`) is small
/// enough.
///
/// A receive buffer counts whole niovs, whatever the bytes in them. If those of all connections
/// together exceed the dmabuf, packets received out of order can take all of it: then the NIC drops
/// the very retransmissions that would set it free, and the connections stall with no token held.
/// Half of the dmabuf is left to the NIC's ring and to tokens held; who knows the ring can leave
/// less: [`recv_buffer_beside`].
pub fn recv_buffer_for(len: u64, connections: u32) -> Option<usize> {
    recv_buffer_of(len / 2, connections)
}

/// Receive buffer in bytes with which `connections` connections fit a dmabuf of `len` bytes, of
/// which the NIC's rx rings take `rings` bytes: an eighth of the dmabuf is left to tokens held and
/// to frags that sinks keep. Larger windows mean fewer, fuller calls.
///
/// A packet is charged with its head, too, which takes nothing of the dmabuf. But of a long packet that
/// GRO put together the charge is next to nothing but niovs: a full receive buffer is as many bytes of
/// the dmabuf, and the last packet that it takes may exceed it: by up to 17 niovs (`MAX_SKB_FRAGS`), of
/// `niov` bytes each. So the buffers of all connections may be full at the same time, as they are when the
/// receiver is late, and the NIC still finds memory.
pub fn recv_buffer_beside(len: u64, niov: u64, rings: u64, connections: u32) -> Option<usize> {
    let ours = (len - len / 8).saturating_sub(rings);
    let packets = MAX_SKB_FRAGS.saturating_mul(niov);
    let packets = packets.saturating_mul(connections.into());
    let beside_packets = len.saturating_sub(rings).saturating_sub(packets);
    recv_buffer_of(ours.min(beside_packets).max(len / 2), connections)
}

/// Greatest number of frags in a packet, as Debian's kernels and most others are configured
/// (`CONFIG_MAX_SKB_FRAGS`).
const MAX_SKB_FRAGS: u64 = 17;

/// Receive buffer in bytes with which `connections` connections take at most `len` bytes together;
/// `None` where the system's own limit is small enough.
fn recv_buffer_of(len: u64, connections: u32) -> Option<usize> {
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").ok();
    let limit = limit.and_then(|limits| limits.split_whitespace().nth(2)?.parse::<u64>().ok());
    let share = len / u64::from(connections.max(1));
    match limit {
        Some(limit) if limit <= share => None,
        _ => usize::try_from(share / 2).ok(),
    }
}

/// A bound socket that does not listen yet: connections to it are refused.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// Makes the bound socket listen. Its device and its reuse of addresses can't be changed any
    /// more.
    ///
    /// # Errors
    /// [`SocketError`], which names the step and the address.
    pub fn listen(self, options: &SocketOptions) -> Result<TcpListener, SocketError> {
        set_recv_buffer(&self.socket, options)?;
        drop_urgent(&self.socket).map_err(SocketError::at("drop urgent data on", self.address))?;
        self.socket
            .listen(options.backlog)
            .map_err(SocketError::at("listen on", self.address))?;
        Ok(self.socket.into())
    }
}

/// Makes the kernel drop segments with urgent data (`MSG_OOB`), before TCP sees them
/// (`tcp_filter`); sockets that a listener accepts inherit it. A peer that sends such data gets no
/// further.
///
/// TCP copies the urgent byte out of the packet as soon as it comes (`tcp_urg`), and where it lies in a
/// dmabuf that fails, which the kernel takes for a bug of its own: the machine stops. [`Bound::listen`]
/// calls this, as do engines and [`DevmemStream`](crate::DevmemStream) for sockets of TCP without a filter. What comes
/// before that, on a connection that another listener accepted, is not filtered.
///
/// # Errors
/// Those of `SO_ATTACH_FILTER`.
#[doc(alias = "SO_ATTACH_FILTER")]
pub fn drop_urgent(socket: impl AsFd) -> io::Result<()> {
    // The byte with the flags, from the beginning of the TCP header, and URG in it.
    const FLAGS: u32 = 13;
    const URG: u32 = 0x20;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    SockRef::from(&socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(IF_ANY_BIT, 0, 1, URG),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Calls [`drop_urgent`] for a TCP socket that has no filter; a failure is logged.
pub(crate) fn drop_urgent_by_default(socket: impl AsFd) {
    if !sys::is_tcp_without_filter(socket.as_fd()) {
        return;
    }
    if let Err(error) = drop_urgent(&socket) {
        tracing::warn!(%error, "urgent data on this socket is not dropped, and could stop the machine");
    }
}

/// Binds a socket to `address`, to listen later: fails now if the address is in use or not local.
/// An IPv6 socket takes IPv4 connections too, as mapped addresses (`::ffff:192.0.2.1`): `[::]:5000`
/// is every address of both, `[::ffff:192.0.2.1]:5000` is one.
///
/// # Errors
/// [`SocketError`], which names the step and the address.
pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Bound, SocketError> {
    let socket = socket(address, options)?;
    if address.is_ipv6() {
        socket
            .set_only_v6(false)
            .map_err(SocketError::at("take IPv4 too on", address))?;
    }
    socket
        .bind(&address.into())
        .map_err(SocketError::at("bind", address))?;
    Ok(Bound { socket, address })
}

/// Makes a socket that listens on `address`, by [`bind`] and [`Bound::listen`].
///
/// # Errors
/// [`SocketError`], which names the step and the address.
pub fn listen(address: SocketAddr, options: &SocketOptions) -> Result<TcpListener, SocketError> {
    bind(address, options)?.listen(options)
}

/// Connects a socket to `address`, within `timeout`.
///
/// # Errors
/// [`SocketError`], which names the step and the address.
pub fn connect(
    address: SocketAddr,
    options: &SocketOptions,
    timeout: Duration,
) -> Result<TcpStream, SocketError> {
    let socket = socket(address, options)?;
    if let Some(source) = options.source {
        socket
            .bind(&source.into())
            .map_err(SocketError::at("bind", source))?;
    }
    socket
        .connect_timeout(&address.into(), timeout)
        .map_err(SocketError::at(CONNECT, address))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    #[test]
    fn urgent_data_is_dropped() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = listen(any, &SocketOptions::default()).unwrap();
        let at = listener.local_addr().unwrap();
        let mut peer = connect(at, &SocketOptions::default(), Duration::from_secs(1)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        peer.write_all(b"before").unwrap();
        accepted.read_exact(&mut [0; 6]).unwrap();
        SockRef::from(&peer).send_out_of_band(b"!").unwrap();
        let limit = Duration::from_millis(300);
        accepted.set_read_timeout(Some(limit)).unwrap();
        let error = accepted.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        // Had it been taken, only that byte would be missing.
        let unacknowledged = crate::send::unacknowledged(&peer).unwrap();
        assert_eq!(unacknowledged, 1);
    }

    #[test]
    fn a_bound_address_is_taken_but_refuses_connections() {
        let any = "127.0.0.1:0".parse().unwrap();
        let options = SocketOptions::default();
        let bound = bind(any, &options).unwrap();
        let at = bound.socket.local_addr().unwrap().as_socket().unwrap();
        let wait = Duration::from_secs(1);
        assert_eq!(
            connect(at, &options, wait).unwrap_err().raw_os_error(),
            Some(libc::ECONNREFUSED)
        );
        let _listener = bound.listen(&options).unwrap();
        connect(at, &options, wait).unwrap();
        assert_eq!(
            bind(at, &options).unwrap_err().raw_os_error(),
            Some(libc::EADDRINUSE)
        );
    }

    /// A filter for urgent data is set on a listener of the standard library that an engine takes
    /// over.
    #[test]
    fn a_socket_without_a_filter_gets_one_for_urgent_data() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(sys::is_tcp_without_filter(listener.as_fd()));
        let address = listener.local_addr().unwrap();
        let _engine = crate::engine::Engine::new(
            listener.try_clone().unwrap(),
            crate::engine::Config::default(),
            |_| Ok(crate::sink::Discard),
        );
        assert!(!sys::is_tcp_without_filter(listener.as_fd()));
        let connected = TcpStream::connect(address).unwrap();
        let stream = crate::DevmemStream::new(connected.try_clone().unwrap());
        assert!(!sys::is_tcp_without_filter(connected.as_fd()));
        drop(stream);
        // Neither another program's filter nor another kind of socket is touched.
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!sys::is_tcp_without_filter(near.as_fd()));
        drop_urgent_by_default(&near);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let any = "127.0.0.1:0".parse().unwrap();
        let first = listen(any, &SocketOptions::default()).unwrap();
        let taken = first.local_addr().unwrap();
        let error = listen(taken, &SocketOptions::default()).unwrap_err();
        assert!(error.to_string().ends_with(&taken.to_string()), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn small_memory_bounds_the_receive_buffer() {
        assert_eq!(recv_buffer_for(64 << 12, 4), Some(16 << 10));
        assert_eq!(recv_buffer_for(u64::MAX, 1), None);
        assert_eq!(recv_buffer_beside(64 << 12, 256, 0, 4), Some(28 << 10));
        assert_eq!(
            recv_buffer_beside(64 << 12, 4096, 1 << 30, 4),
            Some(16 << 10)
        );
        for (niov, rings) in [(4096, u64::MAX), (u64::MAX, 4096)] {
            let half = recv_buffer_beside(64 << 12, niov, rings, u32::MAX);
            assert_eq!(half, recv_buffer_for(64 << 12, u32::MAX));
        }
        // 256 connections, each with a packet of 17 niovs beyond its buffer, and a ring of 256.
        let (pool, rings) = (64 << 20, 1 << 20);
        let each = recv_buffer_beside(pool, 4096, rings, 256).unwrap() as u64 * 2;
        assert!(
            (each + 17 * 4096) * 256 + rings <= pool && each > 150_000,
            "{each}"
        );
        let recv_buffer = Some(20_000);
        let options = SocketOptions {
            recv_buffer,
            ..Default::default()
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        assert_eq!(
            socket2::SockRef::from(&listener)
                .recv_buffer_size()
                .unwrap(),
            40_000
        );
    }

    #[test]
    fn a_listener_on_v6_takes_a_mapped_peer() {
        let any = "[::]:0".parse().unwrap();
        let Ok(listener) = listen(any, &SocketOptions::default()) else {
            eprintln!("SKIP: no IPv6 here");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let v4 = SocketAddr::from(([127, 0, 0, 1], port));
        connect(v4, &SocketOptions::default(), Duration::from_secs(5)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_canonical(), v4.ip());
    }

    #[test]
    fn an_unknown_device_is_named() {
        let options = SocketOptions {
            device: Some("nosuch0".to_owned()),
            ..Default::default()
        };
        let error = listen("127.0.0.1:0".parse().unwrap(), &options).unwrap_err();
        assert!(error.to_string().contains("nosuch0"), "{error}");
    }
}
