//! Choice of a location for a flow rule where the driver does not choose (no `RX_CLS_LOC_SPECIAL`:
//! mlx5, gve, ice and most others).
//!
//! The highest free location is taken, as by `ethtool -N` (`rmgr_find_empty_slot` of its
//! `rxclass.c`): rules at lower locations take precedence, and are left to users who name a
//! location. A location with a rule is never taken: some drivers replace the rule without an error
//! (`get_ethtool_rule` of mlx5, `ice_fdir_update_list_entry`).

use std::collections::BTreeSet;

/// Locations in a table of flow rules, of which some are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FreeLocations {
    taken: BTreeSet<u32>,
    /// Number of locations in the table; `None` where the driver does not say.
    size: Option<u32>,
}

impl FreeLocations {
    pub(super) fn new(taken: impl IntoIterator<Item = u32>, size: Option<u32>) -> Self {
        Self {
            taken: taken.into_iter().collect(),
            size,
        }
    }

    /// First location to try for a new flow rule; `None` if all are taken.
    ///
    /// In a table of unknown size only the lowest free location is sure to exist.
    pub(super) fn first(&self) -> Option<u32> {
        match self.size {
            Some(size) => self.highest_below(size),
            None => self.lowest(),
        }
    }

    /// Location to try after `location`, where another program's rule was found.
    pub(super) fn after_clash(&mut self, location: u32) -> Option<u32> {
        self.taken.insert(location);
        match self.size {
            Some(_) => self.highest_below(location),
            None => self.lowest(),
        }
    }

    /// Location to try after `location`, which the driver refused for lack of room: its table may
    /// be smaller than reported. The location halves each time, down to the lowest free one, so
    /// that a full table takes few tries.
    pub(super) fn after_refusal(&self, location: u32) -> Option<u32> {
        self.size?;
        self.highest_below(location / 2 + 1)
            .or_else(|| self.lowest())
            .filter(|&lower| lower < location)
    }

    fn highest_below(&self, end: u32) -> Option<u32> {
        (0..end)
            .rev()
            .find(|location| !self.taken.contains(location))
    }

    fn lowest(&self) -> Option<u32> {
        let end = self.size.unwrap_or(u32::MAX);
        (0..end).find(|location| !self.taken.contains(location))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(taken: &[u32], size: u32) -> FreeLocations {
        FreeLocations::new(taken.iter().copied(), Some(size))
    }

    #[test]
    fn locations_are_tried_from_the_top() {
        assert_eq!(of(&[], 1024).first(), Some(1023));
        assert_eq!(of(&[1023, 1021], 1024).first(), Some(1022));
        assert_eq!(of(&[1, 2, 3], 4).first(), Some(0));
        assert_eq!(of(&[0, 1, 2, 3], 4).first(), None);
        assert_eq!(of(&[], 0).first(), None);
    }

    #[test]
    fn in_a_table_of_unknown_size_the_lowest_location_is_tried() {
        let mut locations = FreeLocations::new([0, 1, 3], None);
        assert_eq!(locations.first(), Some(2));
        assert_eq!(locations.after_clash(2), Some(4));
        assert_eq!(locations.after_refusal(4), None);
    }

    #[test]
    fn a_table_smaller_than_reported_is_detected() {
        let locations = of(&[0, 2], 1024);
        let mut location = locations.first();
        let mut tries = 0;
        while let Some(at) = location.filter(|&at| at >= 3) {
            location = locations.after_refusal(at);
            tries += 1;
        }
        assert_eq!(location, Some(1));
        assert!(tries <= 11, "{tries}");
    }

    proptest! {
        /// For any answers of the driver each location is tried once, no taken location is tried,
        /// and the search ends.
        #[test]
        fn no_location_is_tried_twice_or_while_taken(
            taken in prop::collection::btree_set(0u32..40, 0..40),
            size in prop::option::of(0u32..40),
            answers in prop::collection::vec(any::<bool>(), 100),
        ) {
            let mut locations = FreeLocations::new(taken.clone(), size);
            let mut tried = BTreeSet::new();
            let mut location = locations.first();
            for clash in answers {
                let Some(at) = location else { break };
                prop_assert!(!taken.contains(&at));
                prop_assert!(size.is_none_or(|size| at < size));
                prop_assert!(tried.insert(at));
                location = match clash {
                    true => locations.after_clash(at),
                    false => locations.after_refusal(at),
                };
            }
            prop_assert!(size.is_none() || location.is_none());
        }

        /// The one free location is found, wherever it is, even if all locations above it are taken
        /// during the search.
        #[test]
        fn the_only_free_location_is_found(free in 0u32..300, size in 1u32..300, told in any::<bool>()) {
            let free = free % size;
            let known = (0..size).filter(|&location| location != free && (told || location < free));
            let mut locations = FreeLocations::new(known, Some(size));
            let mut location = locations.first();
            while let Some(at) = location.filter(|&at| at != free) {
                location = locations.after_clash(at);
            }
            prop_assert_eq!(location, Some(free));
        }
    }
}
