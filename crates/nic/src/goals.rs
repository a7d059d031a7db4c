//! Computation of the shared settings' values from the original ones and the claims.

use netdev::QueueId;

use crate::claim::Claim;
use crate::rss::without_queues;
use crate::values::{ChannelCounts, RingValues};

/// Ring settings that these claims need, from the original ones.
pub(crate) fn rings_goal(before: &RingValues, claims: &[Claim]) -> RingValues {
    let wished = claims.iter().filter_map(|claim| claim.needs.rx_ring).max();
    let goal = RingValues {
        rx: wished.max(before.rx),
        ..*before
    };
    match claims.iter().any(|claim| claim.needs.split) {
        true => goal.split(),
        false => goal,
    }
}

/// Number of channels that these claims need, from the original one.
pub(crate) fn channels_goal(before: ChannelCounts, claims: &[Claim]) -> ChannelCounts {
    let wished = claims.iter().filter_map(|claim| claim.needs.channels).max();
    before.with_rx_queues(wished.unwrap_or(0))
}

/// RSS table without the reserved queues; `None` if no queue is left for it.
///
/// The others are those that RSS used, so that none comes into use that was kept out of it; the `free` queues of
/// the NIC if it used only reserved ones.
pub(crate) fn table_goal(
    before: &[QueueId],
    reserved: &[QueueId],
    free: &[QueueId],
) -> Option<Vec<QueueId>> {
    let mut others = before.to_vec();
    others.sort_unstable();
    others.dedup();
    if others.iter().all(|queue| reserved.contains(queue)) {
        others = free.to_vec();
    }
    without_queues(before, reserved, &others)
}

#[cfg(test)]
mod tests {
    use netdev::ethtool::HeaderSplit;
    use proptest::prelude::*;

    use super::*;
    use crate::claim::Needs;

    fn ids(ids: impl IntoIterator<Item = u32>) -> Vec<QueueId> {
        ids.into_iter().map(QueueId::new).collect()
    }

    fn claim(needs: Needs) -> Claim {
        Claim {
            id: 1,
            owner: None,
            needs,
            items: Vec::new(),
        }
    }

    const RINGS_BEFORE: RingValues = RingValues {
        rx: Some(256),
        split: Some(HeaderSplit::Disabled),
        threshold: Some(512),
    };

    const COMBINED: ChannelCounts = ChannelCounts {
        combined: 4,
        rx: 0,
        tx: 0,
    };

    #[test]
    fn without_claims_settings_have_their_original_values() {
        assert_eq!(rings_goal(&RINGS_BEFORE, &[]), RINGS_BEFORE);
        assert_eq!(channels_goal(COMBINED, &[]), COMBINED);
        assert_eq!(table_goal(&ids([3, 1]), &[], &ids(0..4)), Some(ids([3, 1])));
    }

    #[test]
    fn what_a_claim_needs_stays_when_another_ends() {
        let split = claim(Needs {
            split: true,
            ..Needs::default()
        });
        let ring = claim(Needs {
            rx_ring: Some(1024),
            channels: Some(8),
            ..Needs::default()
        });
        let both = rings_goal(&RINGS_BEFORE, &[split.clone(), ring.clone()]);
        assert_eq!(both.rx, Some(1024));
        assert_eq!(both.split, Some(HeaderSplit::Enabled));
        assert_eq!(both.threshold, Some(0));
        let one = rings_goal(&RINGS_BEFORE, &[split]);
        assert_eq!((one.rx, one.threshold), (Some(256), Some(0)));
        assert_eq!(
            rings_goal(&RINGS_BEFORE, std::slice::from_ref(&ring)).split,
            RINGS_BEFORE.split
        );
        let more = ChannelCounts {
            combined: 8,
            ..COMBINED
        };
        assert_eq!(channels_goal(COMBINED, &[ring]), more);
    }

    #[test]
    fn a_table_of_reserved_queues_alone_is_dealt_out_to_the_others() {
        let goal = |before, reserved, free| table_goal(&ids(before), &ids(reserved), &ids(free));
        assert_eq!(goal([1, 1], [1], vec![0, 1, 2]), Some(ids([0, 2])));
        assert_eq!(goal([0, 0], [0], vec![0]), None);
        // Queue 1 has another program's memory.
        assert_eq!(goal([0, 0], [0], vec![0, 2]), Some(ids([2, 2])));
    }

    proptest! {
        /// Receivers that end in any order each have no traffic of RSS on their queue before they
        /// have ended.
        #[test]
        fn each_claim_keeps_its_queues_until_it_ends(
            before in prop::collection::vec(0u32..8, 1..64),
            one in 0u32..4,
            other in 4u32..8,
        ) {
            let (before, one, other) = (ids(before), ids([one]), ids([other]));
            let both: Vec<_> = one.iter().chain(&other).copied().collect();
            let goal = table_goal(&before, &both, &ids(0..9)).unwrap();
            prop_assert!(goal.iter().all(|queue| !both.contains(queue)));
            let goal = table_goal(&before, &other, &ids(0..9)).unwrap();
            prop_assert!(goal.iter().all(|queue| !other.contains(queue)));
            prop_assert_eq!(table_goal(&before, &[], &ids(0..9)).unwrap(), before);
        }
    }
}
