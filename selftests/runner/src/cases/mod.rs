//! The cases, one function each.

mod alive;
mod all;
mod beside;
mod bind_errors;
mod by_device;
mod called;
mod collective;
mod counts;
mod cuda;
mod doctor;
mod doctor_agrees;
mod doctor_left;
mod doctor_machine;
mod doctor_netkit;
mod doctor_nic;
mod drivers;
mod early;
mod elsewhere;
mod engine;
mod examples;
mod feel;
mod hidden;
mod hold;
mod json;
mod lease;
mod lease_ends;
mod lease_errors;
mod lease_fence;
mod lease_grants;
mod lease_known;
mod lease_nic;
mod lease_notes;
mod lease_rounds;
mod lease_way;
mod memory;
mod memory_size;
mod names;
mod ncdevmem;
mod ncdevmem_client;
mod ncdevmem_probe;
mod nic;
mod nic_boot;
mod nic_bound;
mod nic_chance;
mod nic_channels;
mod nic_claims;
mod nic_drivers;
mod nic_flows;
mod nic_journal;
mod nic_places;
mod nic_plan;
mod nic_restored;
mod nic_shared;
mod options;
mod peers;
mod pool;
mod receive;
mod remedies;
mod removal;
mod rundir;
mod send;
mod send_errors;
mod shortage;
mod signals;
mod sinks;
mod sockets;
mod streams;
mod telemetry;
mod threads;
mod tool_errors;
mod udmabufs;
mod undone;
mod watch;
mod wrong_byte;

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
