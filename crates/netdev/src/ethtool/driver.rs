//! Name and versions of a device's driver, by ioctl.

use netlink::{Error, Result};
use serde::Serialize;

use super::Ethtool;
use crate::{Ifindex, sys};

impl Ethtool {
    /// Reads name and versions of a device's driver (`ETHTOOL_GDRVINFO`, `ethtool_get_drvinfo`).
    ///
    /// # Errors
    /// `ENODEV` without such a device, `EOPNOTSUPP` for a device that reports no driver.
    #[doc(alias = "ETHTOOL_GDRVINFO")]
    pub fn driver(&mut self, ifindex: Ifindex) -> Result<DriverInfo> {
        let name = self.name(ifindex, "driver-get")?;
        let info = sys::driver(&self.0.socket, &name);
        let info = info.map_err(|e| Error::from_io("driver-get", &name, &e))?;
        Ok(DriverInfo {
            driver: sys::text(&info.driver),
            version: sys::text(&info.version),
            firmware: sys::text(&info.fw_version),
            bus: sys::text(&info.bus_info),
        })
    }

    /// Name of a device, as an ioctl needs it. A device that is renamed between this call and the
    /// ioctl is not found.
    pub(super) fn name(&self, ifindex: Ifindex, op: &'static str) -> Result<String> {
        let name = sys::name_of(&self.0.socket, ifindex);
        name.map_err(|e| Error::from_io(op, format!("ifindex {ifindex}"), &e))
    }
}

/// Name and versions of a device's driver (`struct ethtool_drvinfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DriverInfo {
    /// Name of the driver.
    pub driver: String,
    /// Version of the driver, for most the kernel's.
    pub version: String,
    /// Version of the device's firmware.
    pub firmware: String,
    /// Address of the device on its bus.
    pub bus: String,
}
