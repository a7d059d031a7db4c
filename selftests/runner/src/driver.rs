//! The driver whose behaviour the software NIC has (`selftests/swnic/DRIVERS.md`), what that driver
//! lacks, and the cases that are run with it.

use std::sync::{Mutex, PoisonError};

/// The modules of the cases that are about receiving, NICs, `doctor` and leases: they run with
/// each driver. All others run with the software NIC's own behaviour only, unless they are named.
pub(crate) const MODULES: &[&str] = &[
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

/// A few of those cases, which say in a minute or two whether the tools cope with a driver.
pub(crate) const BRIEF: &[&str] = &[
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

/// Cases that cannot hold with a driver, by the beginnings of their names, and why.
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

/// A driver of the kernel's tree, or the software NIC's own behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    /// None in particular: the most that a driver can do.
    Swnic,
    /// NVIDIA ConnectX.
    Mlx5,
    /// Google's virtual Ethernet.
    Gve,
    /// Broadcom NetXtreme.
    Bnxt,
    /// Intel E800.
    Ice,
    /// Meta's host NIC.
    Fbnic,
}

/// That of this process's case.
static PLAYED: Mutex<Driver> = Mutex::new(Driver::Swnic);

impl Driver {
    /// The one that the case of this process runs with.
    pub(crate) fn played() -> Self {
        *PLAYED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses it for the case that this process runs, from its next NIC on.
    pub(crate) fn play(self) {
        *PLAYED.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }

    /// Its name, as the module's parameter takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Swnic => "swnic",
            Self::Mlx5 => "mlx5",
            Self::Gve => "gve",
            Self::Bnxt => "bnxt",
            Self::Ice => "ice",
            Self::Fbnic => "fbnic",
        }
    }

    /// The module's parameter.
    pub(crate) fn parameter(self) -> String {
        format!("driver={}", self.name())
    }

    /// Whether header split can be switched on only while `rx-gro-hw` is on.
    pub(crate) fn splits_by_hw_gro(self) -> bool {
        self == Self::Mlx5
    }

    /// Whether header split can be switched off: else, what was set can be taken back.
    pub(crate) fn switches_split_off(self) -> bool {
        !matches!(self, Self::Bnxt | Self::Fbnic)
    }

    /// Whether packets up to some size can be left whole.
    pub(crate) fn has_threshold(self) -> bool {
        matches!(self, Self::Swnic | Self::Bnxt | Self::Fbnic)
    }

    /// Whether there are no rules until `rx-ntuple-filter` is switched on.
    pub(crate) fn switches_ntuple_on(self) -> bool {
        self == Self::Gve
    }

    /// How many RSS contexts there can be beside the device's own.
    pub(crate) fn contexts(self) -> u32 {
        match self {
            Self::Swnic => 63,
            Self::Mlx5 => 15,
            Self::Bnxt => 32,
            Self::Fbnic => 1,
            Self::Gve | Self::Ice => 0,
        }
    }

    /// The size of a ring that is set, if this is what is asked for.
    pub(crate) fn ring(self, size: u32) -> u32 {
        match self {
            Self::Swnic | Self::Bnxt => size,
            Self::Mlx5 | Self::Fbnic => size.next_power_of_two().max(64),
            // It refuses what is not a power of two.
            Self::Gve => size.next_power_of_two().max(256),
            Self::Ice => size.next_multiple_of(32).max(64),
        }
    }

    /// Whether a case of this name runs with it, if no cases are named.
    pub(crate) fn runs(self, case: &str) -> bool {
        let module = case.split('.').next().unwrap_or(case);
        self == Self::Swnic || MODULES.contains(&module)
    }

    /// Why a case of this name cannot hold with it, if that is so.
    pub(crate) fn skips(self, case: &str) -> Option<&'static str> {
        let about = |names: &[&str]| names.iter().any(|name| case.starts_with(name));
        let mut skips = SKIPS.iter();
        let (_, _, why) = skips.find(|(driver, names, _)| *driver == self && about(names))?;
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::{BRIEF, Driver, MODULES, SKIPS};
    use crate::cases::ALL;

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
            assert!(Driver::Mlx5.runs(name), "{name}");
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
