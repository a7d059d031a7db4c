//! Worker threads over loopback: ordinary data, whose packets have no NAPI id.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;

use super::super::Until;
use super::*;
use crate::Received;
use crate::engine::{Connection, End};
use crate::listen::{SocketOptions, listen};
use crate::pattern::Pattern;
use crate::sink::{Discard, Memory, Validate};

fn listener() -> TcpListener {
    listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap()
}

fn peers(count: u32) -> Config {
    Config {
        until: Until::Peers(count),
        ..Config::default()
    }
}

fn send(to: SocketAddr, len: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut payload = vec![0; len];
        Pattern::default().fill(0, &mut payload);
        TcpStream::connect(to).unwrap().write_all(&payload).unwrap();
    })
}

#[test]
fn connections_are_spread_and_each_has_one_worker() {
    let listeners = [listener(), listener()];
    let addresses = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap());
    let seen = Mutex::new(Vec::new());
    let open = |peer: &Peer| {
        let thread = thread::current().name().map(str::to_owned);
        seen.lock().unwrap().push((peer.worker, thread));
        Ok(Validate::new(Pattern::default(), Memory::new()))
    };
    let two = vec![Worker::default(), Worker::default()];
    let engine = Engine::with_listeners(listeners, peers(8), &open).unwrap();
    assert_eq!(engine.local_addr(), addresses[0]);
    let senders: Vec<_> = (0..8)
        .map(|i| send(addresses[i % 2], 300_000 + i))
        .collect();
    let report = engine.run_on(two).unwrap();
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    let total: u64 = (0..8).map(|i| 300_000 + i).sum();
    assert_eq!(
        (report.stats.stream.bytes, report.stats.connections),
        (total, 8)
    );
    for (index, connection) in report.connections.iter().enumerate() {
        assert_eq!(connection.peer.index, index);
        assert!(matches!(connection.end, End::Closed));
        assert!(addresses.contains(&connection.peer.local));
    }
    for (worker, thread) in seen.into_inner().unwrap() {
        assert_eq!(thread, Some(format!("rx worker {worker}")));
    }
    for worker in [0, 1] {
        let theirs = report.connections.iter();
        assert!(theirs.filter(|it| it.peer.worker == worker).count() > 0);
    }
}

/// A stop reaches the workers when all connections are accepted and one of them never closes: the
/// accepting thread only passes the stop on.
#[test]
fn a_stop_reaches_workers_after_all_connections_are_accepted() {
    let listener = listener();
    let to = listener.local_addr().unwrap();
    let open = |_: &Peer| Ok(Discard);
    let engine = Engine::new(listener, peers(1), open).unwrap();
    let (stop, progress) = (engine.stop_handle(), engine.progress());
    let idle = thread::spawn(move || {
        let mut socket = TcpStream::connect(to).unwrap();
        socket.write_all(&[0; 1000]).unwrap();
        while progress.bytes() < 1000 {
            thread::yield_now();
        }
        stop.stop();
        let _reset = socket.read(&mut [0]);
    });
    let report = engine.run_on(vec![Worker::default(); 3]).unwrap();
    idle.join().unwrap();
    assert!(matches!(report.connections[0].end, End::Stopped));
}

/// An engine with `on_end` keeps nothing of ended connections, and their slots are free: for
/// programs that receive without end.
#[test]
fn ended_connections_are_passed_to_on_end() {
    let listener = listener();
    let to = listener.local_addr().unwrap();
    let open = |_: &Peer| Ok(Discard);
    let mut engine = Engine::new(listener, peers(30), open).unwrap();
    let monitor = engine.monitor();
    let (over, is_over) = std::sync::mpsc::channel();
    let sender = thread::spawn(move || {
        let mut all = Vec::new();
        for i in 0..30 {
            send(to, 1000 + i).join().unwrap();
            let connection: Connection<Discard> = is_over.recv().unwrap();
            all.push((connection.peer.index, connection.stats.bytes));
            // With the last one accepted, workers without work end.
            if i < 29 {
                let snapshot = monitor.snapshot(Duration::from_secs(5)).unwrap();
                assert_eq!(snapshot.total().ended, i + 1);
            }
        }
        all
    });
    engine.on_end(move |connection| over.send(connection).unwrap());
    let report = engine.run_on(vec![Worker::default(); 2]).unwrap();
    let all = sender.join().unwrap();
    assert_eq!(
        all,
        (0..30).map(|i| (i, 1000 + i as u64)).collect::<Vec<_>>()
    );
    assert!(report.connections.is_empty());
    assert_eq!(report.stats.stream.bytes, (1000..1030).sum::<u64>());
    assert_eq!(report.telemetry.frags_per_call.count(), 0);
}

struct Panics(bool);

impl Sink for Panics {
    fn consume(&mut self, _: &mut Received<'_>) -> Result<(), SinkError> {
        assert!(!self.0, "a sink that panics");
        Ok(())
    }
}

#[test]
fn a_panic_ends_all_workers() {
    let listener = listener();
    let to = listener.local_addr().unwrap();
    let open = |peer: &Peer| Ok(Panics(peer.index == 1));
    let config = Config {
        until: Until::Stopped,
        ..Config::default()
    };
    let engine = Engine::new(listener, config, open).unwrap();
    let over = AtomicBool::new(false);
    let panicked = thread::scope(|scope| {
        let run = scope.spawn(|| engine.run_on(vec![Worker::default(); 2]).map(drop));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn(move || {
                    let mut socket = TcpStream::connect(to).unwrap();
                    while socket.write_all(&[0; 1000]).is_ok() {}
                })
            })
            .collect();
        let panicked = run.join().is_err();
        over.store(true, Ordering::SeqCst);
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        panicked
    });
    assert!(panicked && over.into_inner());
}

#[test]
fn a_missing_processor_is_named() {
    let open = |_: &Peer| Ok(Discard);
    let worker = Worker {
        cpu: Some(1023),
        ..Worker::default()
    };
    let engine = Engine::new(listener(), peers(1), open).unwrap();
    let error = engine.run_on(vec![worker]).unwrap_err();
    assert!(matches!(error, EngineError::Pin(1023, _)), "{error}");
}
