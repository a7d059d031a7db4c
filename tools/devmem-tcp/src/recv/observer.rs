//! Output while a receiver runs: a view each second, and warnings.

use std::time::Duration;

use common::stdio;

use super::args::Args;
use super::beside::Beside;
use super::ended::{Line, Served};
use super::live::Live;
use super::places::Places;
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
    served: Option<(Served, Places)>,
}

impl Observer {
    /// For a receiver; with `stdout_taken` nothing is shown on standard output.
    pub(super) fn new(
        args: &Args,
        ready: &Ready<'_>,
        served: Option<Served>,
        stdout_taken: bool,
    ) -> Self {
        // From here on log lines are posted, too.
        stdio::stderr().post("");
        Self {
            beside: Beside::new(ready, args.refuse_unsteered),
            memory: Watcher::new(ready, args.niov(), args.memory.larger()),
            live: Live::new(args, ready, stdout_taken),
            served: served.map(|served| (served, Places::new(args, ready))),
        }
    }

    pub(super) fn tick(&mut self) {
        let mut warnings = self.memory.tick();
        warnings.extend(self.beside.tick());
        let mut lines = Vec::new();
        if let Some((served, places)) = &mut self.served {
            warnings.extend(places.tick(served.sums().counts.all()));
            lines = served.take_lines();
        }
        if !warnings.is_empty() || !lines.is_empty() {
            self.clear();
        }
        self.print(lines);
        for warning in &warnings {
            report::warn(warning);
        }
        if let Some(live) = &mut self.live {
            live.tick(self.memory.state(), self.beside.warning());
        }
    }

    /// Prints lines of connections that have ended, as fast as they are read.
    fn print(&self, lines: Vec<Line>) {
        let Some((served, _)) = &self.served else {
            return;
        };
        for line in lines {
            let post = || match line.is_warning {
                true => report::warn(&line.text),
                false => report::tell(&line.text),
            };
            if post() {
                continue;
            }
            stdio::stderr().settle(TAKEN);
            if !post() {
                served.miss_line();
            }
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
        if let Some((served, _)) = &self.served {
            self.print(served.take_lines());
        }
        let (memory, warning) = self.memory.end();
        let warnings = warning.into_iter().chain(self.beside.end());
        warnings.for_each(|warning| {
            report::warn(&warning);
        });
        memory
    }
}
