//! The cases, one function each.

#![allow(clippy::module_inception)] // a case is called after its file

mod all;
mod doctor;
mod lease;
mod memory;
mod nic;
mod receive;
mod tools;

use anyhow::Result;

pub(crate) use all::ALL;
use framework::memory::Kind;

/// A name and what must hold.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Result<()>,
    /// The kinds of memory that it is about: it runs once for each.
    pub(crate) memories: &'static [Kind],
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ALL;

    /// `selftests/lease-conformance.md`: upstream's case, ours, and what ours asserts.
    const CONFORMANCE: &str = include_str!("../../../lease-conformance.md");

    /// What stands between backticks, as names do.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    fn exists(name: &str) -> bool {
        ALL.iter().any(|case| case.name == name)
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = ALL.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn each_upstream_lease_case_has_a_twin() {
        let mut upstream = HashSet::new();
        let mut twins = HashSet::new();
        for row in CONFORMANCE.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, theirs, ours, asserted, _] = cells[..] else {
                panic!("not three cells: {row}")
            };
            let ours: Vec<_> = quoted(ours).collect();
            assert!(!ours.is_empty() && !asserted.is_empty(), "{row}");
            assert!(upstream.insert(theirs), "{theirs} is there twice");
            for name in ours {
                assert!(exists(name), "{theirs}: no case is called {name}");
                assert!(twins.insert(name), "{name} is the twin of two");
            }
        }
        assert_eq!(upstream.len(), 45);
    }

    #[test]
    fn the_text_beside_the_table_names_cases_that_are() {
        let module_of = |name: &str| Some(name.split_once('.')?.0.to_owned());
        let modules: HashSet<_> = ALL.iter().map(|case| module_of(case.name)).collect();
        let text = CONFORMANCE.lines().filter(|line| !line.starts_with('|'));
        for name in text.flat_map(quoted) {
            let of_ours = name.contains('.') && modules.contains(&module_of(name));
            let all_of_a_module = name.ends_with(".*");
            assert!(
                !of_ours || all_of_a_module || exists(name),
                "no case is called {name}"
            );
        }
    }
}
