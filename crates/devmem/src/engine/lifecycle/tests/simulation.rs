//! Simulation of an engine whose sockets, sinks and clock are numbers, which checks each step of a
//! connection's state machine.

use super::super::super::schedule::Schedule;
use super::*;

/// Number of connections that are open at a time.
pub(super) const SLOTS: usize = 3;
/// Number of frags that a sink may keep.
const KEEP: u32 = 4;
/// Length of a frag in bytes, and of what one call of `recvmsg` returns.
pub(super) const FRAG: u64 = 16 << 10;
/// Number of calls of `recvmsg` in a connection's turn.
pub(super) const BUDGET: u32 = 3;

/// Model of a connection: what its kernel, its peer and its sink know.
pub(super) struct Model {
    lifecycle: Lifecycle,
    keeps: bool,
    refuses: bool,
    /// Number of bytes received by the kernel and not read.
    pub(super) queued: u64,
    /// Low-water mark of the socket.
    mark: u64,
    /// An event that `epoll_wait` will report; with an end of the stream or without.
    event: Option<bool>,
    /// Whether the end of the stream, or an error, follows the bytes in the queue.
    pub(super) ended: bool,
    total: u64,
    pub(super) kept: u32,
    pub(super) held: u32,
    held_since: Option<Instant>,
    /// Number of frags that came back and that the engine has not taken.
    returned: u32,
    /// Time of the last bytes read, of the start, or of the end of a pause.
    active: Instant,
    pub(super) paused: Option<Instant>,
    warned: bool,
    pub(super) closing: Option<Instant>,
    refused: bool,
}

impl Model {
    fn new(keeps: bool, refuses: bool, now: Instant) -> Self {
        Self {
            lifecycle: Lifecycle::new(now),
            keeps,
            refuses,
            queued: 0,
            mark: 1,
            event: None,
            ended: false,
            total: 0,
            kept: 0,
            held: 0,
            held_since: None,
            returned: 0,
            active: now,
            paused: None,
            warned: false,
            closing: None,
            refused: false,
        }
    }

    /// Receives a packet, and reports an event if enough is queued (`tcp_epollin_ready`).
    fn packet(&mut self, bytes: u64) {
        if !self.ended {
            self.queued += bytes;
            if self.queued >= self.mark {
                self.event.get_or_insert(false);
            }
        }
    }

    /// Collects the frags that the sink gave back.
    fn collect(&mut self) {
        let back = std::mem::take(&mut self.returned).min(self.kept);
        self.kept -= back;
        self.held += back;
    }
}

enum Outcome {
    Input(Input),
    Ended,
}

/// Model of an engine's event loop.
pub(super) struct Loop {
    pub(super) config: Config,
    schedule: Schedule,
    pub(super) slots: Vec<Option<Model>>,
    pub(super) now: Instant,
    /// Number of rounds that the loop has made.
    pub(super) rounds: u32,
}

impl Loop {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            schedule: Schedule::default(),
            slots: (0..SLOTS).map(|_| None).collect(),
            now: Instant::now(),
            rounds: 0,
        }
    }

    fn input(&mut self, slot: usize, input: Input) -> Action {
        let Some(model) = &mut self.slots[slot] else {
            panic!("{input:?} for no connection");
        };
        let lifecycle = &mut model.lifecycle;
        let action = self
            .schedule
            .step(slot, lifecycle, input, self.now, &self.config);
        if model.refused && input == (Input::Held(true)) {
            assert_eq!(lifecycle.held_since(), None, "refused tokens are timed");
        }
        action
    }

    /// Lets time pass until `until`, with all wake-ups that are due, but no more than `rounds` of
    /// them.
    pub(super) fn run(&mut self, until: Instant, rounds: u32) {
        let mut at_once = 0;
        for _ in 0..rounds {
            let Some(wake) = self.next_wake().filter(|wake| *wake <= until) else {
                break;
            };
            at_once = if wake > self.now { 0 } else { at_once + 1 };
            assert!(at_once < 10_000, "the loop does not sleep");
            self.now = self.now.max(wake);
            self.round();
        }
        self.now = until;
    }

    /// Time at which `epoll_wait` returns; `None` if only an event from outside can wake the loop.
    fn next_wake(&self) -> Option<Instant> {
        let events = self.slots.iter().flatten();
        let mut pending = events.filter(|model| model.event.is_some() || model.returned > 0);
        match self.schedule.ready_count() > 0 || pending.next().is_some() {
            true => Some(self.now),
            false => self.schedule.next_deadline(),
        }
    }

    fn round(&mut self) {
        self.rounds += 1;
        let mut woken = self.schedule.ready_count() > 0;
        for slot in 0..SLOTS {
            if let Some(end) = self.slots[slot]
                .as_mut()
                .and_then(|model| model.event.take())
            {
                woken = true;
                self.input(slot, Input::Event { end });
            }
        }
        for slot in 0..SLOTS {
            woken |= self.take_back(slot);
        }
        let mut popped = 0;
        while let Some(slot) = self.schedule.pop_due(self.now) {
            popped += 1;
            assert!(popped <= 4 * SLOTS, "deadlines come back at once");
            assert!(self.time(slot), "a deadline of nothing");
        }
        assert!(popped > 0 || woken, "a wake-up for nothing");
        self.turns();
        for slot in 0..SLOTS {
            self.check_nothing_is_lost(slot);
        }
    }

    fn take_back(&mut self, slot: usize) -> bool {
        let Some(model) = self.slots[slot].as_mut().filter(|model| model.returned > 0) else {
            return false;
        };
        model.collect();
        model.refused = false;
        let room = model.kept < KEEP;
        if room && model.paused.take().is_some() {
            model.active = self.now;
            model.warned = false;
        }
        let kept = model.kept > 0;
        let action = self.input(slot, Input::Returned { room, kept });
        self.account(slot);
        if action == Action::Close {
            assert!(!kept, "closed with frags that the sink keeps");
            self.close(slot);
        }
        true
    }

    /// Acts on a slot's deadline; false if there was nothing to do.
    fn time(&mut self, slot: usize) -> bool {
        let model = self.slots[slot].as_ref().expect("a deadline of nothing");
        let was_ready = model.lifecycle.is_ready();
        let action = self.input(slot, Input::Time);
        let (now, config) = (self.now, &self.config);
        let since = |moment: Option<Instant>| now - moment.expect("a stale deadline");
        let model = self.slots[slot].as_mut().unwrap();
        match action {
            Action::None => {
                let became_ready = model.lifecycle.is_ready() && !was_ready;
                if became_ready {
                    assert!(model.paused.is_none() && model.closing.is_none());
                    let idle = config.idle_timeout;
                    let idle = idle.is_some_and(|limit| now - model.active >= limit);
                    assert!(
                        idle || model.mark > 1,
                        "a look at a connection that does not gather"
                    );
                }
                return became_ready;
            }
            Action::Flush => {
                assert!(model.held > 0, "a flush of nothing");
                assert!(since(model.held_since) >= config.hold, "a flush too early");
                self.flush(slot);
            }
            Action::Warn => {
                assert!(!model.warned && since(model.paused) >= PAUSE_WARNING);
                model.warned = true;
            }
            Action::EndStalled { waited } => {
                assert!(model.warned && since(model.paused) == waited);
                assert!(waited >= config.stalled.unwrap());
                self.end(slot);
            }
            Action::EndSilent { waited } => {
                assert!(model.paused.is_none() && model.closing.is_none());
                assert_eq!(now - model.active, waited);
                assert!(waited >= config.idle_timeout.unwrap());
                assert_eq!(model.queued, 0, "silent with bytes unread");
                self.end(slot);
            }
            Action::Close => {
                assert!(since(model.closing) >= config.returns, "closed too early");
                self.close(slot);
            }
            Action::SetMark(_) => panic!("a mark without a turn"),
        }
        true
    }

    fn turns(&mut self) {
        for _ in 0..self.schedule.ready_count() {
            let slot = self.schedule.pop_ready().unwrap();
            let Some(model) = &mut self.slots[slot] else {
                continue;
            };
            if !model.lifecycle.is_ready() {
                continue;
            }
            assert!(model.paused.is_none() && model.closing.is_none());
            let input = match Self::turn(model, self.now) {
                Outcome::Input(input) => input,
                Outcome::Ended => {
                    self.end(slot);
                    continue;
                }
            };
            if input == Input::Full {
                model.paused = Some(self.now);
            }
            let action = self.input(slot, input);
            match action {
                Action::SetMark(Mark::Bytes(_)) if self.model(slot).refuses => {
                    self.input(slot, Input::MarkRefused);
                }
                Action::SetMark(Mark::Bytes(bytes)) => self.model(slot).mark = bytes,
                Action::SetMark(Mark::One) => self.model(slot).mark = 1,
                Action::Flush => self.flush(slot),
                Action::None => {}
                other => panic!("{other:?} after a turn"),
            }
            self.account(slot);
        }
    }

    /// Serves a connection for one turn, as `OpenConnection::serve` does.
    fn turn(model: &mut Model, now: Instant) -> Outcome {
        let mut received = false;
        model.collect();
        for _ in 0..BUDGET {
            if model.kept >= KEEP {
                return Outcome::Input(Input::Full);
            }
            if model.queued == 0 && model.ended {
                return Outcome::Ended;
            }
            let bytes = model.queued.min(FRAG);
            model.queued -= bytes;
            model.total += bytes;
            if bytes > 0 {
                received = true;
                model.active = now;
                match model.keeps {
                    true => model.kept += 1,
                    false => model.held += 1,
                }
            }
            if bytes == 0 || (model.queued == 0 && !model.lifecycle.ended_by_peer()) {
                return Outcome::Input(Input::Drained {
                    received,
                    total: model.total,
                    mark: 1 << 20,
                });
            }
        }
        Outcome::Input(Input::More)
    }

    fn model(&mut self, slot: usize) -> &mut Model {
        self.slots[slot].as_mut().unwrap()
    }

    fn account(&mut self, slot: usize) {
        let now = self.now;
        let Some(model) = &mut self.slots[slot] else {
            return;
        };
        let any = model.held > 0;
        match any {
            true => _ = model.held_since.get_or_insert(now),
            false => (model.held_since, model.refused) = (None, false),
        }
        self.input(slot, Input::Held(any));
    }

    fn flush(&mut self, slot: usize) {
        let model = self.model(slot);
        // A flush collects what the sink gave back; the engine hears of it all the same.
        let told = model.returned;
        model.collect();
        model.returned = told.min(model.kept);
        model.held_since = None;
        if model.refuses && model.held > 0 {
            model.refused = true;
            self.input(slot, Input::FlushRefused);
            self.account(slot);
            self.end(slot);
        } else {
            model.held = 0;
            self.account(slot);
        }
    }

    fn end(&mut self, slot: usize) {
        let now = self.now;
        let model = self.model(slot);
        if model.lifecycle.has_ended() {
            return;
        }
        model.collect();
        model.paused = None;
        model.closing = Some(now);
        let kept = model.kept > 0;
        self.account(slot);
        if self.input(slot, Input::End { kept }) == Action::Close {
            assert!(!kept, "closed with frags that the sink keeps");
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        self.schedule.remove(slot);
        self.slots[slot] = None;
    }

    /// Checks, before the loop sleeps, that everything left to do has a deadline or causes an
    /// event.
    fn check_nothing_is_lost(&self, slot: usize) {
        let Some(model) = &self.slots[slot] else {
            return;
        };
        let deadline = model.lifecycle.deadline(&self.config);
        let by = |time: Duration| deadline.is_some_and(|deadline| deadline <= self.now + time);
        if model.held > 0 && !model.refused {
            assert!(by(self.config.hold), "tokens are held without a deadline");
        }
        if let Some(closing) = model.closing {
            assert!(model.kept > 0 && deadline <= Some(closing + self.config.returns));
            assert!(deadline.is_some(), "an end without a deadline");
        } else if let Some(paused) = model.paused {
            assert!(model.kept >= KEEP && !model.lifecycle.is_ready());
            assert!(model.warned || deadline <= Some(paused + PAUSE_WARNING));
            let limited = self.config.stalled.is_some() || !model.warned;
            assert!(!limited || deadline.is_some(), "a pause without a deadline");
        } else if !model.lifecycle.is_ready() && model.event.is_none() {
            assert!(!model.ended, "nothing will ever read the end");
            let patience = self.config.steady_patience();
            assert!(model.queued == 0 || by(patience), "nothing will read bytes");
            if let Some(limit) = self.config.idle_timeout {
                assert!(deadline.is_some_and(|at| at <= self.now.max(model.active + limit)));
            }
        }
    }

    pub(super) fn apply(&mut self, step: &Step) {
        let at = self.now + Duration::from_micros(step.after);
        self.run(at, step.rounds);
        let now = self.now;
        let slot = &mut self.slots[step.slot];
        match (&step.stimulus, slot) {
            (Stimulus::Accept { keeps, refuses }, slot @ None) => {
                let model = slot.insert(Model::new(*keeps, *refuses, now));
                self.schedule
                    .update(step.slot, &model.lifecycle, &self.config);
            }
            (Stimulus::Packets { count, bytes, gap }, Some(_)) => {
                for _ in 0..*count {
                    if let Some(model) = &mut self.slots[step.slot] {
                        model.packet(*bytes);
                    }
                    self.run(self.now + Duration::from_micros(*gap), step.rounds);
                }
            }
            (Stimulus::PeerEnd, Some(model)) => {
                model.ended = true;
                model.event = Some(true);
            }
            (Stimulus::Return(frags), Some(model)) => {
                model.returned = (model.returned + frags).min(model.kept);
            }
            (Stimulus::End, Some(_)) => self.end(step.slot),
            (Stimulus::Accept { .. }, Some(_)) | (_, None) => {}
        }
    }
}
