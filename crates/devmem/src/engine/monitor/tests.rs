//! Snapshots of an engine over loopback.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

use super::*;
use crate::Received;
use crate::engine::{Config, Engine, Until};
use crate::listen::{SocketOptions, listen};
use crate::sink::{Discard, Sink, SinkError};

const PATIENCE: Duration = Duration::from_secs(5);

fn engine<S: Sink>(
    sink: impl FnMut(&Peer) -> Result<S, SinkError>,
) -> Engine<S, impl FnMut(&Peer) -> Result<S, SinkError>> {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listen(any, &SocketOptions::default()).unwrap();
    let config = Config {
        until: Until::Stopped,
        ..Config::default()
    };
    Engine::new(listener, config, sink).unwrap()
}

/// Takes snapshots until they count `bytes` bytes, which arrive at their own time.
fn snapshot_until(monitor: &Monitor, bytes: u64) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = monitor.snapshot(PATIENCE).unwrap();
        if snapshot.total().stats.bytes == bytes {
            return snapshot;
        }
        assert!(Instant::now() < deadline, "{snapshot:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn snapshots_show_open_and_ended_connections() {
    let engine = engine(|_| Ok(Discard));
    let (monitor, stop, to) = (engine.monitor(), engine.stop_handle(), engine.local_addr());
    let running = thread::spawn(move || engine.run().unwrap());
    let empty = monitor.snapshot(PATIENCE).unwrap();
    assert_eq!((empty.connections.len(), empty.missing), (0, 0));
    let mut first = TcpStream::connect(to).unwrap();
    let mut second = TcpStream::connect(to).unwrap();
    first.write_all(&[0; 1000]).unwrap();
    second.write_all(&[0; 300]).unwrap();
    let both = snapshot_until(&monitor, 1300);
    let bytes: Vec<_> = both
        .connections
        .iter()
        .map(|connection| connection.stats.bytes)
        .collect();
    assert!(bytes == [1000, 300] || bytes == [300, 1000], "{bytes:?}");
    assert_eq!((both.held(), both.kept(), both.queued()), (0, 0, 0));
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        let left = monitor.snapshot(PATIENCE).unwrap();
        if left.total().ended == 1 {
            break left;
        }
        assert!(Instant::now() < deadline, "{left:?}");
    };
    let total = left.total();
    assert_eq!((total.working, total.stats.bytes), (1, 1300));
    stop.stop();
    let report = running.join().unwrap();
    assert_eq!(report.stats.stream.bytes, 1300);
    // The engine has ended, so the monitor answers at once with the final state.
    let asked = Instant::now();
    let total = monitor.snapshot(PATIENCE).unwrap().total();
    assert!(asked.elapsed() < PATIENCE);
    assert_eq!((total.ended, total.stats.bytes), (2, 1300));
}

#[test]
fn an_engine_that_has_ended_still_counts() {
    let (first, second) = (engine(|_| Ok(Discard)), engine(|_| Ok(Discard)));
    let all = Monitor::of_all([first.monitor(), second.monitor()]);
    let stops = [first.stop_handle(), second.stop_handle()];
    let peers = [first.local_addr(), second.local_addr()].map(|to| {
        let mut peer = TcpStream::connect(to).unwrap();
        peer.write_all(&[0; 1000]).unwrap();
        peer
    });
    let first = thread::spawn(move || first.run().unwrap());
    let second = thread::spawn(move || second.run().unwrap());
    snapshot_until(&all, 2000);
    stops[0].stop();
    first.join().unwrap();
    let left = all.snapshot(PATIENCE).unwrap();
    let total = left.total();
    assert_eq!(
        (total.stats.bytes, total.working, total.ended),
        (2000, 1, 1)
    );
    assert_eq!((left.connections.len(), left.missing), (1, 0));
    drop(peers);
    stops[1].stop();
    second.join().unwrap();
    assert_eq!(all.snapshot(PATIENCE).unwrap().total().stats.bytes, 2000);
}

/// Sink that sleeps for this time in each call.
struct Slow(Duration);

impl Sink for Slow {
    fn consume(&mut self, _: &mut Received<'_>) -> Result<(), SinkError> {
        thread::sleep(self.0);
        Ok(())
    }
}

#[test]
fn a_busy_engine_is_not_waited_for() {
    let busy = engine(|_| Ok(Slow(Duration::from_millis(500))));
    let idle = engine(|_| Ok(Discard));
    let (to, stops) = (busy.local_addr(), [busy.stop_handle(), idle.stop_handle()]);
    let all = Monitor::of_all([busy.monitor(), idle.monitor()]);
    let running = thread::spawn(move || busy.run().unwrap());
    let other = thread::spawn(move || idle.run().unwrap());
    assert_eq!(all.snapshot(PATIENCE).unwrap().missing, 0);
    let mut peer = TcpStream::connect(to).unwrap();
    peer.write_all(&[0; 10]).unwrap();
    snapshot_until(&all, 10);
    peer.write_all(&[0; 10]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // The busy engine's part is as of its last answer, not empty.
    let without = loop {
        assert!(Instant::now() < deadline);
        // On a busy machine the idle engine may be late, too: then there is no answer.
        match all.snapshot(Duration::from_millis(20)) {
            Some(snapshot) if snapshot.missing == 1 => break snapshot,
            _ => {}
        }
    };
    assert_eq!(without.total().stats.bytes, 10);
    // The busy engine answers again once its sink has returned.
    assert_eq!(all.snapshot(PATIENCE).unwrap().missing, 0);
    stops.iter().for_each(|stop| stop.stop());
    running.join().unwrap();
    other.join().unwrap();
}

#[test]
fn an_engine_wakes_only_for_requests() {
    let engine = engine(|_| Ok(Discard));
    let (monitor, stop) = (engine.monitor(), engine.stop_handle());
    let running = thread::spawn(move || engine.run().unwrap());
    thread::sleep(Duration::from_millis(50));
    let waits = |report: crate::engine::Report<Discard>| report.stats.epoll_waits;
    for _ in 0..10 {
        monitor.snapshot(PATIENCE).unwrap();
    }
    stop.stop();
    // One wake-up for each snapshot, one for the stop, and the first wait.
    assert!((2..=12).contains(&waits(running.join().unwrap())));
}
