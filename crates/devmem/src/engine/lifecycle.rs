//! State machine of a connection between events, without sockets and without a clock.
//!
//! The engine tells the machine what happened ([`Input`]) and when, and does what the machine answers
//! ([`Action`]). [`Lifecycle::deadline`] is the moment at which the engine has to come back with
//! [`Input::Time`], if nothing else happens before.
//!
//! - [`Phase::Waiting`]: nothing is left to read; an event of the socket makes the connection ready. A
//!   connection that gathers is made ready by time too, because fewer bytes than its mark cause no event,
//!   and so is one that reached the idle timeout.
//! - [`Phase::Ready`]: the connection gets a turn in each round of the loop, until it is drained.
//! - [`Phase::Paused`]: the sink keeps too many frags. Nothing is read until frags come back.
//! - [`Phase::Closing`]: the connection has ended, but its sink still keeps frags.
//! - [`Phase::Closed`]: nothing is left to do but to close the socket.
//!
//! Besides, a connection may hold tokens in any phase: at most for [`Config::hold`].

use std::time::{Duration, Instant};

use super::config::Config;
use super::gathering::{Gathering, Limits, Mark};

/// Length of a connection's pause after which a warning names the connection.
const PAUSE_WARNING: Duration = Duration::from_secs(1);

/// Phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for an event: the socket has nothing to read.
    Waiting {
        /// Whether the idle timeout has passed, and the turn that followed received nothing.
        probed: bool,
    },
    /// Waits for its turn to be read.
    Ready {
        /// Whether the idle timeout has passed, so that the connection ends unless its turn
        /// receives something. Bytes may be there unread, as when this process was stopped for a
        /// while.
        probe: bool,
    },
    /// Paused: not read until the sink gives frags back.
    Paused {
        /// Time at which the pause began.
        since: Instant,
        /// Whether a warning has named the connection.
        warned: bool,
    },
    /// The connection has ended, and its sink keeps frags.
    Closing {
        /// Time at which the connection ended.
        since: Instant,
    },
    /// The connection has ended, and its slot is to be closed.
    Closed,
}

/// Tokens that wait for the next flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    /// Time since which the oldest of the tokens waits.
    Since(Instant),
    /// The kernel refused the tokens. The flush when the socket is closed is the last try.
    Refused,
}

/// Input of a connection's state machine: something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The socket reported that it is readable. With `end` the socket reported an end of the stream
    /// or an error, perhaps behind bytes.
    Event { end: bool },
    /// The connection's turn spent its budget with data left.
    More,
    /// The connection's turn read the socket until it was empty.
    Drained {
        /// Whether the connection's turn received bytes.
        received: bool,
        /// Length in bytes of the stream so far.
        total: u64,
        /// Low-water mark for gathering, in bytes.
        mark: u64,
    },
    /// The connection's turn ended because the sink keeps too many frags.
    Full,
    /// The kernel refused the low-water mark.
    MarkRefused,
    /// Whether tokens wait for the next flush: an input after each turn, flush and return of frags.
    Held(bool),
    /// The kernel refused tokens.
    FlushRefused,
    /// The sink gave frags back.
    Returned {
        /// Whether the sink may keep more frags now.
        room: bool,
        /// Whether the sink still keeps frags.
        kept: bool,
    },
    /// The time of [`Lifecycle::deadline`] has come.
    Time,
    /// The connection has ended; `kept` tells whether its sink still keeps frags.
    End { kept: bool },
}

/// Answer of a connection's state machine: what the engine has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The engine has nothing to do.
    None,
    /// Flush the connection's tokens.
    Flush,
    /// Set the socket's low-water mark.
    SetMark(Mark),
    /// Warn that the sink keeps too many frags.
    Warn,
    /// End the connection: its peer has been silent for the idle timeout.
    EndSilent { waited: Duration },
    /// End the connection: its sink has kept too many frags for too long.
    EndStalled { waited: Duration },
    /// Close the connection, which has ended.
    Close,
}

/// State machine of a connection: what it does at each event.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// Whether an event reported the stream's end or an error. No other event follows, so the stream is
    /// read to that end.
    ended_by_peer: bool,
    held: Held,
    /// Time of the last bytes, of the start, or of the end of a pause.
    active: Instant,
    gathering: Gathering,
}

impl Lifecycle {
    /// State of a new connection. What the socket has already received causes an event.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Waiting { probed: false },
            ended_by_peer: false,
            held: Held::Nothing,
            active: now,
            gathering: Gathering::new(),
        }
    }

    /// Takes an input at `now` and returns the action that it requires.
    pub(super) fn step(&mut self, input: Input, now: Instant, config: &Config) -> Action {
        match input {
            Input::Event { end } => {
                // Kept in every phase, because no other event reports the end.
                self.ended_by_peer |= end;
                if let Phase::Waiting { .. } | Phase::Ready { .. } = self.phase {
                    self.phase = Phase::Ready { probe: false };
                }
            }
            Input::More if self.is_ready() => {
                self.active = now;
                self.phase = Phase::Ready { probe: false };
            }
            Input::Drained {
                received,
                total,
                mark,
            } if self.is_ready() => return self.drained(received, total, mark, now, config),
            Input::Full if self.is_ready() => {
                self.phase = Phase::Paused {
                    since: now,
                    warned: false,
                };
            }
            Input::More | Input::Drained { .. } | Input::Full => {}
            Input::MarkRefused => self.gathering.refused(now, limits(0, config)),
            Input::Held(false) => self.held = Held::Nothing,
            Input::Held(true) => {
                if self.held == Held::Nothing {
                    self.held = Held::Since(now);
                }
            }
            Input::FlushRefused => self.held = Held::Refused,
            Input::Returned { room, kept } => return self.returned(room, kept, now),
            Input::Time => return self.time(now, config),
            Input::End { kept } => {
                if !self.has_ended() {
                    self.phase = Phase::Closing { since: now };
                }
                return self.close_unless(kept);
            }
        }
        Action::None
    }

    fn drained(
        &mut self,
        received: bool,
        total: u64,
        mark: u64,
        now: Instant,
        config: &Config,
    ) -> Action {
        if received {
            self.active = now;
        }
        let probed = self.phase == Phase::Ready { probe: true } && !received;
        self.phase = Phase::Waiting { probed };
        let mark = self.gathering.drained(total, now, limits(mark, config));
        let steady = self.gathering.is_steady();
        match mark {
            Some(mark) => Action::SetMark(mark),
            // A steady connection waits longer than tokens may be held, so flush now.
            None if steady && config.hold < config.steady_patience() => Action::Flush,
            None => Action::None,
        }
    }

    fn returned(&mut self, room: bool, kept: bool, now: Instant) -> Action {
        if self.held == Held::Refused {
            // With other tokens behind them, the refused ones are tried once more.
            self.held = Held::Since(now);
        }
        match self.phase {
            Phase::Paused { .. } if room => {
                self.active = now;
                self.phase = Phase::Ready { probe: false };
                Action::None
            }
            Phase::Closing { .. } => self.close_unless(kept),
            _ => Action::None,
        }
    }

    fn time(&mut self, now: Instant, config: &Config) -> Action {
        let is_due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
        if is_due(self.flush_at(config)) {
            self.held = Held::Nothing;
            return Action::Flush;
        }
        match self.phase {
            Phase::Waiting { probed } => {
                let (idle, look) = (is_due(self.idle_at(config)), is_due(self.look_at(config)));
                if idle && probed {
                    let waited = now.saturating_duration_since(self.active);
                    return Action::EndSilent { waited };
                }
                if look {
                    self.gathering.look();
                }
                if idle || look {
                    self.phase = Phase::Ready { probe: idle };
                }
            }
            Phase::Paused { since, warned } if is_due(pause_due(since, warned, config)) => {
                if warned {
                    let waited = now.saturating_duration_since(since);
                    return Action::EndStalled { waited };
                }
                self.phase = Phase::Paused {
                    since,
                    warned: true,
                };
                return Action::Warn;
            }
            Phase::Closing { since } if is_due(since.checked_add(config.returns)) => {
                return self.close_unless(false);
            }
            Phase::Ready { .. } | Phase::Paused { .. } | Phase::Closing { .. } | Phase::Closed => {}
        }
        Action::None
    }

    fn close_unless(&mut self, kept: bool) -> Action {
        if kept {
            return Action::None;
        }
        self.phase = Phase::Closed;
        Action::Close
    }

    /// Time at which [`Input::Time`] is due. `None` if there is no deadline, or if a clock does not
    /// go that far.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        let of_phase = match self.phase {
            Phase::Waiting { .. } => earliest(self.idle_at(config), self.look_at(config)),
            Phase::Paused { since, warned } => pause_due(since, warned, config),
            Phase::Closing { since } => since.checked_add(config.returns),
            Phase::Ready { .. } | Phase::Closed => None,
        };
        earliest(of_phase, self.flush_at(config))
    }

    /// Time at which the tokens have been held for long enough.
    fn flush_at(&self, config: &Config) -> Option<Instant> {
        self.held_since()?.checked_add(config.hold)
    }

    /// Time at which a waiting connection has been idle for too long.
    fn idle_at(&self, config: &Config) -> Option<Instant> {
        self.active.checked_add(config.idle_timeout?)
    }

    /// Time at which a gathering connection has been silent for too long, so that the engine checks
    /// it.
    fn look_at(&self, config: &Config) -> Option<Instant> {
        let patience = match self.gathering.is_steady() {
            true => config.steady_patience(),
            false => config.patience,
        };
        self.gathering.waits_since()?.checked_add(patience)
    }

    /// Whether the connection is to be read.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Whether the connection has ended, though its sink may keep frags.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Closed)
    }

    /// Whether the stream has to be read to its end or an error, because no other event comes.
    pub(super) fn ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    /// Time since which tokens wait for the next flush; `None` if there are none, or if the kernel refused
    /// them.
    pub(super) fn held_since(&self) -> Option<Instant> {
        match self.held {
            Held::Since(since) => Some(since),
            Held::Nothing | Held::Refused => None,
        }
    }

    /// Time since which the connection is not read because its sink keeps too many frags.
    pub(super) fn paused_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Paused { since, .. } => Some(since),
            _ => None,
        }
    }
}

/// Time at which a pause needs a warning or, after the warning, ends the connection.
fn pause_due(since: Instant, warned: bool, config: &Config) -> Option<Instant> {
    match warned {
        false => since.checked_add(PAUSE_WARNING),
        true => since.checked_add(config.stalled?.max(PAUSE_WARNING)),
    }
}

fn limits(mark: u64, config: &Config) -> Limits {
    Limits {
        mark,
        patience: config.patience,
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
