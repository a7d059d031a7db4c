//! Tests that all bytes that peers send are received, and when.

use super::*;

#[test]
fn a_stream_is_validated_to_its_end() {
    let engine = engine(peers(1), validate);
    let sender = send_from_thread(engine.local_addr(), pattern(10_000_001));
    let report = engine.run().unwrap();
    sender.join().unwrap();
    let [connection] = &report.connections[..] else {
        panic!()
    };
    assert!(
        matches!(connection.end, End::Closed),
        "{:?}",
        connection.end
    );
    assert_eq!(connection.sink.as_ref().unwrap().validated(), 10_000_001);
    let stats = report.stats.stream;
    assert_eq!(
        (stats.bytes, stats.unsteered_bytes),
        (10_000_001, 10_000_001)
    );
    assert_eq!(
        (stats.frags, stats.tokens.issued, stats.tokens.calls),
        (0, 0, 0)
    );
    assert!(report.stats.elapsed() > Duration::ZERO && report.stats.rate() > 0.0);
}

#[test]
fn many_peers_each_get_their_bytes() {
    let mut config = peers(20);
    config.budget = 1;
    config.iov = 4096;
    let engine = engine(config, validate);
    let senders: Vec<_> = (0..20)
        .map(|i| send_from_thread(engine.local_addr(), pattern(100_000 + i)))
        .collect();
    let report = engine.run().unwrap();
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    assert_eq!(report.connections.len(), 20);
    for (index, connection) in report.connections.iter().enumerate() {
        assert!(
            matches!(connection.end, End::Closed),
            "{:?}",
            connection.end
        );
        assert_eq!(connection.peer.index, index);
    }
    assert_eq!(report.stats.stream.bytes, 20 * 100_000 + 190);
}

#[test]
fn a_busy_peer_does_not_starve_a_quiet_one() {
    let mut config = peers(2);
    config.iov = 4096;
    let engine = engine(config, |_: &Peer| Ok(Discard));
    let address = engine.local_addr();
    let stop = engine.stop_handle();
    let (flooding, flooded) = std::sync::mpsc::channel();
    let flood = thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        flooding.send(()).unwrap();
        while socket.write_all(&[0; 65536]).is_ok() {}
    });
    let quiet = thread::spawn(move || {
        flooded.recv().unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(&[1; 100]).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        // The receiver closes once it has had its turn; only then is all stopped.
        let closed = std::io::Read::read(&mut socket, &mut [0]).unwrap();
        stop.stop();
        closed
    });
    let report = engine.run().unwrap();
    assert_eq!(quiet.join().unwrap(), 0);
    flood.join().unwrap();
    let ends: Vec<_> = report
        .connections
        .iter()
        .map(|connection| (connection.stats.bytes == 100, &connection.end))
        .collect();
    for (is_quiet, end) in ends {
        assert!(
            matches!((is_quiet, end), (true, End::Closed) | (false, End::Stopped)),
            "{end:?}"
        );
    }
}

#[test]
fn the_payload_is_written_in_order() {
    let engine = engine(peers(1), |_: &Peer| {
        Ok(Write::new(Vec::new(), Memory::new()))
    });
    let sender = send_from_thread(engine.local_addr(), pattern(700_001));
    let mut report = engine.run().unwrap();
    sender.join().unwrap();
    let sink = report.connections.remove(0).sink.unwrap();
    assert_eq!(sink.into_inner(), pattern(700_001));
}

#[test]
fn a_custom_sink_sees_every_segment() {
    struct Count(usize);
    impl Sink for Count {
        fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
            for segment in received {
                if let Segment::Inline(bytes) = segment {
                    self.0 += bytes.len();
                }
            }
            Ok(())
        }
    }
    let engine = engine(peers(1), |_: &Peer| Ok(Box::new(Count(0))));
    let sender = send_from_thread(engine.local_addr(), pattern(5000));
    let report = engine.run().unwrap();
    sender.join().unwrap();
    assert_eq!(report.connections[0].sink.as_ref().unwrap().0, 5000);
}

/// A connection with a receiver that keeps up wakes the loop for many bytes at a time. Without
/// gathering, each write is a wake-up.
#[test]
fn a_busy_connection_wakes_the_loop_rarely() {
    const WRITES: usize = 1500;
    let wakes = |gather| {
        let mut config = peers(1);
        config.gather = gather;
        let engine = engine(config, |_: &Peer| Ok(Discard));
        let address = engine.local_addr();
        let sender = thread::spawn(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            for _ in 0..WRITES {
                socket.write_all(&[0; 48 << 10]).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let report = engine.run().unwrap();
        sender.join().unwrap();
        assert_eq!(report.stats.stream.bytes as usize, WRITES * (48 << 10));
        report.stats.epoll_waits as usize
    };
    let (without, with) = (wakes(0), wakes(2 << 20));
    assert!(with * 3 <= without * 2, "{with} wakes, {without} without");
}

/// Sink that sends the number of bytes received so far to the test.
struct CountingSink {
    tell: std::sync::mpsc::Sender<usize>,
    total: usize,
}

impl Sink for CountingSink {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        self.total += received.bytes();
        let _gone = self.tell.send(self.total);
        Ok(())
    }
}

/// Bytes fewer than the low-water mark are received after the patience, and without a mark at once.
#[test]
fn few_bytes_after_many_are_received_after_the_patience() {
    let mut config = peers(1);
    config.gather = 256 << 10;
    let (tell, told) = std::sync::mpsc::channel();
    let engine = engine(config, move |_: &Peer| {
        let tell = tell.clone();
        Ok(CountingSink { tell, total: 0 })
    });
    let address = engine.local_addr();
    let running = thread::spawn(move || engine.run().unwrap());
    let mut socket = TcpStream::connect(address).unwrap();
    let mut sent = 0;
    for len in [4 << 20, 100, 100, 4 << 20, 1] {
        socket.write_all(&vec![0; len]).unwrap();
        sent += len;
        while told.recv_timeout(Duration::from_secs(20)).unwrap() < sent {}
    }
    drop(socket);
    assert_eq!(running.join().unwrap().stats.stream.bytes, sent as u64);
}
