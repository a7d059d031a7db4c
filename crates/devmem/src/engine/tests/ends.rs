//! Tests of the ends of connections: errors, resets, and sinks that fail.

use super::*;

#[test]
fn the_first_bad_byte_ends_its_connection() {
    let engine = engine(peers(1), validate);
    let mut payload = pattern(300_000);
    payload[123_456] ^= 1;
    let expected = format!("byte 123456 of the stream is {:#04x}", payload[123_456]);
    let sender = send_from_thread(engine.local_addr(), payload);
    let report = engine.run().unwrap();
    sender.join().unwrap();
    let End::Failed(error) = &report.connections[0].end else {
        panic!()
    };
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn unsteered_data_is_refused_when_asked_to() {
    let engine = engine(
        Config {
            refuse_unsteered: true,
            ..peers(1)
        },
        |_: &Peer| Ok(Discard),
    );
    let sender = send_from_thread(engine.local_addr(), pattern(1000));
    let report = engine.run().unwrap();
    sender.join().unwrap();
    let end = &report.connections[0].end;
    let refused = matches!(
        end,
        End::Failed(ConnectionError::Unsteered {
            offset: 0,
            bytes: 1000
        })
    );
    assert!(refused, "{end:?}");
}

#[test]
fn a_reset_fails_its_connection() {
    let engine = engine(peers(2), |_: &Peer| Ok(Discard));
    let address = engine.local_addr();
    let sender = thread::spawn(move || {
        let socket = TcpStream::connect(address).unwrap();
        SockRef::from(&socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(socket);
        send_from_thread(address, pattern(1000)).join().unwrap();
    });
    let report = engine.run().unwrap();
    sender.join().unwrap();
    let end = &report.connections[0].end;
    assert!(
        matches!(end, End::Failed(ConnectionError::Recv(RecvError::Io(error)))
            if error.kind() == io::ErrorKind::ConnectionReset),
        "{end:?}"
    );
    assert!(matches!(report.connections[1].end, End::Closed));
}

/// A reset right behind the last bytes ends the connection, although both are there at the engine's
/// first look and nothing else will ever wake it.
#[test]
fn a_reset_right_behind_the_last_bytes_ends_the_connection() {
    let engine = engine(peers(1), |_: &Peer| Ok(Discard));
    let mut peer = TcpStream::connect(engine.local_addr()).unwrap();
    peer.write_all(&[1; 10]).unwrap();
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
    let report = run_within(Duration::from_secs(10), || engine.run()).unwrap();
    let connection = &report.connections[0];
    assert_eq!(connection.stats.bytes, 10);
    assert!(
        matches!(&connection.end, End::Failed(ConnectionError::Recv(RecvError::Io(error)))
            if error.kind() == io::ErrorKind::ConnectionReset),
        "{:?}",
        connection.end
    );
}

#[test]
fn a_sink_is_abandoned_if_the_peer_did_not_end_the_stream() {
    struct Told(Arc<AtomicBool>);
    impl Sink for Told {
        fn consume(&mut self, _: &mut Received<'_>) -> Result<(), SinkError> {
            Ok(())
        }
        fn abandon(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    for stopped in [false, true] {
        let told = Arc::new(AtomicBool::new(false));
        let sinks = Arc::clone(&told);
        let engine = engine(peers(1), move |_: &Peer| Ok(Told(Arc::clone(&sinks))));
        let (stop, progress) = (engine.stop_handle(), engine.progress());
        let mut peer = TcpStream::connect(engine.local_addr()).unwrap();
        peer.write_all(&[0; 10]).unwrap();
        let closer = thread::spawn(move || {
            while progress.bytes() < 10 {
                thread::yield_now();
            }
            match stopped {
                true => stop.stop(),
                false => peer.shutdown(std::net::Shutdown::Write).unwrap(),
            }
            peer
        });
        engine.run().unwrap();
        let _peer = closer.join().unwrap();
        assert_eq!(told.load(Ordering::SeqCst), stopped);
    }
}

#[test]
fn a_sink_that_cannot_be_made_fails_its_connection_only() {
    let engine = engine(peers(2), |peer: &Peer| match peer.index {
        0 => Err(SinkError::Write(io::ErrorKind::StorageFull.into())),
        _ => Ok(Discard),
    });
    let address = engine.local_addr();
    let sender = thread::spawn(move || {
        send_from_thread(address, Vec::new()).join().unwrap();
        send_from_thread(address, pattern(1000)).join().unwrap();
    });
    let report = engine.run().unwrap();
    sender.join().unwrap();
    assert!(report.connections[0].sink.is_none());
    assert!(matches!(report.connections[1].end, End::Closed));
}
