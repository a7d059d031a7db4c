//! Deadlines of an engine's connections, in order of time.

use std::time::Instant;

/// Position of a slot that is not in the list.
const ABSENT: usize = usize::MAX;

/// Binary heap of slots, with at most one moment for each slot.
///
/// The position of each slot is known, so that a moment is changed or removed in place: no stale entry
/// remains, and the list is never longer than the number of slots. An operation takes `O(log n)` steps
/// and allocates only when a slot is used for the first time.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Ordered as a binary heap: no entry is earlier than its parent, the entry at `(at - 1) / 2`.
    heap: Vec<(Instant, usize)>,
    /// Position of each slot in the heap, or [`ABSENT`].
    positions: Vec<usize>,
}

impl Deadlines {
    /// Sets, changes or removes the deadline of a slot.
    pub(super) fn set(&mut self, slot: usize, moment: Option<Instant>) {
        let at = self.positions.get(slot).copied().unwrap_or(ABSENT);
        match (self.heap.get_mut(at), moment) {
            (None, None) => {}
            (None, Some(moment)) => self.insert(slot, moment),
            (Some(_), None) => self.remove(at),
            (Some(entry), Some(moment)) => {
                let before = std::mem::replace(&mut entry.0, moment);
                match moment < before {
                    true => self.sift_up(at),
                    false => self.sift_down(at),
                }
            }
        }
    }

    /// Earliest deadline in the list.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|(moment, _)| *moment)
    }

    /// Removes and returns the slot with the earliest deadline, if that is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.next_deadline().filter(|moment| *moment <= now)?;
        self.pop()
    }

    /// Removes and returns the slot with the earliest deadline.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let (_, slot) = *self.heap.first()?;
        self.remove(0);
        Some(slot)
    }

    fn insert(&mut self, slot: usize, moment: Instant) {
        if self.positions.len() <= slot {
            self.positions.resize(slot + 1, ABSENT);
        }
        let at = self.heap.len();
        self.heap.push((moment, slot));
        self.positions[slot] = at;
        self.sift_up(at);
    }

    fn remove(&mut self, at: usize) {
        let (_, slot) = self.heap.swap_remove(at);
        self.positions[slot] = ABSENT;
        if let Some((_, moved)) = self.heap.get(at) {
            self.positions[*moved] = at;
            // The last entry took the place. It may be earlier than the parent there, or later than the children.
            self.sift_up(at);
            self.sift_down(at);
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent].0 <= self.heap[at].0 {
                return;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            let Some(child) = children.min_by_key(|child| self.heap[*child].0) else {
                return;
            };
            if self.heap[at].0 <= self.heap[child].0 {
                return;
            }
            self.swap(at, child);
            at = child;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for at in [one, other] {
            self.positions[self.heap[at].1] = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Operation {
        Set(usize, Option<u64>),
        Pop,
        PopDue(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            6 => (0..40_usize, proptest::option::weighted(0.8, 0..100_u64))
                .prop_map(|(slot, moment)| Operation::Set(slot, moment)),
            1 => Just(Operation::Pop),
            2 => (0..100_u64).prop_map(Operation::PopDue),
        ]
    }

    proptest! {
        /// Compared with a map: each slot has the deadline that was set last, and the earliest
        /// comes first.
        #[test]
        fn slots_come_in_order_of_their_last_moment(
            operations in proptest::collection::vec(operation(), 1..300)
        ) {
            let start = Instant::now();
            let at = |micros| start + Duration::from_micros(micros);
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::new();
            for operation in operations {
                let earliest = model.values().min().copied();
                let popped = match operation {
                    Operation::Set(slot, moment) => {
                        deadlines.set(slot, moment.map(at));
                        match moment {
                            Some(moment) => model.insert(slot, moment),
                            None => model.remove(&slot),
                        };
                        None
                    }
                    Operation::Pop => Some((deadlines.pop(), earliest.is_some())),
                    Operation::PopDue(now) => {
                        Some((deadlines.pop_due(at(now)), earliest.is_some_and(|earliest| earliest <= now)))
                    }
                };
                if let Some((popped, expected)) = popped {
                    prop_assert_eq!(popped.is_some(), expected);
                    if let Some(slot) = popped {
                        prop_assert_eq!(model.remove(&slot), earliest);
                    }
                }
                prop_assert_eq!(deadlines.next_deadline(), model.values().min().map(|moment| at(*moment)));
                prop_assert_eq!(deadlines.heap.len(), model.len());
            }
        }
    }

    /// The list allocates nothing in a steady state: one entry for each slot, however often its
    /// deadline changes.
    #[test]
    fn the_list_never_outgrows_the_slots() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        let moments = (0..100_000).map(|i| start + Duration::from_nanos(i * 7919 % 100_003));
        let mut moments = moments.enumerate();
        for (i, moment) in moments.by_ref().take(1000) {
            deadlines.set(i % 64, Some(moment));
        }
        let capacity = (deadlines.heap.capacity(), deadlines.positions.capacity());
        for (i, moment) in moments {
            deadlines.set(i % 64, (i % 5 > 0).then_some(moment));
        }
        assert!(deadlines.heap.len() <= 64);
        assert_eq!(
            (deadlines.heap.capacity(), deadlines.positions.capacity()),
            capacity
        );
    }
}
