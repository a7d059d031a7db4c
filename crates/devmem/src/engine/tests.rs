//! The loop over loopback: ordinary data, which takes every path but that of frags.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::listen::{SocketOptions, listen};
use crate::pattern::Pattern;
use crate::sink::{Discard, Memory, Validate, Write};
use crate::stream::RecvError;
use crate::{Received, Segment};

fn engine<S: Sink>(
    config: Config,
    open: impl FnMut(&Peer) -> Result<S, SinkError>,
) -> Engine<S, impl FnMut(&Peer) -> Result<S, SinkError>> {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listen(any, &SocketOptions::default()).unwrap();
    Engine::new(listener, config, open).unwrap()
}

fn peers(count: u32) -> Config {
    Config {
        until: Until::Peers(count),
        ..Config::default()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    Pattern::default().fill(0, &mut payload);
    payload
}

/// Sends `payload` from a thread of its own and closes.
fn send(to: SocketAddr, payload: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut socket = TcpStream::connect(to).unwrap();
        // A receiver that refuses may reset the connection meanwhile.
        let _refused = socket.write_all(&payload);
    })
}

fn validate(_peer: &Peer) -> Result<Validate, SinkError> {
    Ok(Validate::new(Pattern::default(), Memory::new()))
}

/// What `run` returns, unless it takes so long: a test that would hang fails instead.
fn within<T: Send + 'static>(limit: Duration, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _gone = done.send(run());
    });
    ended.recv_timeout(limit).expect("it did not end in time")
}

#[test]
fn a_stream_is_validated_to_its_end() {
    let engine = engine(peers(1), validate);
    let sender = send(engine.local_addr(), pattern(10_000_001));
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
        .map(|i| send(engine.local_addr(), pattern(100_000 + i)))
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
fn the_first_bad_byte_ends_its_connection() {
    let engine = engine(peers(1), validate);
    let mut payload = pattern(300_000);
    payload[123_456] ^= 1;
    let expected = format!("byte 123456 of the stream is {:#04x}", payload[123_456]);
    let sender = send(engine.local_addr(), payload);
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
    let sender = send(engine.local_addr(), pattern(1000));
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
fn a_reset_is_an_outcome() {
    let engine = engine(peers(2), |_: &Peer| Ok(Discard));
    let address = engine.local_addr();
    let sender = thread::spawn(move || {
        let socket = TcpStream::connect(address).unwrap();
        SockRef::from(&socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(socket);
        send(address, pattern(1000)).join().unwrap();
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

/// Both are there when the engine first looks: nothing else will ever wake it.
#[test]
fn a_reset_right_behind_the_last_bytes_ends_the_connection() {
    let engine = engine(peers(1), |_: &Peer| Ok(Discard));
    let mut peer = TcpStream::connect(engine.local_addr()).unwrap();
    peer.write_all(&[1; 10]).unwrap();
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
    let report = within(Duration::from_secs(10), || engine.run()).unwrap();
    let connection = &report.connections[0];
    assert_eq!(connection.stats.bytes, 10);
    assert!(
        matches!(&connection.end, End::Failed(ConnectionError::Recv(RecvError::Io(error)))
            if error.kind() == io::ErrorKind::ConnectionReset),
        "{:?}",
        connection.end
    );
}

/// Of two silent peers and one that sends now and then, the silent ones end.
#[test]
fn a_silent_peer_ends_after_its_time() {
    let limit = Duration::from_millis(300);
    let mut config = peers(3);
    config.idle_timeout = Some(limit);
    let engine = engine(config, |_: &Peer| Ok(Discard));
    let address = engine.local_addr();
    let mut silent = TcpStream::connect(address).unwrap();
    silent.write_all(&[1; 10]).unwrap();
    let mute = TcpStream::connect(address).unwrap();
    let slow = thread::spawn(move || {
        let mut slow = TcpStream::connect(address).unwrap();
        for _ in 0..20 {
            slow.write_all(&[1; 10]).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
    });
    let report = within(Duration::from_secs(20), || engine.run()).unwrap();
    slow.join().unwrap();
    for (index, bytes) in [(0, 10), (1, 0)] {
        let Connection { end, stats, .. } = &report.connections[index];
        assert_eq!(stats.bytes, bytes);
        let End::Failed(error @ ConnectionError::Silent { waited }) = end else {
            panic!("{end:?}")
        };
        assert!(error.is_silence() && *waited >= limit, "{error}");
    }
    assert!(matches!(report.connections[2].end, End::Closed));
    assert_eq!(report.connections[2].stats.bytes, 200);
    drop((silent, mute));
}

/// A sink that takes longer than the idle timeout is not a reason to end anybody: neither its own peer,
/// nor others, whose bytes wait meanwhile.
#[test]
fn a_slow_sink_makes_no_peer_silent() {
    struct Slow(bool);
    impl Sink for Slow {
        fn consume(&mut self, _: &mut Received<'_>) -> Result<(), SinkError> {
            if std::mem::take(&mut self.0) {
                thread::sleep(Duration::from_millis(900));
            }
            Ok(())
        }
    }
    const PEERS: u32 = 20;
    let mut config = peers(PEERS);
    config.idle_timeout = Some(Duration::from_millis(600));
    let engine = engine(config, |peer: &Peer| Ok(Slow(peer.index == 0)));
    let address = engine.local_addr();
    let senders: Vec<_> = (0..PEERS)
        .map(|_| {
            let mut socket = TcpStream::connect(address).unwrap();
            thread::spawn(move || {
                for _ in 0..20 {
                    socket.write_all(&[1; 10]).unwrap();
                    thread::sleep(Duration::from_millis(100));
                }
            })
        })
        .collect();
    let report = within(Duration::from_secs(30), || engine.run()).unwrap();
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    for connection in &report.connections {
        assert!(
            matches!(connection.end, End::Closed),
            "{:?}",
            connection.end
        );
    }
    assert_eq!(report.stats.stream.bytes, u64::from(PEERS) * 200);
}

/// Also one that came before the engine was made, which inherits nothing.
#[test]
fn connections_have_keepalive() {
    let wanted = Keepalive {
        idle: Duration::from_secs(7),
        interval: Duration::from_millis(1),
        probes: 500,
    };
    for keepalive in [None, Some(wanted)] {
        let config = Config {
            keepalive,
            ..peers(1)
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let _early = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut listeners = Listeners::default();
        let base = Base::new().unwrap();
        let registry = base.poll.registry();
        listeners.add(registry, listener, LISTENER).unwrap();
        let mut accepted = Vec::new();
        let taken = listeners.accept(&config, |new| {
            accepted.push(new.socket);
            Ok(true)
        });
        assert!(taken.is_ok());
        let socket = SockRef::from(&accepted[0]);
        assert_eq!(socket.keepalive().unwrap(), keepalive.is_some());
        if keepalive.is_some() {
            let (idle, interval) = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
            assert_eq!(idle.unwrap(), Duration::from_secs(7));
            assert_eq!(interval.unwrap(), Duration::from_secs(1));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 127);
        }
    }
}

/// A stranger is reset, takes no peer's place, and brings nothing.
#[test]
fn strangers_are_refused_counted_and_named() {
    let mut config = peers(1);
    config.from = Some("::ffff:127.0.0.2".parse().unwrap());
    let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let one = Engine::new(listener, config.clone(), |_: &Peer| Ok(Discard)).unwrap();
    let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let many = Engine::new(listener, config, |_: &Peer| Ok(Discard)).unwrap();
    let address = one.local_addr();
    let running = thread::spawn(move || one.run().unwrap());
    check_strangers(address, || running.join().unwrap());
    let address = many.local_addr();
    let running = thread::spawn(move || many.run_on(vec![]).unwrap());
    check_strangers(address, || running.join().unwrap());
}

fn check_strangers(address: SocketAddr, report: impl FnOnce() -> Report<Discard>) {
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut stranger = TcpStream::connect(address).unwrap();
        strangers.push(stranger.local_addr().unwrap());
        let answer = io::Read::read(&mut stranger, &mut [0]);
        let error = answer.expect_err("a stranger was served");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let options = SocketOptions {
        source: Some("127.0.0.2:0".parse().unwrap()),
        ..SocketOptions::default()
    };
    let mut peer = crate::listen::connect(address, &options, Duration::from_secs(5)).unwrap();
    peer.write_all(&[2; 7]).unwrap();
    drop(peer);
    let report = report();
    assert_eq!(report.stats.stream.bytes, 7);
    assert_eq!((report.connections.len(), report.strangers.count), (1, 20));
    assert_eq!(report.strangers.first, strangers[..16]);
}

#[test]
fn a_sink_is_told_of_an_end_that_is_not_the_peers() {
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

/// No clock goes so far.
#[test]
fn for_ever_is_a_duration_too() {
    let config = Config {
        hold: Duration::MAX,
        returns: Duration::MAX,
        patience: Duration::MAX,
        gather: 4096,
        ..peers(1)
    };
    let engine = engine(config, validate);
    let monitor = engine.monitor();
    let looker = thread::spawn(move || monitor.snapshot(Duration::MAX).is_some());
    let sender = send(engine.local_addr(), pattern(1 << 20));
    let report = engine.run().unwrap();
    sender.join().unwrap();
    looker.join().unwrap();
    assert_eq!(report.stats.stream.bytes, 1 << 20);
}

#[test]
fn a_stop_before_any_peer_ends_the_loop() {
    let config = Config {
        until: Until::Stopped,
        ..Config::default()
    };
    let engine = engine(config, |_: &Peer| Ok(Discard));
    let stop = engine.stop_handle();
    let stopper = thread::spawn(move || stop.stop());
    let report = engine.run().unwrap();
    stopper.join().unwrap();
    assert!(report.connections.is_empty());
}

/// As a signal that arrives during set-up. The handle stops any number of engines, whichever kind.
#[test]
fn a_stop_before_the_engine_exists_ends_it_at_once() {
    let forever = Config {
        until: Until::Stopped,
        ..Config::default()
    };
    let stop = StopHandle::new();
    let early = engine(forever.clone(), |_: &Peer| Ok(Discard)).stopped_by(&stop);
    let running = thread::spawn(move || early.run().unwrap());
    assert!(!stop.is_stopped());
    stop.stop();
    running.join().unwrap();
    let late = engine(forever.clone(), |_: &Peer| Ok(Discard)).stopped_by(&stop);
    within(Duration::from_secs(20), || late.run()).unwrap();
    let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let workers = Engine::new(listener, forever, |_: &Peer| Ok(Discard)).unwrap();
    let workers = workers.stopped_by(&stop);
    within(Duration::from_secs(20), || workers.run_on(vec![])).unwrap();
}

/// An error of one stops its workers, and nothing else that the handle stops.
#[test]
fn workers_that_fail_stop_nothing_else() {
    let stop = StopHandle::new();
    let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let worker = Worker {
        cpu: Some(1023),
        ..Worker::default()
    };
    let workers = Engine::new(listener, peers(1), |_: &Peer| Ok(Discard)).unwrap();
    let workers = workers.stopped_by(&stop);
    assert!(within(Duration::from_secs(20), || workers.run_on(vec![worker])).is_err());
    assert!(!stop.is_stopped());
}

#[test]
fn a_sink_that_cannot_be_made_fails_its_connection_only() {
    let engine = engine(peers(2), |peer: &Peer| match peer.index {
        0 => Err(SinkError::Write(io::ErrorKind::StorageFull.into())),
        _ => Ok(Discard),
    });
    let address = engine.local_addr();
    let sender = thread::spawn(move || {
        send(address, Vec::new()).join().unwrap();
        send(address, pattern(1000)).join().unwrap();
    });
    let report = engine.run().unwrap();
    sender.join().unwrap();
    assert!(report.connections[0].sink.is_none());
    assert!(matches!(report.connections[1].end, End::Closed));
}

#[test]
fn the_payload_is_written_in_order() {
    let engine = engine(peers(1), |_: &Peer| {
        Ok(Write::new(Vec::new(), Memory::new()))
    });
    let sender = send(engine.local_addr(), pattern(700_001));
    let mut report = engine.run().unwrap();
    sender.join().unwrap();
    let sink = report.connections.remove(0).sink.unwrap();
    assert_eq!(sink.into_inner(), pattern(700_001));
}

#[test]
fn a_sink_of_ones_own_sees_every_segment() {
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
    let sender = send(engine.local_addr(), pattern(5000));
    let report = engine.run().unwrap();
    sender.join().unwrap();
    assert_eq!(report.connections[0].sink.as_ref().unwrap().0, 5000);
}

/// A stream that is kept up with: without gathering, each write is a wake-up.
#[test]
fn a_busy_connection_wakes_the_loop_for_much_at_a_time() {
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

/// Tells how much it has got.
struct Tell {
    tell: std::sync::mpsc::Sender<usize>,
    total: usize,
}

impl Sink for Tell {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        self.total += received.bytes();
        let _gone = self.tell.send(self.total);
        Ok(())
    }
}

/// What is less than the mark is received after the patience, and without a mark at once.
#[test]
fn few_bytes_behind_many_do_not_wait_for_more() {
    let mut config = peers(1);
    config.gather = 256 << 10;
    let (tell, told) = std::sync::mpsc::channel();
    let engine = engine(config, move |_: &Peer| {
        let tell = tell.clone();
        Ok(Tell { tell, total: 0 })
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
