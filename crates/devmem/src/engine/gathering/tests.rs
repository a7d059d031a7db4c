//! Tests of the decision when to gather, with a model of a socket: packets come at given times, and
//! wake the loop as the low-water mark and the patience say.

use super::*;

const MARK: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_millis(2);
const LIMITS: Limits = Limits {
    mark: MARK,
    patience: PATIENCE,
};

/// Model of a socket with a clock, for the decision when to gather.
struct Model {
    gathering: Gathering,
    limits: Limits,
    start: Instant,
    now: Duration,
    total: u64,
    queued: u64,
    mark: u64,
    wakes: u64,
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self {
            gathering: Gathering::new(),
            limits,
            start: Instant::now(),
            now: Duration::ZERO,
            total: 0,
            queued: 0,
            mark: 1,
            wakes: 0,
        }
    }

    /// Time of the engine's next check, if nothing else wakes the loop.
    fn look_at(&self) -> Option<Duration> {
        let patience = match self.gathering.is_steady() {
            true => self.limits.patience * STEADY_FACTOR,
            false => self.limits.patience,
        };
        let since = self.gathering.waits_since()?;
        Some(since.duration_since(self.start) + patience)
    }

    fn drain(&mut self) {
        self.wakes += 1;
        self.total += self.queued;
        self.queued = 0;
        let at = self.start + self.now;
        match self.gathering.drained(self.total, at, self.limits) {
            Some(Mark::Bytes(bytes)) => self.mark = bytes,
            Some(Mark::One) => self.mark = 1,
            None => {}
        }
    }

    /// Lets time pass until `until`, without a packet.
    fn wait(&mut self, until: Duration) {
        while let Some(due) = self.look_at().filter(|due| *due <= until) {
            self.now = due;
            self.gathering.look();
            self.drain();
        }
        self.now = until;
    }

    /// Delivers a packet of `bytes` bytes, `after` the previous event.
    fn packet(&mut self, after: Duration, bytes: u64) {
        self.wait(self.now + after);
        self.queued += bytes;
        if self.queued >= self.mark {
            self.drain();
        }
    }

    /// Sends a request of `bytes` in packets, waits until all of it was read, and returns how long
    /// that took after the last packet.
    fn request(&mut self, gap: Duration, packet: u64, bytes: u64) -> Duration {
        let mut left = bytes;
        while left > 0 {
            let packet = left.min(packet);
            self.packet(gap, packet);
            left -= packet;
        }
        let sent = self.now;
        while self.queued > 0 {
            let due = self.look_at().expect("nothing will ever read it");
            self.wait(due);
        }
        self.now - sent
    }
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// A stream gathers if the receiver keeps up with it, so that each wake-up brings one packet.
#[test]
fn a_stream_with_a_fast_receiver_gathers() {
    for (gap, patience) in [(micros(300), 2), (micros(300), 20), (micros(20), 2)] {
        let patience = Duration::from_millis(patience);
        let mut model = Model::new(Limits {
            mark: MARK,
            patience,
        });
        for _ in 0..10_000 {
            model.packet(gap, 24 << 10);
        }
        let waits = model.now.as_micros() / patience.as_micros();
        let marks = u128::from(model.total / MARK);
        assert!(
            u128::from(model.wakes) <= waits + marks + 10,
            "{} wakes in {:?}",
            model.wakes,
            model.now
        );
    }
}

/// A stream gathers if the receiver is late, so that each wake-up brings many packets.
#[test]
fn a_stream_with_a_late_receiver_gathers() {
    let mut model = Model::new(LIMITS);
    for _ in 0..10 {
        model.packet(micros(500), MARK / 8);
    }
    assert_eq!(model.mark, MARK);
}

/// Only a few requests may be late, while the engine finds out that they are requests: of any size,
/// over a link of any speed, read as they come or at once. Those that take half of a steady wait,
/// or longer, may take twice as long.
#[test]
fn requests_keep_their_latency() {
    const REQUESTS: u32 = 2_500;
    let gaps = [5, 13, 52, 131].map(|gap| (micros(gap), 16 << 10));
    for (gap, packet) in gaps.into_iter().chain([(micros(5), u64::MAX)]) {
        for kib in [1, 16, 64, 256, 512, 1024, 1536, 4096] {
            for answer in [10, 100, 200, 1000, 2500, 20_000].map(micros) {
                let mut model = Model::new(LIMITS);
                let mut late = Duration::ZERO;
                let mut count = 0;
                for _ in 0..REQUESTS {
                    model.wait(model.now + answer);
                    let by = model.request(gap, packet, kib << 10);
                    late += by;
                    count += u32::from(by > Duration::ZERO);
                }
                let alone = model.now - late;
                let bound = match alone / REQUESTS * 2 < PATIENCE * STEADY_FACTOR {
                    true => alone / 20,
                    false => alone,
                };
                assert!(
                    count <= REQUESTS / 50 || late <= bound,
                    "{kib} KiB, a packet each {gap:?} ({packet}), {answer:?} between: {count} late, by \
                     {late:?} of {:?}",
                    model.now
                );
            }
        }
    }
}

/// The last bytes of a large request, after many low-water marks, are not late for long either.
#[test]
fn large_requests_keep_their_latency() {
    let mut model = Model::new(LIMITS);
    let mut late = Duration::ZERO;
    for _ in 0..1_000 {
        model.wait(model.now + micros(500));
        late += model.request(micros(5), 64 << 10, 50_000_000);
    }
    assert!(late * 20 <= model.now, "{late:?} of {:?}", model.now);
}

#[test]
fn an_echo_of_few_bytes_never_gathers() {
    let mut model = Model::new(LIMITS);
    for _ in 0..100_000 {
        assert_eq!(model.request(micros(30), 64, 64), Duration::ZERO);
    }
    assert_eq!(model.wakes, 100_000);
}

/// A low-water mark of a few frags is not used: it would save no wake-up, and the engine would
/// check silent connections for ever.
#[test]
fn a_low_water_mark_of_a_few_frags_is_not_used() {
    for mark in [0, 7, MIN_MARK - 1] {
        let patience = PATIENCE;
        let mut model = Model::new(Limits { mark, patience });
        for _ in 0..1000 {
            model.packet(micros(1), 1448);
        }
        assert_eq!((model.mark, model.wakes), (1, 1000));
    }
}

#[test]
fn a_silent_connection_is_checked_once() {
    let mut model = Model::new(LIMITS);
    for _ in 0..1000 {
        model.packet(micros(50), 24 << 10);
    }
    assert_eq!(model.mark, MARK);
    model.wait(model.now + Duration::from_millis(20));
    let wakes = model.wakes;
    model.wait(model.now + Duration::from_secs(3600));
    assert_eq!((model.wakes, model.mark, model.queued), (wakes, 1, 0));
}

/// A stream that pauses again and again gathers after each pause.
#[test]
fn a_stream_with_pauses_gathers_again() {
    let mut model = Model::new(LIMITS);
    for _ in 0..20 {
        for _ in 0..10_000 {
            model.packet(micros(50), 24 << 10);
        }
        model.wait(model.now + Duration::from_secs(1));
    }
    assert!(model.wakes < 20 * 10_000 / 20, "{} wakes", model.wakes);
}

/// A stream in bursts gathers: its sender shares a processor with the NIC's, and sends nothing for
/// as long as a few waits.
#[test]
fn a_stream_of_bursts_gathers() {
    let mut model = Model::new(LIMITS);
    let mut random = 1_u64;
    let mut random = |from: u64, to: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        from + (random >> 33) % (to - from)
    };
    for _ in 0..200 {
        for _ in 0..random(50, 200) {
            model.packet(micros(random(100, 1_000)), random(16_000, 64_000));
        }
        model.wait(model.now + micros(random(9_000, 16_000)));
    }
    let waits = model.now.as_micros() / (PATIENCE * STEADY_FACTOR).as_micros();
    assert!(
        u128::from(model.wakes) <= waits * 3 / 2,
        "{} wakes in {:?}: {waits} waits",
        model.wakes,
        model.now
    );
}

/// A stream gathers if its sender and receiver have one processor between them: each gets it for
/// some milliseconds.
#[test]
fn a_stream_on_a_shared_processor_gathers() {
    let mut model = Model::new(LIMITS);
    for turn in 0..1_000 {
        let (packets, pause) = [(30, 14_000), (5, 3_000), (4, 2_500), (14, 7_000)][turn % 4];
        for _ in 0..packets {
            model.packet(micros(250), 65_160);
        }
        model.wait(model.now + micros(pause));
    }
    let waits = model.now.as_micros() / (PATIENCE * STEADY_FACTOR).as_micros();
    assert!(
        u128::from(model.wakes) <= waits * 2,
        "{} wakes in {:?}: {waits} waits",
        model.wakes,
        model.now
    );
}

#[test]
fn a_refused_low_water_mark_is_not_set_again_at_once() {
    let mut gathering = Gathering::new();
    let start = Instant::now();
    let at = |micros| start + Duration::from_micros(micros);
    let mut total = 0;
    let mut asked = 0;
    for turn in 0..100 {
        total += MARK;
        let now = at(turn * 100);
        if gathering.drained(total, now, LIMITS).is_some() {
            asked += 1;
            gathering.refused(now, LIMITS);
        }
    }
    assert!((1..=4).contains(&asked), "{asked}");
}
