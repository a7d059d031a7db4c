//! Tests of stop handles, and of durations without an end.

use super::*;

/// Durations of `Duration::MAX` mean no limit, although no clock goes so far.
#[test]
fn unlimited_durations_are_accepted() {
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
    let sender = send_from_thread(engine.local_addr(), pattern(1 << 20));
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

/// A stop handle that was used before the engine exists ends it at once, as by a signal that
/// arrives during set-up. The handle stops any number of engines, with workers or without.
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
    run_within(Duration::from_secs(20), || late.run()).unwrap();
    let listener = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let workers = Engine::new(listener, forever, |_: &Peer| Ok(Discard)).unwrap();
    let workers = workers.stopped_by(&stop);
    run_within(Duration::from_secs(20), || workers.run_on(vec![])).unwrap();
}

/// An error of one engine stops that engine's workers, and nothing else that the handle stops.
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
    assert!(run_within(Duration::from_secs(20), || workers.run_on(vec![worker])).is_err());
    assert!(!stop.is_stopped());
}
