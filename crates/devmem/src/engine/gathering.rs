//! When a connection lets bytes gather before it wakes the loop (`SO_RCVLOWAT`).
//!
//! A wake-up costs four or five system calls, whatever it brings. A receiver that keeps up with a
//! stream would be woken for each packet; one that waits for more is woken once per `patience`. But a
//! peer that waits for an answer sends no more, and each of its requests would be late by as long. The
//! two are distinguished by trying: a stream goes on at its rate while bytes gather, a request does not.
//!
//! - Off: several wake-ups in `patience` or a little more, that together brought enough, begin to gather.
//!   The bytes that arrive meanwhile give the pace of the stream while each packet wakes the loop.
//! - On: fewer bytes than the mark wake nothing, so the engine looks at a connection that has
//!   been silent for `patience`. The pace since it began to gather is held against the one before: a stream
//!   keeps it, an exchange of requests and answers does not. The second look that finds it fallen
//!   behind ends it, and the next try comes later each time, so that such an exchange pays for a
//!   vanishing part of its requests.
//! - Steady: on, and a look found the pace kept. It may wait four times as long, in which a peer that waits
//!   for answers still sends one request.
//! - Paused: a look found nothing at all, so nothing was late; or it was the first that found too little.
//!   Each packet wakes; a wake-up that brings enough goes on to gather.

use std::time::{Duration, Instant};

/// Least number of wake-ups, after a first one and within the patience, for which gathering is
/// worth it.
const MIN_WAKE_UPS: u32 = 2;
/// Number of bytes received within the patience for which gathering is worth it, or half of the
/// low-water mark if that is less.
const MIN_BYTES: u64 = 32 << 10;
/// Least low-water mark in bytes. With a lower one, a few small frags would wake the loop.
const MIN_MARK: u64 = 8 << 10;
/// Longest time between tries to gather, in units of the patience.
const MAX_REST: u32 = 512;
/// Number of checks in a row that found the stream at its pace, after which earlier failures are
/// forgotten. A sender that shares its processor with others pauses every now and then.
const TRUSTED_CHECKS: u32 = 8;
/// Number of wake-ups at the low-water mark that count as one successful check: a large request may
/// cause several.
const MARKS_PER_CHECK: u32 = 16;
/// Number of checks that found too few bytes, after which each packet wakes the loop again.
const MAX_STRIKES: u32 = 2;
/// Silence, in units of the patience, after which the pace of a stream is measured again.
const PACE_RESET_SILENCE: u32 = 16;
/// Time over which the pace of a stream is averaged, in units of the patience.
const PACE_PERIOD: u32 = 16;
/// Factor by which the patience is longer for a steady connection.
pub(super) const STEADY_FACTOR: u32 = 4;

/// Limits of gathering for a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Low-water mark of the socket, in bytes.
    pub(super) mark: u64,
    /// How long fewer bytes than the mark may wait.
    pub(super) patience: Duration,
}

impl Limits {
    fn enough(&self) -> u64 {
        MIN_BYTES.min(self.mark / 2)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Each packet wakes the loop.
    Off,
    /// Bytes gather: the loop is woken only when the low-water mark is reached.
    On,
    /// Bytes gather, and the engine checks the connection after a silence.
    Looking,
    /// Nothing came while bytes were to gather; each packet wakes the loop.
    Paused,
}

/// Wake-ups and bytes since a moment, while each packet wakes the loop.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    wakes: u32,
    bytes: u64,
}

/// Recent pace of a stream: bytes received, and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    bytes: u64,
    time: Duration,
}

impl Pace {
    fn add(&mut self, bytes: u64, time: Duration, limits: Limits) {
        if time > limits.patience * PACE_RESET_SILENCE {
            // After so long a silence the pace is counted from zero.
            *self = Self::default();
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.time += time;
        if self.time > limits.patience * PACE_PERIOD {
            self.bytes /= 2;
            self.time /= 2;
        }
    }

    /// Number of bytes received within `time` at this pace; 0 if the pace is not known.
    fn within(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.bytes) * time.as_nanos();
        let bytes = bytes.checked_div(self.time.as_nanos()).unwrap_or(0);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether this pace is below two thirds of another.
    fn is_far_below(&self, other: Self) -> bool {
        self.bytes < other.within(self.time) / 3 * 2
    }
}

/// Decision whether one connection lets bytes gather. It makes no system calls: the caller sets the
/// low-water mark, and tells if that failed.
#[derive(Debug)]
pub(super) struct Gathering {
    state: State,
    steady: bool,
    /// Length of the stream in bytes when its socket was read empty last.
    total: u64,
    drained: Option<Instant>,
    window: Option<Window>,
    /// Pace of the stream since gathering began, or ended.
    pace: Pace,
    /// Pace of the stream before gathering began.
    before: Pace,
    /// Pause after the last failed try to gather, in units of the patience.
    rest: u32,
    /// Time before which there is no further try to gather.
    not_before: Option<Instant>,
    /// Number of waits since the last failure after which the stream had kept its pace; a check
    /// counts as several wake-ups at the mark.
    good: u32,
    /// Number of checks that found too few bytes, since earlier failures were forgotten.
    strikes: u32,
}

/// New value of the socket's low-water mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A number of bytes: the loop is woken when they have come.
    Bytes(u64),
    /// A single byte: each packet wakes the loop.
    One,
}

impl Gathering {
    pub(super) fn new() -> Self {
        Self {
            state: State::Off,
            steady: false,
            total: 0,
            drained: None,
            window: None,
            pace: Pace::default(),
            before: Pace::default(),
            rest: 0,
            not_before: None,
            good: 0,
            strikes: 0,
        }
    }

    /// Time at which the socket was read empty last, if bytes gather and no check goes on.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.state {
            State::On => self.drained,
            State::Off | State::Looking | State::Paused => None,
        }
    }

    /// Whether the connection's bytes may gather for longer than the patience, because they come
    /// steadily.
    pub(super) fn is_steady(&self) -> bool {
        self.steady
    }

    /// Begins a check: the connection has been silent for the patience and gets a turn.
    pub(super) fn look(&mut self) {
        if self.state == State::On {
            self.state = State::Looking;
        }
    }

    /// Takes note that the socket was read empty, of a stream of `total` bytes so far, and returns
    /// the new low-water mark, where that changes.
    pub(super) fn drained(&mut self, total: u64, now: Instant, limits: Limits) -> Option<Mark> {
        let new = total.saturating_sub(self.total);
        self.total = total;
        let earlier = self.pace;
        if let Some(before) = self.drained.replace(now) {
            let time = now.saturating_duration_since(before);
            self.pace.add(new, time, limits);
        }
        match self.state {
            State::Off => self.count(new, earlier, now, limits),
            State::On => {
                self.went_well(1);
                None
            }
            State::Looking if new == 0 => Some(self.pause()),
            State::Looking => {
                if new >= limits.enough() && !self.pace.is_far_below(self.before) {
                    self.steady = true;
                    self.went_well(MARKS_PER_CHECK);
                    self.state = State::On;
                    return None;
                }
                self.strikes += 1;
                self.good = 0;
                if self.strikes >= MAX_STRIKES {
                    self.give_up(now, limits);
                    return Some(Mark::One);
                }
                Some(self.pause())
            }
            State::Paused if new >= limits.enough() => {
                self.state = State::On;
                Some(Mark::Bytes(limits.mark))
            }
            State::Paused => self.count(new, earlier, now, limits),
        }
    }

    /// Stops gathering until a wake-up brings many bytes, and returns the low-water mark for that.
    fn pause(&mut self) -> Mark {
        self.state = State::Paused;
        self.steady = false;
        Mark::One
    }

    /// Takes note that the socket refused the low-water mark: each packet goes on to wake the loop.
    pub(super) fn refused(&mut self, now: Instant, limits: Limits) {
        self.give_up(now, limits);
    }

    /// Counts a wake-up, and begins to gather where gathering would have saved wake-ups.
    fn count(&mut self, new: u64, earlier: Pace, now: Instant, limits: Limits) -> Option<Mark> {
        if limits.mark < MIN_MARK || limits.patience.is_zero() || new == 0 {
            return None;
        }
        let next = Window {
            since: now,
            wakes: 0,
            bytes: 0,
        };
        // The first wake-up's bytes were sent before gathering began.
        let mut window = self.window.replace(next)?;
        let age = now.saturating_duration_since(window.since);
        window.wakes += 1;
        window.bytes += new;
        if age < limits.patience {
            self.window = Some(window);
            return None;
        }
        let worth = window.wakes >= MIN_WAKE_UPS && window.bytes >= limits.enough();
        let late = age > limits.patience * 2;
        if !worth || late || self.not_before.is_some_and(|moment| now < moment) {
            return None;
        }
        if self.state == State::Off {
            // Without the first piece of a request, whose time has only begun.
            self.before = earlier;
            self.pace = Pace::default();
        }
        self.window = None;
        self.state = State::On;
        Some(Mark::Bytes(limits.mark))
    }

    fn went_well(&mut self, weight: u32) {
        self.good = self.good.saturating_add(weight);
        if self.good >= TRUSTED_CHECKS * MARKS_PER_CHECK {
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
        self.pace = Pace::default();
        self.rest = (self.rest * 2).clamp(1, MAX_REST);
        self.not_before = now.checked_add(limits.patience.saturating_mul(self.rest));
    }
}

#[cfg(test)]
mod tests;
