//! Which cases run with the behaviour of each driver, and which are skipped.

use framework::driver::Driver;

/// Modules whose cases run with each driver that the software NIC imitates. All others run with its
/// own behaviour only, unless they are named.
pub(super) const MODULES: &[&str] = &[
    "receive",
    "nic",
    "nic_journal",
    "nic_plan",
    "nic_restored",
    "nic_shared",
    "doctor",
    "doctor_left",
    "doctor_machine",
    "doctor_netkit",
    "doctor_nic",
    "lease",
    "lease_ends",
    "lease_errors",
    "lease_grants",
    "lease_nic",
    "lease_notes",
    "lease_rounds",
    "lease_way",
];

/// The few cases of `--brief`, which say in a minute or two whether the tools work with a driver.
pub(super) const BRIEF: &[&str] = &[
    "receive.direct",
    "receive.direct_ipv6",
    "receive.two_queues_one_dmabuf",
    "lease.across_namespaces",
    "nic_shared.two_receivers_end",
    "nic_plan.looking_changes_nothing",
    "nic_plan.applied_to_stay",
    "nic_restored.after_sigkill_of_both",
    "doctor.changes_nothing",
    "doctor_nic.split_off_and_threshold",
    "doctor_nic.rule_for_the_queue",
];

/// Cases that can't hold with a driver, by the start of their names, with the reason.
const SKIPS: &[(Driver, &[&str], &str)] = &[
    (
        Driver::Ice,
        &[
            "receive.",
            "nic.",
            "nic_journal.",
            "nic_restored.",
            "nic_shared.",
            "nic_plan.applied_to_stay",
            "nic_plan.driver_that",
            "nic_plan.rule_table_is_full",
            "doctor.healthy",
            "doctor.in_another_namespace",
            "doctor.of_all_nics",
            "doctor.changes_nothing",
            "doctor_left.",
            "doctor_machine.",
            "doctor_netkit.",
            "doctor_nic.",
            "lease.",
            "lease_ends.",
            "lease_errors.",
            "lease_grants.",
            "lease_nic.",
            "lease_notes.",
            "lease_rounds.",
            "lease_way.",
        ],
        "ice has no queue management: nothing can be bound or leased",
    ),
    (
        Driver::Gve,
        &["receive.rx_page_size"],
        "gve has no rx-page-size",
    ),
    (
        Driver::Bnxt,
        &["doctor_nic.driver_without_split"],
        "bnxt has header split on by itself",
    ),
    (
        Driver::Fbnic,
        &["doctor_nic.driver_without_split"],
        "fbnic has header split on by itself",
    ),
    (
        Driver::Gve,
        &["lease_nic.bind_of_leased_queue"],
        "gve cannot restart queue 0",
    ),
    (
        Driver::Gve,
        &["doctor_nic.rss_context_has_the_queue"],
        "gve has no RSS contexts",
    ),
    (
        Driver::Fbnic,
        &["doctor_nic.no_coalescing"],
        "fbnic has no rx-gro-hw",
    ),
    (
        Driver::Fbnic,
        &[
            "doctor_nic.ntuple_off",
            "doctor_netkit.fault_of_the_nic_behind",
        ],
        "fbnic cannot switch ntuple off",
    ),
    (
        Driver::Fbnic,
        &["receive.rx_page_size"],
        "fbnic has no rx-page-size",
    ),
    (
        Driver::Gve,
        &["lease_way.large_receive_offload"],
        "gve has no LRO",
    ),
    (
        Driver::Fbnic,
        &["lease_way.large_receive_offload"],
        "fbnic has no LRO",
    ),
];

/// Whether a case runs with a driver if no cases are named on the command line.
pub(super) fn runs(driver: Driver, case: &str) -> bool {
    let module = case.split('.').next().unwrap_or(case);
    driver == Driver::Swnic || MODULES.contains(&module)
}

/// Returns the reason why a case can't hold with a driver; `None` if it can.
pub(super) fn why_skipped(driver: Driver, case: &str) -> Option<&'static str> {
    let about = |names: &[&str]| names.iter().any(|name| case.starts_with(name));
    let mut skips = SKIPS.iter();
    let (_, _, why) = skips.find(|(of, names, _)| *of == driver && about(names))?;
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::{BRIEF, Driver, MODULES, SKIPS, runs};
    use crate::runner::registry::ALL;

    #[test]
    fn the_selection_names_modules_that_are() {
        for module in MODULES {
            let prefix = format!("{module}.");
            assert!(
                ALL.iter().any(|case| case.name.starts_with(&prefix)),
                "no case is in {module}"
            );
        }
    }

    #[test]
    fn the_few_cases_are_of_the_selection() {
        for name in BRIEF {
            assert!(ALL.iter().any(|case| case.name == *name), "{name}");
            assert!(runs(Driver::Mlx5, name), "{name}");
        }
    }

    #[test]
    fn cases_that_are_skipped_are_cases() {
        for name in SKIPS.iter().flat_map(|(_, names, _)| *names) {
            assert!(
                ALL.iter().any(|case| case.name.starts_with(name)),
                "no case is called {name}"
            );
        }
    }
}
