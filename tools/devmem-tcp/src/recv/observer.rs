//! Output while a receiver runs: a view each second, and warnings.

use std::time::Duration;

use common::stdio;

use super::args::Args;
use super::beside::Beside;
use super::live::Live;
use super::pool::{State, Watcher};
use super::sinks::Ready;
use crate::report;

/// How long a terminal may take for a few lines.
const TAKEN: Duration = Duration::from_millis(50);

/// All that a running receiver is looked at by. It runs on the thread that watches for what may go
/// away, a few times a second, and not on those that receive.
pub(super) struct Observer {
    memory: Watcher,
    beside: Beside,
    live: Option<Live>,
}

impl Observer {
    /// For a receiver; with `stdout_taken` nothing is shown on standard output.
    pub(super) fn new(args: &Args, ready: &Ready<'_>, stdout_taken: bool) -> Self {
        // From here on log lines are posted, too.
        stdio::stderr().post("");
        Self {
            beside: Beside::new(ready, args.refuse_unsteered),
            memory: Watcher::new(ready, args.niov(), args.memory.larger()),
            live: Live::new(args, ready, stdout_taken),
        }
    }

    pub(super) fn tick(&mut self) {
        let mut warnings = self.memory.tick();
        warnings.extend(self.beside.tick());
        if !warnings.is_empty() {
            self.clear();
        }
        for warning in &warnings {
            report::warn(warning);
        }
        if let Some(live) = &mut self.live {
            live.tick(self.memory.state(), self.beside.warning());
        }
    }

    /// Takes off the terminal what was written over and over.
    fn clear(&mut self) {
        if let Some(live) = &mut self.live {
            live.clear();
        }
        // Before what is written to another stream of the same terminal.
        stdio::stdout().settle(TAKEN);
        stdio::stderr().settle(TAKEN);
    }

    /// The end: the terminal as it was, and how much memory was taken.
    pub(super) fn end(mut self) -> State {
        self.clear();
        let (memory, warning) = self.memory.end();
        let warnings = warning.into_iter().chain(self.beside.end());
        warnings.for_each(|warning| {
            report::warn(&warning);
        });
        memory
    }
}
