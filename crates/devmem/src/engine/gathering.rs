//! When a connection lets bytes gather before it wakes the loop (`SO_RCVLOWAT`).
//!
//! A wake-up costs four or five system calls, whatever it brings. A receiver that keeps up with a
//! stream would be woken for each packet; one that waits for more is woken once per `patience`. But a
//! peer that waits for an answer sends no more, and each of its requests would be late by as long. The
//! two are told apart by trying: a stream goes on at its rate while bytes gather, a request does not.
//!
//! - Off: several wake-ups within `patience` that together brought enough, or a single one that brought
//!   much, begin to gather.
//! - Gathering: fewer bytes than the mark wake nothing, so the engine looks at a connection that has
//!   been silent for `patience`. What it finds is held against the rate so far. Less than a quarter, or
//!   next to nothing, ends it, and the next try comes later each time, so that an exchange of requests
//!   and answers pays for a vanishing part of them.
//! - Steady: a look that found enough. It may wait four times as long.

use std::time::{Duration, Instant};

/// Wake-ups within the patience that make gathering worth it: at least so many.
const WAKES: u32 = 3;
/// Bytes within the patience that make it worth it, where the mark is not smaller than twice that.
const ENOUGH: u64 = 32 << 10;
/// The least mark. With a lower one, a few small frags would do.
const LEAST: u64 = 8 << 10;
/// The longest time between tries, in units of the patience.
const LONGEST_REST: u32 = 256;
/// Waits in a row that went well, after which an earlier failure is forgotten.
const TRUSTED: u32 = 16;
/// A steady connection waits so many times as long.
pub(super) const STEADY: u32 = 4;

/// What a connection may let gather.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes: the mark.
    pub(super) mark: u64,
    /// How long fewer bytes may wait.
    pub(super) patience: Duration,
}

impl Limits {
    fn enough(&self) -> u64 {
        ENOUGH.min(self.mark / 2)
    }

    /// What comes within `time`, at `rate` bytes per patience.
    fn expected(&self, rate: u64, time: Duration) -> u64 {
        let patience = self.patience.as_nanos().max(1);
        let bytes = u128::from(rate) * time.as_nanos() / patience;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Bytes per patience, where `bytes` came within `time`.
    fn rate(&self, bytes: u64, time: Duration) -> u64 {
        let rate = u128::from(bytes) * self.patience.as_nanos() / time.as_nanos().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Each packet wakes the loop.
    Off,
    /// Only the mark does; drained last at this moment.
    On(Instant),
    /// As `On`, but being looked at after a silence.
    Looking(Instant),
}

/// Wake-ups since a moment, while each packet wakes the loop.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    wakes: u32,
    bytes: u64,
}

/// Decides for one connection. It makes no system calls: who calls it sets the mark, and says if that
/// failed.
#[derive(Debug)]
pub(super) struct Gathering {
    state: State,
    steady: bool,
    /// Bytes of the stream when it was drained last.
    total: u64,
    window: Option<Window>,
    /// Bytes per patience, as of late.
    rate: u64,
    /// Units of the patience that the last failed try is followed by.
    rest: u32,
    /// No try before this moment.
    not_before: Option<Instant>,
    /// Waits that went well since the last that did not.
    good: u32,
}

/// What the socket's mark should become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// So many bytes.
    Bytes(u64),
    /// A single one: each packet wakes.
    One,
}

impl Gathering {
    pub(super) fn new() -> Self {
        Self {
            state: State::Off,
            steady: false,
            total: 0,
            window: None,
            rate: 0,
            rest: 0,
            not_before: None,
            good: 0,
        }
    }

    /// When it was drained last, if it gathers and nobody looks at it.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.state {
            State::On(drained) => Some(drained),
            State::Off | State::Looking(_) => None,
        }
    }

    /// Whether it may wait longer than `patience`.
    pub(super) fn is_steady(&self) -> bool {
        self.steady
    }

    /// It has been silent for its time: it gets a turn, whatever there is.
    pub(super) fn look(&mut self) {
        if let State::On(drained) = self.state {
            self.state = State::Looking(drained);
        }
    }

    /// Nothing is left to read of a stream of `total` bytes so far: what the mark should be from now
    /// on, where that changes.
    pub(super) fn drained(&mut self, total: u64, now: Instant, limits: Limits) -> Option<Mark> {
        let new = total.saturating_sub(self.total);
        self.total = total;
        match self.state {
            State::Off => self.count(new, now, limits),
            State::On(before) => {
                self.went_well(new, now.saturating_duration_since(before), limits);
                self.state = State::On(now);
                None
            }
            State::Looking(before) => {
                let waited = now.saturating_duration_since(before);
                let expected = limits.expected(self.rate, waited);
                if new < limits.enough() || new < expected / 4 {
                    self.give_up(now, limits);
                    return Some(Mark::One);
                }
                self.steady = true;
                self.went_well(new, waited, limits);
                self.state = State::On(now);
                None
            }
        }
    }

    /// The socket took no such mark: each packet goes on to wake.
    pub(super) fn refused(&mut self, now: Instant, limits: Limits) {
        self.give_up(now, limits);
    }

    /// Counts a wake-up, and begins to gather where that would have saved some.
    fn count(&mut self, new: u64, now: Instant, limits: Limits) -> Option<Mark> {
        if limits.mark < LEAST || new == 0 {
            return None;
        }
        let age = |window: &Window| now.saturating_duration_since(window.since);
        let window = self.window.filter(|w| age(w) <= limits.patience);
        let since = self.window.map(|window| age(&window));
        let mut window = match window {
            Some(window) => window,
            // What it brought was sent before; it begins the next window.
            None => {
                self.window = Some(Window {
                    since: now,
                    wakes: 0,
                    bytes: 0,
                });
                let much = new >= limits.enough().max(limits.mark / 8);
                let time = since.unwrap_or(limits.patience).max(limits.patience);
                return much.then(|| self.begin(new, time, now, limits))?;
            }
        };
        window.wakes += 1;
        window.bytes += new;
        self.window = Some(window);
        let often = window.wakes >= WAKES && window.bytes >= limits.enough();
        let much = new >= limits.enough().max(limits.mark / 8);
        (often || much).then(|| self.begin(window.bytes, age(&window), now, limits))?
    }

    fn begin(&mut self, bytes: u64, time: Duration, now: Instant, limits: Limits) -> Option<Mark> {
        if self.not_before.is_some_and(|moment| now < moment) {
            return None;
        }
        self.rate = limits.rate(bytes, time);
        self.window = None;
        self.state = State::On(now);
        Some(Mark::Bytes(limits.mark))
    }

    fn went_well(&mut self, new: u64, time: Duration, limits: Limits) {
        self.rate = self.rate.midpoint(limits.rate(new, time));
        self.good = self.good.saturating_add(1);
        if self.good >= TRUSTED {
            self.rest = 0;
        }
    }

    fn give_up(&mut self, now: Instant, limits: Limits) {
        self.state = State::Off;
        self.steady = false;
        self.window = None;
        self.good = 0;
        self.rest = (self.rest * 2).clamp(1, LONGEST_REST);
        self.not_before = now.checked_add(limits.patience.saturating_mul(self.rest));
    }
}

#[cfg(test)]
mod tests;
