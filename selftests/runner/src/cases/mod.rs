//! The cases, one function each.

mod alive;
mod all;
mod beside;
mod bind_errors;
mod by_device;
mod called;
mod collective;
mod counts;
mod crowd;
mod cuda;
mod doctor;
mod doctor_agrees;
mod doctor_fault;
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
mod footprint;
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
mod leasing;
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
mod round;
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
mod transfer;
mod udmabufs;
mod undone;
mod watch;
mod wrong_byte;

use anyhow::{Result, bail, ensure};
use netdev::{Ifindex, Link, NetkitSingle};

use crate::memory::Kind;
pub(crate) use all::ALL;

/// A name and what must hold.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Result<()>,
    /// The kinds of memory that it is about: it runs once for each.
    pub(crate) memories: &'static [Kind],
}

/// Why a case cannot hold here: an error that is no failure.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// A device's number, in this namespace.
pub(crate) fn ifindex(name: &str) -> Result<Ifindex> {
    Ok(Link::open()?.by_name(name)?.ifindex)
}

/// A single netkit, with so many rx queues: its own and those that it may lease.
fn netkit(name: &str, rx_queues: u32) -> Result<Ifindex> {
    let mut single = NetkitSingle::new(name);
    single.rx_queues = Some(rx_queues);
    Ok(Link::open()?.create_netkit_single(&single)?)
}

/// Holds if the kernel refused with this error number and, if one is expected, this text.
fn refused<T>(result: netdev::Result<T>, errno: i32, text: Option<&str>) -> Result<()> {
    let Err(error) = result else {
        bail!("not refused, expected errno {errno} {text:?}")
    };
    println_line(&format!("{error}"));
    ensure!(
        error.raw_os_error() == Some(errno),
        "expected errno {errno}, got: {error}"
    );
    if let Some(text) = text {
        let said = error
            .message()
            .is_some_and(|message| message.contains(text));
        ensure!(said, "expected {text:?}, got: {error}");
    }
    Ok(())
}

/// A diagnostic of the case.
#[allow(clippy::print_stdout)] // the runner reads it and prints it behind `#`
fn println_line(text: &str) {
    println!("{text}");
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
