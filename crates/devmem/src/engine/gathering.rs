//! When a connection lets bytes gather before it wakes the loop (`SO_RCVLOWAT`).
//!
//! A wake-up costs four or five system calls, whatever it brings. A receiver that keeps up with a
//! stream would be woken for each packet; one that waits for more is woken once per `patience`. But a
//! peer that waits for an answer sends no more, and each of its requests would be late by as long. The
//! two are distinguished by trying: a stream goes on at its rate while bytes gather, a request does not.
//!
//! - Off: several wake-ups in `patience` or a little more, that together brought enough, begin to gather.
//!   They also tell the rate.
//! - Gathering: fewer bytes than the mark wake nothing, so the engine looks at a connection that has
//!   been silent for `patience`. What it finds is held against the rate: half of it is a stream's, less is a
//!   request's. Looks never lower the rate, since a peer that waits sends no faster than it is
//!   looked at. The second that finds too little ends it, and the next try comes later each time, so that
//!   an exchange of requests and answers pays for a vanishing part of them.
//! - Paused: a look found nothing at all, so nothing was late. The next packet wakes; if it brings
//!   enough at once, the stream goes on and gathers again, or else it is off.
//! - Steady: a look that found enough. It may wait four times as long, in which a peer that waits for
//!   answers still sends one request.

use std::time::{Duration, Instant};

/// Wake-ups after a first one that make gathering worth it: at least this many.
const WAKES: u32 = 2;
/// Bytes within the patience that make it worth it, where the mark is not smaller than twice that.
const ENOUGH: u64 = 32 << 10;
/// The least mark. With a lower one, a few small frags would do.
const LEAST: u64 = 8 << 10;
/// The longest time between tries, in units of the patience.
const LONGEST_REST: u32 = 512;
/// Looks in a row that went well, after which earlier failures are forgotten. A sender that shares its
/// processor with others pauses every now and then.
const TRUSTED: u32 = 8;
/// So many wake-ups by the mark count as one such look: a large request may bring several.
const MARKS: u32 = 16;
/// Looks that found too little, after which each packet wakes the loop again.
const STRIKES: u32 = 2;
/// A steady connection waits longer by this factor.
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
    /// Nothing came while bytes were to gather; each packet wakes the loop.
    Paused,
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
    /// Waits that went well since the last that did not, a look counted for many wake-ups by the mark.
    good: u32,
    /// Looks that found too little, since all went well.
    strikes: u32,
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
            strikes: 0,
        }
    }

    /// When it was drained last, if it gathers and is not being looked at.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.state {
            State::On(drained) => Some(drained),
            State::Off | State::Looking(_) | State::Paused => None,
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
                let rate = limits.rate(new, now.saturating_duration_since(before));
                self.rate = self.rate.midpoint(rate);
                self.went_well(1);
                self.state = State::On(now);
                None
            }
            State::Paused if new >= limits.enough() => {
                self.state = State::On(now);
                Some(Mark::Bytes(limits.mark))
            }
            State::Paused => {
                self.state = State::Off;
                self.count(new, now, limits)
            }
            State::Looking(_) if new == 0 => {
                self.state = State::Paused;
                self.steady = false;
                Some(Mark::One)
            }
            State::Looking(before) => {
                let waited = now.saturating_duration_since(before);
                let expected = limits.expected(self.rate, waited);
                let enough = new >= limits.enough();
                if enough && new >= expected / 2 {
                    let rate = self.rate.midpoint(limits.rate(new, waited));
                    self.rate = self.rate.max(rate);
                    self.steady = true;
                    self.went_well(MARKS);
                } else {
                    self.strikes += 1;
                    self.good = 0;
                    self.steady = false;
                    if self.strikes >= STRIKES {
                        self.give_up(now, limits);
                    } else {
                        self.state = State::Paused;
                    }
                    return Some(Mark::One);
                }
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
        if limits.mark < LEAST || limits.patience.is_zero() || new == 0 {
            return None;
        }
        let next = Window {
            since: now,
            wakes: 0,
            bytes: 0,
        };
        // What the first one brought was sent before.
        let mut window = self.window.replace(next)?;
        let age = now.saturating_duration_since(window.since);
        window.wakes += 1;
        window.bytes += new;
        if age < limits.patience {
            self.window = Some(window);
            return None;
        }
        let worth = window.wakes >= WAKES && window.bytes >= limits.enough();
        let late = age > limits.patience * 2;
        if !worth || late || self.not_before.is_some_and(|moment| now < moment) {
            return None;
        }
        self.rate = limits.rate(window.bytes, age);
        self.window = None;
        self.state = State::On(now);
        Some(Mark::Bytes(limits.mark))
    }

    fn went_well(&mut self, weight: u32) {
        self.good = self.good.saturating_add(weight);
        if self.good >= TRUSTED * MARKS {
            self.rest = 0;
            self.strikes = 0;
        }
    }

    fn give_up(&mut self, now: Instant, limits: Limits) {
        self.state = State::Off;
        self.steady = false;
        self.window = None;
        self.good = 0;
        self.strikes = 0;
        self.rest = (self.rest * 2).clamp(1, LONGEST_REST);
        self.not_before = now.checked_add(limits.patience.saturating_mul(self.rest));
    }
}

#[cfg(test)]
mod tests;
