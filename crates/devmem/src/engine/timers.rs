//! Which connections are due for something, and when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Connections, each since a moment, that are due a fixed time after it: so that those that came
/// first are due first.
#[derive(Debug)]
pub(super) struct Timers {
    after: Duration,
    since: VecDeque<(usize, Instant)>,
}

impl Timers {
    pub(super) fn new(after: Duration) -> Self {
        Self {
            after,
            since: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, index: usize, since: Instant) {
        self.since.push_back((index, since));
    }

    /// When the first is due, if a clock goes that far.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.since.front()?.1.checked_add(self.after)
    }

    /// Takes the first out, if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let (_, since) = self.since.front()?;
        match now.saturating_duration_since(*since) < self.after {
            true => None,
            false => self.since.pop_front(),
        }
    }

    /// Takes the first out, due or not.
    pub(super) fn pop(&mut self) -> Option<(usize, Instant)> {
        self.since.pop_front()
    }
}
