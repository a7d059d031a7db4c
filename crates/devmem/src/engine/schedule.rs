//! Which connection the engine serves next, and when it has to wake up.

use std::collections::VecDeque;
use std::time::Instant;

use super::config::Config;
use super::deadlines::Deadlines;
use super::lifecycle::{Action, Input, Lifecycle};

/// Ready connections and deadlines of an engine, by slot.
///
/// [`Schedule::step`] is the only way to change a [`Lifecycle`], so that the lists always agree with it.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Slots of connections that are ready to be read, in the order of their turns. The slot of a
    /// connection that has ended stays until its turn.
    ready: VecDeque<usize>,
    /// Whether a slot is in the list `ready`.
    queued: Vec<bool>,
    /// The next deadline of each connection.
    deadlines: Deadlines,
    /// Connections that hold tokens, by the time since which they hold them.
    holders: Deadlines,
}

impl Schedule {
    /// Gives a connection's state machine an input, returns the action, and updates the
    /// connection's place in the lists.
    pub(super) fn step(
        &mut self,
        slot: usize,
        lifecycle: &mut Lifecycle,
        input: Input,
        now: Instant,
        config: &Config,
    ) -> Action {
        let action = lifecycle.step(input, now, config);
        self.update(slot, lifecycle, config);
        action
    }

    /// Updates a connection's place in the lists.
    pub(super) fn update(&mut self, slot: usize, lifecycle: &Lifecycle, config: &Config) {
        if self.queued.len() <= slot {
            self.queued.resize(slot + 1, false);
        }
        if lifecycle.is_ready() && !std::mem::replace(&mut self.queued[slot], true) {
            self.ready.push_back(slot);
        }
        self.deadlines.set(slot, lifecycle.deadline(config));
        self.holders.set(slot, lifecycle.held_since());
    }

    /// Removes the deadlines of a connection that is closed.
    pub(super) fn remove(&mut self, slot: usize) {
        self.deadlines.set(slot, None);
        self.holders.set(slot, None);
    }

    /// Number of slots that wait for a turn; some of their connections may have ended.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Removes and returns the slot that gets the next turn, if its connection is still ready.
    pub(super) fn pop_ready(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front()?;
        if let Some(queued) = self.queued.get_mut(slot) {
            *queued = false;
        }
        Some(slot)
    }

    /// Time at which the engine has to wake up, if no event comes before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    /// Removes and returns a slot whose deadline has come: its connection gets [`Input::Time`].
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.deadlines.pop_due(now)
    }

    /// Removes and returns the slot of the connection that has held tokens for longest.
    pub(super) fn pop_holder(&mut self) -> Option<usize> {
        self.holders.pop()
    }
}
