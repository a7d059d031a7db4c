//! Property tests of the connection's state machine, with the schedule that keeps its deadlines,
//! without sockets.
//!
//! A small engine drives connections whose sockets, sinks and clock are numbers. It follows the loop of
//! the real engine: events, returned frags, deadlines, turns. After each step it compares what the
//! machine did with what it knows of the connections:
//!
//! - No wake-up is lost: a connection with something to read, or with tokens held, gets a turn or has a
//!   deadline, in time.
//! - No timer is stale: a deadline acts only on the phase and the connection that it was made for.
//! - No loop is busy: each deadline does something, and a silent connection is left alone.

use proptest::prelude::*;

use super::*;
use simulation::{BUDGET, FRAG, Loop, SLOTS};

mod simulation;

/// Greatest number of rounds of the loop that a silent connection may cause, from its last bytes to
/// its end: a flush, a look that finds something and another one, a pause's warning and its end, an
/// idle timeout, the turn after it and the end, and the return of frags.
const ROUNDS: u32 = 16;

/// Something that happens outside of the engine.
#[derive(Debug, Clone)]
enum Stimulus {
    /// A connection is accepted; its sink keeps frags or not, and its kernel takes its tokens or
    /// not.
    Accept { keeps: bool, refuses: bool },
    /// Packets arrive, one after the other.
    Packets { count: u32, bytes: u64, gap: u64 },
    /// The peer closes or resets the connection.
    PeerEnd,
    /// The sink gives back at most this many frags.
    Return(u32),
    /// The engine ends the connection, as when its sink failed.
    End,
}

#[derive(Debug, Clone)]
struct Step {
    slot: usize,
    /// Time in microseconds since the step before.
    after: u64,
    /// Greatest number of rounds that the engine gets until this step: with few rounds, it is like
    /// a process that is stopped.
    rounds: u32,
    stimulus: Stimulus,
}

fn step() -> impl Strategy<Value = Step> {
    let stimulus = prop_oneof![
        4 => (any::<bool>(), proptest::bool::weighted(0.1))
            .prop_map(|(keeps, refuses)| Stimulus::Accept { keeps, refuses }),
        6 => (1..200_u32, 1..64_u64, 10..1_500_u64)
            .prop_map(|(count, kib, gap)| Stimulus::Packets { count, bytes: kib << 10, gap }),
        6 => (1..4_u32, 1..5_000_u64, 10..5_000_u64)
            .prop_map(|(count, bytes, gap)| Stimulus::Packets { count, bytes, gap }),
        2 => Just(Stimulus::PeerEnd),
        3 => (1..6_u32).prop_map(Stimulus::Return),
        1 => Just(Stimulus::End),
    ];
    let after = prop_oneof![8 => 0..5_000_u64, 1 => 0..3_000_000_u64];
    let rounds = prop_oneof![8 => Just(u32::MAX), 2 => 0..4_u32];
    (0..SLOTS, after, rounds, stimulus).prop_map(|(slot, after, rounds, stimulus)| Step {
        slot,
        after,
        rounds,
        stimulus,
    })
}

fn config() -> impl Strategy<Value = Config> {
    let millis = |range: std::ops::Range<u64>| range.prop_map(Duration::from_millis);
    let hold = prop_oneof![millis(0..1), millis(2..3), millis(20..21)];
    let limit = |most| proptest::option::of(millis(1..most));
    (
        hold,
        millis(0..5),
        limit(3_000),
        limit(3_000),
        millis(0..2_000),
    )
        .prop_map(|(hold, patience, stalled, idle_timeout, returns)| Config {
            hold,
            patience,
            stalled,
            idle_timeout,
            returns,
            ..Config::default()
        })
}

fn run(config: Config, steps: &[Step]) {
    let mut engine = Loop::new(config);
    for step in steps {
        engine.apply(step);
    }
    // Nothing happens any more.
    let unread = engine
        .slots
        .iter()
        .flatten()
        .map(|model| model.queued / FRAG);
    let turns = u32::try_from(unread.sum::<u64>()).unwrap() / BUDGET;
    let before = engine.rounds;
    engine.run(engine.now + Duration::from_secs(24 * 3600), u32::MAX);
    let silent = engine.rounds - before;
    assert!(
        silent <= turns + ROUNDS * SLOTS as u32,
        "{silent} rounds for silent connections"
    );
    for model in engine.slots.iter().flatten() {
        // What is left waits for its peer without a limit, or for its sink.
        assert!(model.closing.is_none() && model.held == 0);
        assert!(model.queued == 0 && !model.ended || model.paused.is_some());
        assert!(engine.config.idle_timeout.is_none() || model.paused.is_some());
        assert!(engine.config.stalled.is_none() || model.paused.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_wake_up_is_lost_and_no_loop_is_busy(
        config in config(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        run(config, &steps);
    }
}
