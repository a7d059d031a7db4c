//! Turns, deadlines and ends of an engine's connections.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::connection::{OpenConnection, Turn};
use super::event_loop::{EventLoop, Slot};
use super::lifecycle::{Action, Input};
use super::stop::wake;
use super::{Connection, ConnectionError, End, Peer};
use crate::sink::{Sink, SinkError};

/// Number of bytes received in a connection's turn from which on the turn took long enough for the
/// clock to be read again.
const LONG_TURN: u64 = 64 << 10;

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> EventLoop<S, F> {
    fn open_mut(&mut self, index: usize) -> Option<&mut OpenConnection<S>> {
        match self.slots.get_mut(index) {
            Some(Slot::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// Gives an open connection's state machine an input, and returns the action.
    pub(super) fn step(&mut self, index: usize, input: Input, now: Instant) -> Action {
        let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
            return Action::None;
        };
        let (schedule, lifecycle) = (&mut self.schedule, &mut open.lifecycle);
        schedule.step(index, lifecycle, input, now, &self.setup.config)
    }

    /// Serves each connection that is ready to be read for one turn.
    pub(super) fn serve(&mut self, now: Instant) {
        let mut any = false;
        for _ in 0..self.schedule.ready_count() {
            let Some(index) = self.schedule.pop_ready() else {
                break;
            };
            let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
                continue;
            };
            if !open.lifecycle.is_ready() {
                // The connection has ended meanwhile.
                continue;
            }
            let before = open.stream.bytes();
            open.stream.clock(now);
            let turn = open.serve(&mut self.buffer, &self.setup.config);
            let total = open.stream.bytes();
            let new = total - before;
            any |= new > 0;
            self.setup.progress.received(new);
            // With an idle timeout also because the peer is not to blame for the time that a sink takes.
            let long = new >= LONG_TURN || (new > 0 && self.setup.config.idle_timeout.is_some());
            let after = if long { Instant::now() } else { now };
            let input = match turn {
                Turn::More => Input::More,
                Turn::Full => Input::Full,
                Turn::Drained => Input::Drained {
                    received: new > 0,
                    total,
                    mark: open.low_water(&self.setup.config),
                },
                Turn::Ended(end) => {
                    self.end(index, end);
                    continue;
                }
            };
            let lifecycle = &mut open.lifecycle;
            let action = self
                .schedule
                .step(index, lifecycle, input, after, &self.setup.config);
            let refused = match action {
                Action::SetMark(mark) => !open.set_mark(mark),
                _ => false,
            };
            if !matches!(input, Input::Full) {
                // After the mark, which is one of the things that change the window.
                open.spare_window();
            }
            if refused {
                self.step(index, Input::MarkRefused, after);
            }
            match action {
                Action::Flush => self.flush(index, now),
                _ => self.account(index, now),
            }
            // Or the turns of many connections together could hold the whole pool.
            self.flush_excess(now);
        }
        if any {
            self.stats.first_byte.get_or_insert(now);
            self.stats.last_byte = Some(Instant::now());
        }
    }

    /// Counts the tokens that a connection holds, and sets their time limit.
    fn account(&mut self, index: usize, now: Instant) {
        if let Some(Slot::Open(open)) = self.slots.get_mut(index) {
            let held = open.stream.held();
            let before = std::mem::replace(&mut open.counted, held);
            self.held = (self.held + held).saturating_sub(before);
            self.step(index, Input::Held(held > 0), now);
        }
    }

    /// Gives back the tokens that a connection holds. A refusal ends the connection.
    fn flush(&mut self, index: usize, now: Instant) {
        let Some(open) = self.open_mut(index) else {
            return;
        };
        open.stream.clock(now);
        let flushed = open.stream.flush();
        if flushed.is_err() {
            self.step(index, Input::FlushRefused, now);
        }
        self.account(index, now);
        if let Err(error) = flushed {
            self.end(index, End::Failed(error.into()));
        }
    }

    /// Gives back tokens that have been held longest, while all connections hold too many.
    fn flush_excess(&mut self, now: Instant) {
        while self.held > self.setup.config.held {
            let Some(index) = self.schedule.pop_holder() else {
                return;
            };
            self.flush(index, now);
        }
    }

    /// Takes the frags that a connection's sink gave back outside of a turn.
    pub(super) fn take_back(&mut self, index: usize, now: Instant) {
        let Some(Slot::Open(open)) = self.slots.get_mut(index) else {
            return;
        };
        open.stream.collect_returned();
        let flushed = open.stream.flush_if_due();
        let input = Input::Returned {
            room: !open.keeps_too_much(&self.setup.config),
            kept: open.stream.kept().frags > 0,
        };
        let action = self.step(index, input, now);
        if flushed.is_err() {
            self.step(index, Input::FlushRefused, now);
        }
        self.account(index, now);
        match (action, flushed) {
            (Action::Close, _) => self.close(index),
            (_, Err(error)) => self.end(index, End::Failed(error.into())),
            (_, Ok(())) => {}
        }
    }

    /// Acts on all deadlines that have come.
    pub(super) fn act_on_deadlines(&mut self, now: Instant) {
        self.flush_excess(now);
        while let Some(index) = self.schedule.pop_due(now) {
            match self.step(index, Input::Time, now) {
                Action::None | Action::SetMark(_) => {}
                Action::Flush => self.flush(index, now),
                Action::Warn => self.warn_of_pause(index),
                Action::EndSilent { waited } => {
                    self.end(index, End::Failed(ConnectionError::Silent { waited }));
                }
                Action::EndStalled { waited } => {
                    if let Some(open) = self.open_mut(index) {
                        let kept = open.stream.kept();
                        let error = ConnectionError::Stalled { kept, waited };
                        self.end(index, End::Failed(error));
                    }
                }
                Action::Close => self.close(index),
            }
        }
    }

    fn warn_of_pause(&mut self, index: usize) {
        if let Some(open) = self.open_mut(index) {
            let kept = open.stream.kept();
            tracing::warn!(
                peer = %open.peer.address, frags = kept.frags, bytes = kept.bytes,
                "nothing is received until the connection's sink gives frags back"
            );
        }
    }

    /// Ends an open connection: closes it at once, or when its sink has given back the frags that it
    /// keeps.
    pub(super) fn end(&mut self, index: usize, end: End) {
        let Some(open) = self.open_mut(index) else {
            return;
        };
        if open.lifecycle.has_ended() {
            return;
        }
        if !matches!(end, End::Closed) {
            open.sink.abandon();
        }
        open.stream.collect_returned();
        let kept = open.stream.kept().frags > 0;
        open.end = Some(end);
        let now = Instant::now();
        self.account(index, now);
        if self.step(index, Input::End { kept }, now) == Action::Close {
            self.close(index);
        }
    }

    /// Closes a connection that has ended.
    pub(super) fn close(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        match std::mem::replace(slot, Slot::Vacant) {
            Slot::Open(open) => {
                self.schedule.remove(index);
                self.working -= 1;
                self.held = self.held.saturating_sub(open.counted);
                self.retire(index, open.close());
            }
            other => *slot = other,
        }
    }

    /// Retires a connection that has ended: the report keeps it, or `on_end` takes it and its slot is free.
    pub(super) fn retire(&mut self, index: usize, connection: Connection<S>) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        if let Some(acceptor) = &self.setup.acceptor {
            wake(acceptor);
        }
        if std::mem::take(&mut self.waits_for_room) {
            self.accept_at = Some(Instant::now());
        }
        match (&self.setup.on_end, self.slots.get_mut(index)) {
            (Some(take), _) => {
                self.past.add_ended(&connection);
                self.vacant.push(index);
                let mut take = take.lock().unwrap_or_else(PoisonError::into_inner);
                take(connection);
            }
            (None, Some(slot)) => *slot = Slot::Ended(Box::new(connection)),
            (None, None) => {}
        }
    }
}
