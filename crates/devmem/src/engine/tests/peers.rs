//! Tests of peers that are silent, and of peers at other addresses than the allowed one.

use super::*;

/// Silent peers end after the idle timeout, and a peer that sends now and then does not.
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
    let report = run_within(Duration::from_secs(20), || engine.run()).unwrap();
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

/// A sink that takes longer than the idle timeout ends no connection: neither its own, nor others,
/// whose bytes wait meanwhile.
#[test]
fn a_slow_sink_ends_no_connection() {
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
    let report = run_within(Duration::from_secs(30), || engine.run()).unwrap();
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

/// Every connection has keepalive, also one that came before the engine was made and inherits
/// nothing.
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
            config::Room::Free
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

/// A connection from a refused address is reset, counts as no peer, and brings no bytes.
#[test]
fn connections_from_other_addresses_are_refused_and_counted() {
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

/// A sink that counts its connection among the open ones until the peer has closed.
struct Counted(Arc<AtomicUsize>);

impl Sink for Counted {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        Discard.consume(received)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.0.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn no_more_connections_are_open_than_may_be() {
    let few = Config {
        open: Some(2),
        ..peers(7)
    };
    for workers in [0, 1, 3] {
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let engine = engine(few.clone(), move |_: &Peer| {
            seen.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok(Counted(Arc::clone(&open)))
        });
        let to = engine.local_addr();
        let senders = (0..7).map(|_| {
            thread::spawn(move || {
                let mut socket = TcpStream::connect(to).unwrap();
                socket.write_all(&[0; 1000]).unwrap();
                thread::sleep(Duration::from_millis(10));
            })
        });
        let senders: Vec<_> = senders.collect();
        let report = run_within(Duration::from_secs(20), move || match workers {
            0 => engine.run(),
            workers => engine.run_on(vec![Worker::default(); workers]),
        });
        senders.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(report.unwrap().stats.stream.bytes, 7000);
        assert_eq!(most.load(Ordering::SeqCst), 2, "{workers} workers");
    }
}
