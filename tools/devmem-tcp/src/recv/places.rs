//! Warning of an unlimited receiver that has as many open connections as `--at-a-time` allows.

use std::time::{Duration, Instant};

use devmem::engine::Progress;

use super::args::Args;
use super::sinks::Ready;

/// Time for which the limit of open connections must be reached before a warning is given.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest time between two warnings that the limit of open connections is reached.
const INTERVAL: Duration = Duration::from_secs(60);

/// State of the warning that the limit of open connections is reached and further peers wait.
pub(super) struct Places {
    all: u64,
    progress: Progress,
    /// Time at which the limit of open connections was first seen reached; `None` below the limit.
    since: Option<Instant>,
    warned: Option<Instant>,
}

impl Places {
    pub(super) fn new(args: &Args, ready: &Ready<'_>) -> Self {
        Self {
            all: args.at_a_time().into(),
            progress: ready.progress(),
            since: None,
            warned: None,
        }
    }

    /// Returns a warning if the limit of open connections has been reached for 5 s. `ended` is the
    /// number of connections that have ended so far.
    pub(super) fn tick(&mut self, ended: u64) -> Option<String> {
        let open = self.progress.connections().saturating_sub(ended);
        self.look(open, Instant::now())
    }

    fn look(&mut self, open: u64, now: Instant) -> Option<String> {
        if open < self.all {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        let lately = self.warned.is_some_and(|at| now < at + INTERVAL);
        if waited < PATIENCE || lately {
            return None;
        }
        self.warned = Some(now);
        Some(format!(
            "{open} connections have been open for {} s, as many as may be: others wait\n  \
             --at-a-time allows more, with more memory; --idle-timeout ends silent ones",
            waited.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_places_are_warned_of_once_a_minute() {
        let mut places = Places {
            all: 2,
            progress: Progress::default(),
            since: None,
            warned: None,
        };
        let begin = Instant::now();
        let mut look = |open, seconds| places.look(open, begin + Duration::from_secs(seconds));
        assert_eq!(look(2, 0), None);
        assert_eq!(look(1, 4), None);
        assert_eq!(look(2, 6), None);
        assert_eq!(look(2, 10), None);
        let warning = look(2, 11).unwrap();
        assert!(warning.starts_with("2 connections have been open for 5 s"));
        assert_eq!(look(2, 60), None);
        assert!(look(2, 71).is_some());
    }
}
