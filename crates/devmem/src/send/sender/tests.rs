//! Tests of the sender without a device: refusals, and a socket's own errors.
#![allow(clippy::single_range_in_vec_init)] // sends of one range

use super::*;
use std::net::{TcpListener, TcpStream};

fn connected_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

#[test]
#[allow(clippy::reversed_empty_ranges)] // they must be refused
fn ranges_are_checked_before_anything_is_sent() {
    let (near, _far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(1), 8192).unwrap();
    for range in [8000..8193, u64::MAX..u64::MAX, 10..5, 8193..9000] {
        let error = sender.send(&[0..10, range.clone()]).unwrap_err();
        assert!(
            matches!(error, SendError::OutOfBounds { .. }),
            "{range:?}: {error}"
        );
    }
    assert_eq!(sender.send(&[]).unwrap(), 0);
    assert_eq!(sender.send(&[8192..8192]).unwrap(), 0);
    assert_eq!(sender.stats(), SendStats::default());
}

/// Empty ranges are left out: the kernel would make a frag of no bytes of them, and refuse one at
/// the dmabuf's end.
#[test]
fn empty_ranges_are_left_out() {
    let (near, _far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(0xdead), 8192).unwrap();
    let error = sender.send(&[5..5, 0..10, 10..10, 20..30, 8192..8192]);
    assert!(
        matches!(error, Err(SendError::NotBound { .. })),
        "{error:?}"
    );
    let sent = sender
        .vectors
        .iter()
        .map(|vector| (vector.offset, vector.len));
    assert_eq!(sent.collect::<Vec<_>>(), [(0, 10), (20, 10)]);
    // They take none of the room that one call has.
    let mut ranges = vec![7..7; MAX_RANGES];
    ranges.extend(vec![7..8; MAX_RANGES + 1]);
    let error = sender.send(&ranges);
    assert!(
        matches!(error, Err(SendError::NotBound { .. })),
        "{error:?}"
    );
    assert_eq!(sender.vectors.len(), MAX_RANGES);
    // Nor are they taken for the sender's own.
    let error = sender.send(&[0..10, 9000..9000]);
    assert!(
        matches!(error, Err(SendError::OutOfBounds { .. })),
        "{error:?}"
    );
}

/// A send is refused where the kernel would read the program's own memory instead of the dmabuf.
#[test]
fn a_send_of_the_programs_own_memory_is_refused() {
    let refused = |outcome: io::Result<u64>| outcome.unwrap_err().raw_os_error();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(udp.local_addr().unwrap()).unwrap();
    let sender = |udp| DevmemSender::new(udp, DmabufId::new(1), 8192).map(|sender| sender.len());
    assert_eq!(refused(sender(udp)), Some(libc::EOPNOTSUPP));

    let (near, far) = connected_pair();
    let sender = |socket, id| DevmemSender::new(socket, id, 8192).map(|sender| sender.len());
    let none = DmabufId::new(0);
    assert_eq!(refused(sender(near, none)), Some(libc::EINVAL));
    // A socket that waits for its first segment to connect is no peer's yet.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
    let one = DmabufId::new(1);
    assert_eq!(refused(sender(socket.into(), one)), Some(libc::ENOTCONN));
    assert_eq!(sender(far, one).unwrap(), 8192);
}

/// A send from a dmabuf id that no binding has is refused by the kernel, which takes nothing.
#[test]
fn a_dmabuf_that_is_not_bound_is_refused() {
    let (near, _far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(0xdead), 8192).unwrap();
    match sender.send(&[0..100]) {
        Err(error @ SendError::NotBound { .. }) => {
            assert!(error.to_string().contains("dmabuf 57005"), "{error}");
        }
        // Before Linux 6.16 the control message is unknown: EINVAL, too. Nothing else may come.
        other => panic!("{other:?}"),
    }
    assert_eq!(sender.in_flight().sends, 0);
    sender.drain(Duration::ZERO).unwrap();
}

#[test]
fn waiting_ends_at_the_deadline_or_with_room() {
    let (near, _far) = connected_pair();
    let sender = DevmemSender::new(near, DmabufId::new(1), 8192).unwrap();
    sender.wait(Until::Room, Duration::MAX).unwrap();
    let start = Instant::now();
    let error = sender.wait(Until::Completion, Duration::from_millis(20));
    assert!(
        matches!(error, Err(SendError::Deadline { .. })),
        "{error:?}"
    );
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_reset_is_the_connections_error() {
    let (near, far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(1), 8192).unwrap();
    SockRef::from(&far)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(far);
    match sender.wait_for_completion(Duration::from_secs(10)) {
        Err(SendError::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ECONNRESET));
        }
        other => panic!("{other:?}"),
    }
}

/// Completions of real zero-copy sends are understood. They are of ordinary memory, whose numbering
/// is the same.
#[test]
fn the_kernels_completions_are_understood() {
    let (near, mut far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(1), 1 << 20).unwrap();
    let bytes = vec![7; 100_000];
    for (send, size) in [10_000usize, 20_000, 30_000].into_iter().enumerate() {
        let sent = SockRef::from(sender.socket())
            .send_with_flags(&bytes[..size], libc::MSG_ZEROCOPY)
            .unwrap();
        let start = send as u64 * 100_000;
        sender
            .in_flight
            .sent(&[start..start + size as u64], sent as u64);
        let mut into = vec![0; sent];
        io::Read::read_exact(&mut far, &mut into).unwrap();
    }
    sender.stats.sends = 3;
    sender.drain(Duration::from_secs(10)).unwrap();
    let stats = sender.stats();
    assert_eq!((stats.completed, stats.copied), (3, 3), "loopback copies");
    assert!(!sender.is_in_flight(&(0..1 << 20)));
}

#[test]
fn a_completion_of_an_unknown_send_is_an_error() {
    let (near, _far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(1), 8192).unwrap();
    let sent = SockRef::from(sender.socket()).send_with_flags(&[7; 10], libc::MSG_ZEROCOPY);
    assert_eq!(sent.unwrap(), 10);
    let error = sender.wait(Until::Completion, Duration::from_secs(10));
    error.unwrap();
    assert!(matches!(
        sender.completions(),
        Err(SendError::Completion(CompletionError::Unknown(_)))
    ));
}

/// A wait for sends that a dead socket has in flight ends at the deadline, as when a driver still
/// has packets of a connection that is over: poll reports that at once, each time.
#[test]
fn waiting_for_a_dead_socket_ends_at_the_deadline() {
    let (near, far) = connected_pair();
    let mut sender = DevmemSender::new(near, DmabufId::new(1), 8192).unwrap();
    sender.in_flight.sent(&[0..10], 10);
    SockRef::from(&far)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(far);
    let error = sender.drain(Duration::from_secs(10)).unwrap_err();
    assert!(matches!(error, SendError::Io { .. }), "{error}");
    let within = Duration::from_millis(20);
    let error = sender.drain(within).unwrap_err();
    let SendError::Deadline {
        within: told,
        in_flight,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((told, in_flight.sends), (within, 1));
}
