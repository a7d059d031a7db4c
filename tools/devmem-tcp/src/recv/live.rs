//! Progress output of a receiver, once a second: a view on a terminal, plain lines, or JSON.
//! Without `--live`, one line on a terminal.

mod draw;
mod figures;
mod second;
mod view;
#[cfg(test)]
mod view_tests;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use common::stdio::{self, Stream};
use devmem::engine::{ConnectionSnapshot, Monitor, Snapshot};

use super::args::Args;
use super::pool::{PATIENCE, State};
use super::sinks::Ready;
use draw::Screen;
use second::{Connection, MIB, Queue, Second, Tokens};

pub(super) use second::plural;

const SECOND: Duration = Duration::from_secs(1);

/// Byte counts of the previous snapshot, from which rates are computed.
#[derive(Debug, Default)]
struct Before {
    at: Option<Instant>,
    bytes: u64,
    connections: BTreeMap<usize, u64>,
    queues: BTreeMap<Option<u32>, u64>,
}

impl Before {
    fn rate(&self, now: Instant, bytes: u64, before: u64) -> f64 {
        let since = self.at.map(|at| now.saturating_duration_since(at));
        let seconds = since.unwrap_or_default().as_secs_f64();
        match seconds > 0.0 {
            true => bytes.saturating_sub(before) as f64 / MIB / seconds,
            false => 0.0,
        }
    }
}

enum Out {
    Screen(Screen),
    Lines,
    Json,
}

/// Printer of a receiver's progress, once a second.
pub(super) struct Live {
    monitor: Monitor,
    out: Out,
    stream: &'static Stream,
    began: Instant,
    next: Instant,
    /// Last snapshot of the engine, which is shown again if the engine does not answer.
    last: Option<Snapshot>,
    before: Before,
    /// Time of the last snapshot without any received byte, from which the mean rate is computed.
    empty: Option<Instant>,
}

impl Live {
    /// Makes the printer of a receiver's progress; `None` if no progress is to be printed. With
    /// `--live`, prints on standard output, or on standard error if standard output carries the
    /// payload; otherwise one line on standard error, if that is a terminal.
    pub(super) fn new(args: &Args, ready: &Ready<'_>, stdout_taken: bool) -> Option<Self> {
        let title = format!("recv {}", ready.device().link.name);
        let to_stderr = !args.live || stdout_taken;
        let (stream, terminal) = match to_stderr {
            true => (stdio::stderr(), io::stderr().is_terminal()),
            false => (stdio::stdout(), io::stdout().is_terminal()),
        };
        let out = match (args.live, args.json, terminal) {
            (true, true, _) => Out::Json,
            (true, false, true) => Out::Screen(Screen::new(title, to_stderr, usize::MAX)),
            (true, false, false) => Out::Lines,
            (false, _, true) if !args.quiet => Out::Screen(Screen::new(title, to_stderr, 1)),
            (false, _, false) if args.progress => Out::Lines,
            (false, ..) => return None,
        };
        let now = Instant::now();
        Some(Self {
            monitor: ready.monitor(),
            out,
            stream,
            began: now,
            next: now + SECOND,
            last: None,
            before: Before {
                at: Some(now),
                ..Before::default()
            },
            empty: Some(now),
        })
    }

    /// Prints the receiver's progress if a second has passed since the last time.
    pub(super) fn tick(&mut self, memory: &State, warning: Option<&str>) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = (self.next + SECOND).max(now);
        // The last one was not read yet, so this second is left out: what is drawn is drawn over
        // what was, and a line begins where another ends.
        if !self.stream.is_idle() {
            return;
        }
        let missing = match self.monitor.snapshot(PATIENCE) {
            Some(snapshot) => self.last.insert(snapshot).missing,
            None => 1,
        };
        let Some(snapshot) = self.last.take() else {
            return;
        };
        let second = Second {
            warning: warning.map(str::to_owned),
            ..self.second(&snapshot, memory, missing)
        };
        match &mut self.out {
            Out::Screen(screen) => {
                let text = screen.draw(&second, &snapshot.total().telemetry);
                self.stream.post_raw(&text);
            }
            Out::Lines => {
                self.stream.post(&second.line());
            }
            Out::Json => {
                if let Ok(line) = serde_json::to_string(&second) {
                    self.stream.post_raw(&(line + "\n"));
                }
            }
        }
        self.last = Some(snapshot);
    }

    /// Erases the live view from the terminal, before other output is printed.
    pub(super) fn clear(&mut self) {
        if let Out::Screen(screen) = &mut self.out {
            let text = screen.erase();
            self.stream.post_raw(&text);
        }
    }

    fn second(&mut self, snapshot: &Snapshot, memory: &State, missing: usize) -> Second {
        let total = snapshot.total();
        let now = match missing {
            0 => snapshot.taken,
            _ => Instant::now(),
        };
        let bytes = total.stats.bytes;
        if bytes == 0 {
            self.empty = Some(now);
        }
        let since_empty = Before {
            at: self.empty,
            ..Before::default()
        };
        let mut connections: Vec<_> = snapshot
            .connections
            .iter()
            .map(|look| self.connection(look, now, memory))
            .collect();
        connections.sort_by(|a, b| {
            let by_rate = b.mib_per_second.total_cmp(&a.mib_per_second);
            by_rate.then(b.bytes.cmp(&a.bytes))
        });
        let second = Second {
            at: now.saturating_duration_since(self.began).as_secs_f64(),
            bytes,
            mib_per_second: self.before.rate(now, bytes, self.before.bytes),
            mean_mib_per_second: since_empty.rate(now, bytes, 0),
            frags: total.stats.frags,
            tokens: Tokens {
                issued: total.stats.tokens.issued,
                returned: total.stats.tokens.freed,
                held: snapshot.held(),
                kept: snapshot.kept(),
            },
            connections,
            ended: total.ended,
            queues: self.queues(snapshot, now, memory),
            memory: memory.clone(),
            telemetry: (&total.telemetry).into(),
            missing,
            warning: None,
        };
        let looks = snapshot.connections.iter();
        let groups = snapshot.by_napi.iter();
        self.before = Before {
            at: Some(now),
            bytes,
            connections: looks
                .map(|look| (look.peer.index, look.stats.bytes))
                .collect(),
            queues: groups
                .map(|(napi, group)| (*napi, group.stats.bytes))
                .collect(),
        };
        second
    }

    fn connection(&self, look: &ConnectionSnapshot, now: Instant, memory: &State) -> Connection {
        let before = self.before.connections.get(&look.peer.index);
        let bytes = look.stats.bytes;
        Connection {
            peer: look.peer.address.to_string(),
            queue: queue_of(memory, look.peer.napi_id),
            napi_id: look.peer.napi_id,
            bytes,
            mib_per_second: self.before.rate(now, bytes, before.copied().unwrap_or(0)),
            frags: look.stats.frags,
            tokens: Tokens {
                issued: look.stats.tokens.issued,
                returned: look.stats.tokens.freed,
                held: look.held.into(),
                kept: look.kept.frags,
            },
            queued_bytes: look.queued,
            paused_seconds: look.paused.map(|paused| paused.as_secs_f64()),
        }
    }

    /// Figures for the receiver's rx queues, and for any others that connections arrive through.
    fn queues(&self, snapshot: &Snapshot, now: Instant, memory: &State) -> Vec<Queue> {
        let known = memory.queues.iter().map(|queue| queue.napi);
        let mut ids: Vec<Option<u32>> = known.flatten().map(Some).collect();
        for id in snapshot.by_napi.keys() {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        let one = |napi: Option<u32>| {
            let group = snapshot.by_napi.get(&napi).cloned().unwrap_or_default();
            let before = self.before.queues.get(&napi).copied().unwrap_or(0);
            let queue = memory.queues.iter();
            let queue = queue
                .filter(|_| napi.is_some())
                .find(|queue| queue.napi == napi);
            Queue {
                queue: queue.map(|queue| queue.id.get()),
                napi_id: napi,
                connections: group.working,
                ended: group.ended,
                bytes: group.stats.bytes,
                mib_per_second: self.before.rate(now, group.stats.bytes, before),
                frags: group.stats.frags,
                alloc_fail: queue.and_then(|queue| queue.alloc_fail),
                hw_drops: queue.and_then(|queue| queue.hw_drops),
            }
        };
        ids.into_iter().map(one).collect()
    }
}

/// Number of the receiver's rx queue that the NAPI instance serves; `None` if unknown.
fn queue_of(memory: &State, napi: Option<u32>) -> Option<u32> {
    let napi = napi?;
    let queue = memory.queues.iter().find(|queue| queue.napi == Some(napi));
    queue.map(|queue| queue.id.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_between() {
        let now = Instant::now();
        let before = Before {
            at: now.checked_sub(Duration::from_secs(2)),
            ..Before::default()
        };
        assert!((before.rate(now, 5 << 20, 1 << 20) - 2.0).abs() < 0.01);
        assert!(Before::default().rate(now, 1, 0).abs() < f64::EPSILON);
    }
}
