//! What others left behind.

use netdev::shell_word;

use super::line::{Area, Check, Finding};
use super::machine::Machine;
use super::place::program;

pub(super) const CHECKS: &[Check<Machine>] = &[Check {
    id: "journal.left",
    areas: &[Area::Rx],
    what: "no NIC is still set up for a receiver that is gone",
    run: journals,
}];

fn journals(_: &Machine) -> Option<Finding> {
    let states = match nic::state() {
        Ok(states) => states,
        Err(error) => return Some(Finding::warn(error.to_string())),
    };
    let left = |state: &nic::State| {
        let why = match (&state.damaged, state.orphans.len()) {
            (Some(why), _) => why.clone(),
            (None, 0) => return None,
            (None, _) => format!("{} is set up for a receiver that is gone", state.device),
        };
        Some((why, state.device.clone()))
    };
    Some(match states.iter().find_map(left) {
        None => Finding::ok("none"),
        Some((why, device)) => {
            Finding::warn(why).remedy(format!("{} restore {}", program(), shell_word(&device)))
        }
    })
}
