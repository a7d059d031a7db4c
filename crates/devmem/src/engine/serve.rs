//! Serving connections: turns, time limits, ends.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::connection::Turn;
use super::{Connection, ConnectionError, End, Engine, OnEnd, OpenConnection, Peer, Slot};
use crate::sink::{Sink, SinkError};

/// A turn that brought this many bytes took long enough for the clock to be read again after it.
const MUCH: u64 = 64 << 10;

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> Engine<S, F> {
    fn at_work(&mut self, index: usize) -> Option<&mut OpenConnection<S>> {
        match self.slots.get_mut(index) {
            Some(Slot::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// What an edge said: that there is something to read, or (`ended`) an end of the stream, in order
    /// or by an error, perhaps with bytes before it.
    pub(super) fn on_event(&mut self, index: usize, ended: bool) {
        if let Some(open) = self.at_work(index) {
            // Kept also while the connection waits for its sink: there will be no other edge.
            open.ended_by_peer |= ended;
        }
        self.make_ready(index);
    }

    pub(super) fn make_ready(&mut self, index: usize) {
        if let Some(Slot::Open(open)) = self.slots.get_mut(index) {
            let waits = open.paused.is_some() || open.closing.is_some();
            if !waits && !std::mem::replace(&mut open.ready, true) {
                self.ready.push_back(index);
            }
        }
    }

    /// Gives each ready connection one turn.
    pub(super) fn serve(&mut self, now: Instant) {
        let before = self.ready.len();
        let mut any = false;
        for _ in 0..before {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            if !open.ready {
                // The connection has ended meanwhile.
                continue;
            }
            let (bytes, held) = (open.stream.bytes(), open.stream.held());
            open.stream.clock(now);
            let turn = open.serve(&mut self.buffer, &self.config);
            let new = open.stream.bytes() - bytes;
            if new > 0 {
                any = true;
                if self.config.idle_timeout.is_some() {
                    // The sink may have taken its time, for which the peer is not to blame.
                    open.active = Instant::now();
                    open.suspected = false;
                }
            }
            self.progress.received(new);
            match turn {
                Turn::More => {
                    open.spare_window();
                    self.ready.push_back(index);
                }
                Turn::Drained => {
                    open.ready = false;
                    // A turn that brought much took its time.
                    let now = match new < MUCH {
                        true => now,
                        false => Instant::now(),
                    };
                    let listed = open.gathering.waits_since().is_some();
                    open.gather(now, &self.config);
                    // After it: the mark is one of the things that change the window.
                    open.spare_window();
                    let steady = open.gathering.is_steady();
                    // One entry for each gathering connection; an outdated entry is renewed.
                    if !listed && open.gathering.waits_since().is_some() {
                        self.gathering[usize::from(steady)].push(index, now);
                    }
                    // A steady connection waits longer than tokens may be held, so flush now.
                    if steady && self.config.hold < self.config.steady_patience() {
                        if let Err(error) = open.stream.flush() {
                            self.account(index, held, now);
                            self.end(index, End::Failed(error.into()));
                            continue;
                        }
                    }
                }
                Turn::Full => {
                    open.ready = false;
                    open.paused = Some(now);
                    self.paused.push(index, now);
                }
                Turn::Ended(end) => {
                    self.account(index, held, now);
                    self.end(index, end);
                    continue;
                }
            }
            self.account(index, held, now);
            if self.held > self.config.held {
                // Or the turns of many connections together could hold the whole pool.
                self.flush_overdue(now);
            }
        }
        if any {
            self.stats.first_byte.get_or_insert(now);
            self.stats.last_byte = Some(Instant::now());
        }
    }

    /// Counts what a connection holds, that held `before`, and sets its time limit.
    fn account(&mut self, index: usize, before: u32, now: Instant) {
        let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
            return;
        };
        let held = open.stream.held();
        self.held = (self.held + held).saturating_sub(before);
        if held > 0 && !std::mem::replace(&mut open.holding, true) {
            self.holding.push(index, now);
        }
    }

    /// Takes the frags that a connection's sink gave back from elsewhere.
    pub(super) fn take_back(&mut self, index: usize, now: Instant) {
        let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
            return;
        };
        let before = open.stream.held();
        open.stream.collect_returned();
        let flushed = open.stream.flush_if_due();
        if open.paused.is_some() && !open.keeps_too_much(&self.config) {
            open.paused = None;
            open.active = now;
            self.make_ready(index);
        }
        self.account(index, before, now);
        match (flushed, self.at_work(index)) {
            (Err(error), Some(open)) if open.closing.is_none() => {
                self.end(index, End::Failed(error.into()));
            }
            (_, Some(open)) if open.closing.is_some() && open.stream.kept().frags == 0 => {
                self.close(index);
            }
            _ => {}
        }
    }

    /// Does what is due.
    pub(super) fn look_at_timers(&mut self, now: Instant) {
        self.flush_overdue(now);
        self.look_at_silent(false, now);
        self.look_at_silent(true, now);
        self.look_at_paused(now);
        self.look_at_idle(now);
        while let Some((index, since)) = self.closing.pop_due(now) {
            // The slot may have been reused: compare the timestamp before closing.
            let closing = self.at_work(index).and_then(|open| open.closing.as_ref());
            if closing.is_some_and(|(_, closing)| *closing == since) {
                self.close(index);
            }
        }
    }

    /// Gives back what has been held long enough, or what is too much in all.
    fn flush_overdue(&mut self, now: Instant) {
        // Each at most once: one whose tokens the kernel refuses comes back to the list.
        for _ in 0..self.holding.len() {
            let first = match self.held > self.config.held {
                true => self.holding.pop(),
                false => self.holding.pop_due(now),
            };
            let Some((index, _)) = first else {
                break;
            };
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            open.holding = false;
            let before = open.stream.held();
            open.stream.clock(now);
            let flushed = open.stream.flush();
            self.account(index, before, now);
            if let Err(error) = flushed {
                self.end(index, End::Failed(error.into()));
            }
        }
    }

    /// Makes those ready that gather and have been silent for too long.
    fn look_at_silent(&mut self, steady: bool, now: Instant) {
        let of = usize::from(steady);
        while let Some((index, since)) = self.gathering[of].pop_due(now) {
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            let Some(drained) = open.gathering.waits_since() else {
                continue;
            };
            if open.ready {
                // Its turn, which comes next, drains it or brings it back here.
                self.gathering[of].push(index, now);
            } else if drained > since {
                self.gathering[of].push(index, drained);
            } else {
                open.gathering.look();
                self.make_ready(index);
            }
        }
    }

    /// Ends connections that have brought nothing for too long. Who waits for its sink, or has ended,
    /// is not the one to blame; nor is one whose bytes are there and were not read, as when this process
    /// was stopped: each gets a turn before it ends. All are looked at, when the first may be due.
    fn look_at_idle(&mut self, now: Instant) {
        let Some(limit) = self.config.idle_timeout else {
            return;
        };
        if self.look_at_idle.is_none_or(|due| due > now) {
            return;
        }
        self.look_at_idle = None;
        for index in 0..self.slots.len() {
            let Some(open) = self.at_work(index) else {
                continue;
            };
            if open.paused.is_some() || open.closing.is_some() || open.ready {
                open.active = now;
                open.suspected = false;
            }
            let waited = now.saturating_duration_since(open.active);
            if waited >= limit && open.suspected {
                let error = ConnectionError::Silent { waited };
                self.end(index, End::Failed(error));
                continue;
            }
            let due = if waited >= limit {
                open.suspected = true;
                self.make_ready(index);
                Some(now)
            } else {
                // One check for all: thousands of connections need no timer each.
                let active = open.active.checked_add(limit);
                active.max(now.checked_add(limit / 16))
            };
            self.look_at_idle = [self.look_at_idle, due].into_iter().flatten().min();
        }
    }

    /// Warns of connections whose sinks keep too much for too long, and ends them.
    fn look_at_paused(&mut self, now: Instant) {
        while let Some((index, since)) = self.paused.pop_due(now) {
            let limit = self.config.stalled;
            let Some(open) = self.at_work(index) else {
                continue;
            };
            if open.paused != Some(since) {
                continue;
            }
            let kept = open.stream.kept();
            tracing::warn!(
                peer = %open.peer.address, frags = kept.frags, bytes = kept.bytes,
                "nothing is received until the connection's sink gives frags back"
            );
            if limit.is_some() {
                self.stalled.push(index, now);
            }
        }
        while let Some((index, since)) = self.stalled.pop_due(now) {
            let Some(open) = self.at_work(index) else {
                continue;
            };
            // Of an earlier pause, if that was after the warning.
            let Some(paused) = open.paused.filter(|paused| *paused < since) else {
                continue;
            };
            let error = ConnectionError::Stalled {
                kept: open.stream.kept(),
                waited: now.saturating_duration_since(paused),
            };
            self.end(index, End::Failed(error));
        }
    }

    /// Ends a connection, if it is still at work: at once, or when its sink has given back what it
    /// keeps.
    pub(super) fn end(&mut self, index: usize, end: End) {
        let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
            return;
        };
        if open.closing.is_some() {
            return;
        }
        open.ready = false;
        open.paused = None;
        if !matches!(end, End::Closed) {
            open.sink.abandon();
        }
        let before = open.stream.held();
        open.stream.collect_returned();
        let kept = open.stream.kept().frags;
        let now = Instant::now();
        open.closing = Some((end, now));
        self.account(index, before, now);
        match kept {
            0 => self.close(index),
            _ => self.closing.push(index, now),
        }
    }

    /// Closes a connection that has been ended.
    pub(super) fn close(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        match std::mem::replace(slot, Slot::Vacant) {
            Slot::Open(mut open) => {
                self.working -= 1;
                self.held = self.held.saturating_sub(open.stream.held());
                let end = open.closing.take().map_or(End::Stopped, |(end, _)| end);
                self.retire(index, open.end(end));
            }
            other => *slot = other,
        }
    }

    /// Retires a connection that has ended: the report keeps it, or `on_end` takes it and its slot is free.
    pub(super) fn retire(&mut self, index: usize, connection: Connection<S>) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        match (&mut self.on_end, self.slots.get_mut(index)) {
            (Some(take), _) => {
                self.past.add_ended(&connection);
                self.vacant.push(index);
                match take {
                    OnEnd::Owned(take) => take(connection),
                    OnEnd::Shared(take) => take(connection),
                }
            }
            (None, Some(slot)) => *slot = Slot::Ended(Box::new(connection)),
            (None, None) => {}
        }
    }
}
