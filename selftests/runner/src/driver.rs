//! The driver whose behaviour the software NIC has (`selftests/swnic/DRIVERS.md`), what that driver
//! lacks, and the cases that are run with it.

use std::sync::OnceLock;

/// The modules of the cases that are about receiving, NICs, `doctor` and leases: they run with
/// each driver. All others run with the software NIC's own behaviour only, unless they are named.
pub(crate) const MODULES: &[&str] = &[
    "receive",
    "nic",
    "nic_journal",
    "nic_plan",
    "nic_restored",
    "nic_shared",
    "round",
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
static PLAYED: OnceLock<Driver> = OnceLock::new();

impl Driver {
    /// The one that the case of this process runs with.
    pub(crate) fn played() -> Self {
        *PLAYED.get().unwrap_or(&Self::Swnic)
    }

    /// Chooses it for the case that this process runs.
    pub(crate) fn play(self) {
        let _once = PLAYED.set(self);
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

    /// Whether a case of this name runs with it, if no cases are named.
    pub(crate) fn runs(self, case: &str) -> bool {
        let module = case.split('.').next().unwrap_or(case);
        self == Self::Swnic || MODULES.contains(&module)
    }
}

#[cfg(test)]
mod tests {
    use super::MODULES;
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
}
