//! RSS indirection tables.

use netdev::QueueId;

/// RSS table in which the entries of the queues in `avoid` are dealt out to the other queues.
///
/// `others` are the queues that may take their place, in turn; entries that name none of `avoid`
/// stay what they are, so that the flows of the other queues stay where they are. `None` if there
/// is nobody to take their place.
#[must_use]
pub fn without_queues(
    table: &[QueueId],
    avoid: &[QueueId],
    others: &[QueueId],
) -> Option<Vec<QueueId>> {
    let mut turn = others.iter().filter(|queue| !avoid.contains(queue)).cycle();
    table
        .iter()
        .map(|queue| {
            if avoid.contains(queue) {
                turn.next().copied()
            } else {
                Some(*queue)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<QueueId> {
        ids.into_iter().map(QueueId::new).collect()
    }

    #[test]
    fn entries_of_avoided_queues_are_dealt_out_in_turn() {
        let table = ids([0, 1, 2, 3, 0, 1, 2, 3]);
        let changed = without_queues(&table, &ids([3]), &ids(0..4)).unwrap();
        assert_eq!(changed, ids([0, 1, 2, 0, 0, 1, 2, 1]));
    }

    #[test]
    fn no_table_avoids_every_queue() {
        assert_eq!(without_queues(&ids([0, 0]), &ids([0]), &ids([0])), None);
    }

    proptest! {
        #[test]
        fn only_entries_of_avoided_queues_change(
            table in prop::collection::vec(0u32..8, 0..64),
            avoid in prop::collection::vec(0u32..8, 0..4),
        ) {
            let (table, avoid) = (ids(table), ids(avoid));
            let changed = without_queues(&table, &avoid, &ids(0..8)).unwrap();
            prop_assert_eq!(changed.len(), table.len());
            for (before, after) in table.iter().zip(&changed) {
                prop_assert!(!avoid.contains(after));
                prop_assert!(avoid.contains(before) || before == after);
            }
        }
    }
}
