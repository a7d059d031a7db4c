//! Where a rule goes in the table, where the driver does not choose (no `RX_CLS_LOC_SPECIAL`: mlx5,
//! gve, ice and most others).
//!
//! From the top downwards, as `ethtool -N` does (`rmgr_find_empty_slot` of its `rxclass.c`): rules at
//! lower places come first, and are left to whoever names them. Never where a rule is: some drivers
//! replace it and say nothing (`get_ethtool_rule` of mlx5, `ice_fdir_update_list_entry`).

use std::collections::BTreeSet;

/// The places of a table that a rule could go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    taken: BTreeSet<u32>,
    /// Places there are; `None` where the driver does not say.
    size: Option<u32>,
}

impl Places {
    pub(super) fn new(taken: impl IntoIterator<Item = u32>, size: Option<u32>) -> Self {
        Self {
            taken: taken.into_iter().collect(),
            size,
        }
    }

    /// The place to begin with; `None` if all are taken.
    ///
    /// Of a table of unknown size only the lowest free place is sure to exist, if any does.
    pub(super) fn first(&self) -> Option<u32> {
        match self.size {
            Some(size) => self.highest_below(size),
            None => self.lowest(),
        }
    }

    /// The place to try after `place`, where a rule was found after all.
    pub(super) fn after_clash(&mut self, place: u32) -> Option<u32> {
        self.taken.insert(place);
        match self.size {
            Some(_) => self.highest_below(place),
            None => self.lowest(),
        }
    }

    /// The place to try after `place`, for which the driver said that it has no room: it may have less
    /// than it told. In the lower half each time, and in the end the lowest, so that a table that is full
    /// is asked a few times only.
    pub(super) fn after_refusal(&self, place: u32) -> Option<u32> {
        self.size?;
        self.highest_below(place / 2 + 1)
            .or_else(|| self.lowest())
            .filter(|&lower| lower < place)
    }

    fn highest_below(&self, end: u32) -> Option<u32> {
        (0..end).rev().find(|place| !self.taken.contains(place))
    }

    fn lowest(&self) -> Option<u32> {
        let end = self.size.unwrap_or(u32::MAX);
        (0..end).find(|place| !self.taken.contains(place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(taken: &[u32], size: u32) -> Places {
        Places::new(taken.iter().copied(), Some(size))
    }

    #[test]
    fn from_the_top_downwards() {
        assert_eq!(of(&[], 1024).first(), Some(1023));
        assert_eq!(of(&[1023, 1021], 1024).first(), Some(1022));
        assert_eq!(of(&[1, 2, 3], 4).first(), Some(0));
        assert_eq!(of(&[0, 1, 2, 3], 4).first(), None);
        assert_eq!(of(&[], 0).first(), None);
    }

    #[test]
    fn of_unknown_size_the_lowest() {
        let mut places = Places::new([0, 1, 3], None);
        assert_eq!(places.first(), Some(2));
        assert_eq!(places.after_clash(2), Some(4));
        assert_eq!(places.after_refusal(4), None);
    }

    #[test]
    fn a_table_that_is_smaller_than_told_is_found_out() {
        let places = of(&[0, 2], 1024);
        let mut place = places.first();
        let mut tries = 0;
        while let Some(at) = place.filter(|&at| at >= 3) {
            place = places.after_refusal(at);
            tries += 1;
        }
        assert_eq!(place, Some(1));
        assert!(tries <= 11, "{tries}");
    }

    proptest! {
        /// Whatever the driver answers: each place is tried once, none that is taken, and there is an end.
        #[test]
        fn no_place_twice_and_none_that_is_taken(
            taken in prop::collection::btree_set(0u32..40, 0..40),
            size in prop::option::of(0u32..40),
            answers in prop::collection::vec(any::<bool>(), 100),
        ) {
            let mut places = Places::new(taken.clone(), size);
            let mut tried = BTreeSet::new();
            let mut place = places.first();
            for clash in answers {
                let Some(at) = place else { break };
                prop_assert!(!taken.contains(&at));
                prop_assert!(size.is_none_or(|size| at < size));
                prop_assert!(tried.insert(at));
                place = match clash {
                    true => places.after_clash(at),
                    false => places.after_refusal(at),
                };
            }
            prop_assert!(size.is_none() || place.is_none());
        }

        /// One free place is found, wherever it is, also if all above it are taken meanwhile.
        #[test]
        fn the_only_free_place_is_found(free in 0u32..300, size in 1u32..300, told in any::<bool>()) {
            let free = free % size;
            let known = (0..size).filter(|&place| place != free && (told || place < free));
            let mut places = Places::new(known, Some(size));
            let mut place = places.first();
            while let Some(at) = place.filter(|&at| at != free) {
                place = places.after_clash(at);
            }
            prop_assert_eq!(place, Some(free));
        }
    }
}
