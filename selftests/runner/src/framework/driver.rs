//! The driver that the software NIC imitates (`selftests/swnic/DRIVERS.md`), and what that driver
//! lacks.

use std::sync::{Mutex, PoisonError};

/// A driver of the kernel's tree, or the software NIC's own behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// No particular driver: everything that a driver can do.
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

/// The driver that the software NIC imitates in this process's case.
static IMITATED: Mutex<Driver> = Mutex::new(Driver::Swnic);

impl Driver {
    /// Returns the driver that the software NIC imitates in this process's case.
    pub fn imitated() -> Self {
        *IMITATED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the driver that the software NIC imitates, from its next load on.
    pub fn imitate(self) {
        *IMITATED.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }

    /// Name of the driver, as the software NIC's module parameter takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swnic => "swnic",
            Self::Mlx5 => "mlx5",
            Self::Gve => "gve",
            Self::Bnxt => "bnxt",
            Self::Ice => "ice",
            Self::Fbnic => "fbnic",
        }
    }

    /// The software NIC's module parameter for this driver.
    pub fn parameter(self) -> String {
        format!("driver={}", self.name())
    }

    /// Whether header split can be switched on only while `rx-gro-hw` is on.
    pub fn splits_by_hw_gro(self) -> bool {
        self == Self::Mlx5
    }

    /// Whether header split can be switched off; if not, it can be left to the driver again.
    pub fn switches_split_off(self) -> bool {
        !matches!(self, Self::Bnxt | Self::Fbnic)
    }

    /// Whether the driver has a header split threshold (`hds-thresh`), below which packets are not
    /// split.
    pub fn has_threshold(self) -> bool {
        matches!(self, Self::Swnic | Self::Bnxt | Self::Fbnic)
    }

    /// Whether the driver takes no flow rules until `rx-ntuple-filter` is switched on.
    pub fn switches_ntuple_on(self) -> bool {
        self == Self::Gve
    }

    /// Number of RSS contexts that the driver can have beside the device's own.
    pub fn contexts(self) -> u32 {
        match self {
            Self::Swnic => 63,
            Self::Mlx5 => 15,
            Self::Bnxt => 32,
            Self::Fbnic => 1,
            Self::Gve | Self::Ice => 0,
        }
    }

    /// Returns the ring size that the driver sets when asked for `size`.
    pub fn ring(self, size: u32) -> u32 {
        match self {
            Self::Swnic | Self::Bnxt => size,
            Self::Mlx5 | Self::Fbnic => size.next_power_of_two().max(64),
            // It refuses what is not a power of two.
            Self::Gve => size.next_power_of_two().max(256),
            Self::Ice => size.next_multiple_of(32).max(64),
        }
    }
}
