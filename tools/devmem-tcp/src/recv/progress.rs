//! A line a second on how it goes.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use common::stdio;
use devmem::engine::Progress;

const SECOND: Duration = Duration::from_secs(1);
const MIB: f64 = (1 << 20) as f64;

/// Tells on stderr what an engine has received: a line that is written over on a terminal, else a
/// line of its own each time.
#[derive(Debug)]
pub(super) struct RateLine {
    progress: Progress,
    terminal: bool,
    last: (Instant, u64),
    written: bool,
}

impl RateLine {
    /// On a terminal, or where it is asked for.
    pub(super) fn new(progress: Progress, wanted: bool) -> Option<Self> {
        let terminal = io::stderr().is_terminal();
        (terminal || wanted).then(|| Self {
            progress,
            terminal,
            last: (Instant::now(), 0),
            written: false,
        })
    }

    /// Writes the line if a second has passed. While nothing comes there is nothing to tell.
    pub(super) fn tick(&mut self) {
        let (at, before) = self.last;
        let elapsed = at.elapsed();
        if elapsed < SECOND {
            return;
        }
        let bytes = self.progress.bytes();
        self.last = (Instant::now(), bytes);
        if bytes == 0 || (bytes == before && !self.terminal) {
            return;
        }
        // While a line is still unread, a second one would say nothing more.
        if !stdio::stderr().is_idle() {
            return;
        }
        let text = line(bytes, bytes - before, elapsed, self.progress.connections());
        let text = match self.terminal {
            true => format!("\r\x1b[K{text}"),
            false => format!("devmem-tcp: {text}\n"),
        };
        self.written |= stdio::stderr().post_raw(&text);
    }

    /// Takes the line off a terminal, for what is printed next.
    pub(super) fn clear(&mut self) {
        if self.terminal && std::mem::take(&mut self.written) {
            stdio::stderr().post_raw("\r\x1b[K");
        }
    }
}

/// `received 1280.0 MiB, 640.0 MiB/s, 1 connection accepted`.
fn line(bytes: u64, since: u64, elapsed: Duration, connections: u64) -> String {
    let total = bytes as f64 / MIB;
    let rate = since as f64 / MIB / elapsed.as_secs_f64().max(f64::EPSILON);
    let plural = if connections == 1 { "" } else { "s" };
    format!("received {total:.1} MiB, {rate:.1} MiB/s, {connections} connection{plural} accepted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_total_and_the_rate_of_the_last_second() {
        let half = Duration::from_millis(500);
        assert_eq!(
            line(3 << 20, 1 << 20, half, 1),
            "received 3.0 MiB, 2.0 MiB/s, 1 connection accepted"
        );
        assert!(line(1, 1, half, 2).ends_with("2 connections accepted"));
    }
}
