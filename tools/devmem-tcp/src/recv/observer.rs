//! Output of a running receiver: a live view each second, ended connections, and warnings.

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

/// Longest wait for lines on standard output or standard error to be written.
const TAKEN: Duration = Duration::from_millis(50);

/// Printer of a running receiver's live view, ended connections and warnings. Runs a few times a
/// second on the thread that watches for removals, not on the threads that receive.
pub(super) struct Observer {
    memory: Watcher,
    beside: Beside,
    live: Option<Live>,
    served: Option<(Served, Places)>,
}

impl Observer {
    /// Makes a receiver's observer. With `stdout_taken`, nothing is printed on standard output.
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

    /// Prints lines about ended connections on standard error. Counts lines not read in time.
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

    /// Erases the live view from the terminal, and waits for pending output to be written.
    fn clear(&mut self) {
        if let Some(live) = &mut self.live {
            live.clear();
        }
        // Before what is written to another stream of the same terminal.
        stdio::stdout().settle(TAKEN);
        stdio::stderr().settle(TAKEN);
    }

    /// Erases the live view and prints what is left. Returns the final use of the dmabufs.
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
