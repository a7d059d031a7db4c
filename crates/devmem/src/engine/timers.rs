//! Timers of connections.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Connections, each since a moment, that are due a fixed time after it.
#[derive(Debug)]
pub(super) struct Timers {
    after: Duration,
    since: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Timers {
    pub(super) fn new(after: Duration) -> Self {
        Self {
            after,
            since: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, index: usize, since: Instant) {
        self.since.push(Reverse((since, index)));
    }

    /// When the first is due, if a clock goes that far.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let Reverse((since, _)) = self.since.peek()?;
        since.checked_add(self.after)
    }

    /// Takes the first out, if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let Reverse((since, _)) = self.since.peek()?;
        match now.saturating_duration_since(*since) < self.after {
            true => None,
            false => self.pop(),
        }
    }

    /// Takes the first out, due or not.
    pub(super) fn pop(&mut self) -> Option<(usize, Instant)> {
        let Reverse((since, index)) = self.since.pop()?;
        Some((index, since))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.since.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_due_first_whenever_it_was_pushed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new(Duration::from_secs(10));
        for (index, since) in [(0, 5), (1, 3), (2, 9), (3, 3)] {
            timers.push(index, at(since));
        }
        assert_eq!(timers.next_due(), Some(at(13)));
        assert_eq!(timers.pop_due(at(12)), None);
        assert_eq!(timers.pop_due(at(13)), Some((1, at(3))));
        assert_eq!(timers.pop_due(at(15)), Some((3, at(3))));
        assert_eq!(timers.pop_due(at(15)), Some((0, at(5))));
        assert_eq!(timers.pop_due(at(15)), None);
        assert_eq!((timers.len(), timers.pop()), (1, Some((2, at(9)))));
    }
}
