//! Sysctls of network devices, in this thread's namespace.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use netdev::{Error, Ifindex, Result};
use serde::{Deserialize, Serialize};
use undo::Setting;

/// Value of a sysctl that is switched on.
const ON: &str = "1";

/// A sysctl of a network device that a guest's route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sysctl {
    /// Forwarding of IPv4 packets that come in by the device.
    #[serde(rename = "ipv4.forwarding")]
    Forward4,
    /// Forwarding of IPv6 packets that come in by the device, whatever the global sysctl says.
    #[serde(rename = "ipv6.force_forwarding")]
    Forward6,
    /// Router behaviour: the device may answer for others' addresses, and ignores advertisements of
    /// other routers (unless its `accept_ra` is 2).
    #[serde(rename = "ipv6.forwarding")]
    Router6,
    /// Answers to neighbour solicitations for proxy entries.
    #[serde(rename = "ipv6.proxy_ndp")]
    ProxyNdp,
}

impl Sysctl {
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Forward4 => ("ipv4", "forwarding"),
            Self::Forward6 => ("ipv6", "force_forwarding"),
            Self::Router6 => ("ipv6", "forwarding"),
            Self::ProxyNdp => ("ipv6", "proxy_ndp"),
        }
    }

    /// Whether a write to the sysctl's `all` sets every device (`inet_forward_change`,
    /// `addrconf_forward_change`, `addrconf_force_forward_change`).
    fn follows_all(self) -> bool {
        self != Self::ProxyNdp
    }

    /// Name for the `sysctl` command: `net.ipv4.conf.eth0.forwarding`; a dot in a device's name is
    /// a slash.
    fn name(self, device: &str) -> String {
        let (family, key) = self.parts();
        format!("net.{family}.conf.{}.{key}", device.replace('.', "/"))
    }

    fn path(self, device: &str) -> PathBuf {
        let (family, key) = self.parts();
        // /proc/sys/net is that of the reader's namespace (`net_ctl_header_lookup`).
        ["/proc/sys/net", family, "conf", device, key]
            .iter()
            .collect()
    }

    /// Reads the sysctl of a device.
    pub(crate) fn read(self, device: &str) -> Result<String> {
        match fs::read_to_string(self.path(device)) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(Error::from_io("sysctl-get", self.name(device), &error)),
        }
    }

    /// Sets the sysctl of a device.
    fn write(self, device: &str, value: &str) -> Result<()> {
        fs::write(self.path(device), value)
            .map_err(|error| Error::from_io("sysctl-set", self.name(device), &error))
    }
}

/// Change of a sysctl that is switched on, with its former value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SysctlChange {
    /// Name of the device at the time of the change.
    pub(crate) device: String,
    /// Number of the device; `None` for one that is not made yet.
    pub(crate) ifindex: Option<Ifindex>,
    pub(crate) key: Sysctl,
    /// The value before the first lease that needs the sysctl, and that of the leases.
    #[serde(flatten)]
    pub(crate) setting: Setting<String>,
    /// Value of the sysctl's `all` at the time of the change.
    all: String,
}

/// A sysctl that must be on.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    pub(crate) device: String,
    pub(crate) key: Sysctl,
    /// Change to record; `None` for a device that is made for the lease and deleted with it, and
    /// for a sysctl that is on already.
    pub(crate) note: Option<SysctlChange>,
    /// Whether the sysctl is off now.
    pub(crate) off: bool,
}

impl Switch {
    /// Plans to switch on a sysctl of a device, which has no number if it is not made yet. `earlier` is the
    /// record of the same sysctl by an earlier lease.
    pub(crate) fn plan(
        device: &str,
        ifindex: Option<Ifindex>,
        key: Sysctl,
        earlier: Option<&SysctlChange>,
    ) -> Result<Self> {
        let (note, off) = match ifindex {
            Some(_) => (
                SysctlChange::needed(device, ifindex, key, earlier)?,
                key.read(device)? != ON,
            ),
            None => (None, true),
        };
        Ok(Self {
            device: device.to_owned(),
            key,
            note,
            off,
        })
    }

    /// Switches the sysctl on.
    pub(crate) fn set(&self) -> Result<()> {
        match &self.note {
            Some(change) => change.set(),
            None => self.key.write(&self.device, ON),
        }
    }

    /// Restores the value from before [`Switch::set`]. A device that was made for the lease is deleted with it.
    pub(crate) fn undo(&self) -> Result<()> {
        match &self.note {
            Some(change) if self.off => self.key.write(&self.device, &change.setting.before),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {ON}", self.key.name(&self.device))
    }
}

/// Result of restoring a sysctl.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// The sysctl has its former value again.
    Yes,
    /// Another program has set the sysctl, or its `all`, since.
    ChangedByOthers,
}

impl SysctlChange {
    /// Change to record for a sysctl that must be on; `None` if it is on without a lease.
    ///
    /// `earlier` is the record of the same sysctl by an earlier lease.
    fn needed(
        device: &str,
        ifindex: Option<Ifindex>,
        key: Sysctl,
        earlier: Option<&Self>,
    ) -> Result<Option<Self>> {
        let now = key.read(device)?;
        if let Some(earlier) = earlier.filter(|earlier| now == ON && !earlier.was_overruled()) {
            return Ok(Some(earlier.clone()));
        }
        if now == ON {
            return Ok(None);
        }
        let mut setting = Setting::new(now);
        setting.intend(&ON.to_owned());
        Ok(Some(Self {
            device: device.to_owned(),
            ifindex,
            key,
            setting,
            all: key.read("all")?,
        }))
    }

    /// Whether the change is of the sysctl `key` of the device with this number.
    pub(crate) fn is_same(&self, ifindex: Option<Ifindex>, key: Sysctl) -> bool {
        self.ifindex.is_some() && self.ifindex == ifindex && self.key == key
    }

    /// Whether both changes are of the same sysctl of the same device.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.is_same(other.ifindex, other.key)
    }

    /// Switches the sysctl on, and reads it back.
    fn set(&self) -> Result<()> {
        self.key.write(&self.device, ON)?;
        if self.key.read(&self.device)? == ON {
            Ok(())
        } else {
            let name = self.key.name(&self.device);
            Err(Error::invalid("sysctl-set", name, "it stays off"))
        }
    }

    /// Restores the sysctl of the device with this name. A dry run only returns the result.
    pub(crate) fn restore(&self, device: &str, dry_run: bool) -> Result<Restored> {
        let now = self.key.read(device)?;
        let mut setting = self.setting.clone();
        // A record of an earlier version has the original value alone.
        setting.intend(&ON.to_owned());
        if now == setting.before {
            return Ok(Restored::Yes);
        }
        if !setting.knows(&now) || self.was_overruled() {
            return Ok(Restored::ChangedByOthers);
        }
        if !dry_run {
            self.key.write(device, &setting.before)?;
        }
        Ok(Restored::Yes)
    }

    /// Whether another program has set all devices alike since, as a container engine does at its
    /// start.
    fn was_overruled(&self) -> bool {
        let all = self.key.read("all");
        self.key.follows_all() && all.is_ok_and(|all| all != self.all)
    }
}

impl fmt::Display for SysctlChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key.name(&self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_sysctl() {
        assert_eq!(
            Sysctl::Forward4.name("eth0"),
            "net.ipv4.conf.eth0.forwarding"
        );
        assert_eq!(
            Sysctl::Forward6.name("eth0.5"),
            "net.ipv6.conf.eth0/5.force_forwarding"
        );
        let path = Sysctl::ProxyNdp.path("eth0.5");
        assert_eq!(
            path.to_str(),
            Some("/proc/sys/net/ipv6/conf/eth0.5/proxy_ndp")
        );
    }

    /// Reads sysctls of the loopback device, which does not forward by default, and writes nothing.
    #[test]
    fn a_sysctl_that_is_off_is_recorded_and_a_missing_one_is_an_error() {
        let change = SysctlChange::needed("lo", Some(Ifindex::new(1)), Sysctl::ProxyNdp, None);
        if let Ok(Some(change)) = change {
            assert_eq!(change.setting.before, "0");
            assert!(change.is_same(Some(Ifindex::new(1)), Sysctl::ProxyNdp));
            assert!(!change.is_same(None, Sysctl::ProxyNdp));
            assert_eq!(change.restore("lo", false).unwrap(), Restored::Yes);
        }
        let error = SysctlChange::needed("none such", None, Sysctl::Forward4, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_device_that_is_made_for_the_lease_has_nothing_to_restore() {
        let switch = Switch::plan("nk0h", None, Sysctl::Forward4, None).unwrap();
        assert!(switch.off && switch.note.is_none());
        assert!(switch.undo().is_ok());
        assert_eq!(switch.to_string(), "net.ipv4.conf.nk0h.forwarding = 1");
    }

    #[test]
    fn a_record_of_an_earlier_version_is_understood() {
        let text = r#"{"device":"lo","ifindex":1,"key":"ipv6.proxy_ndp","before":"0","all":"0"}"#;
        let change: SysctlChange = serde_json::from_str(text).unwrap();
        assert_eq!(change.setting.before, "0");
        let again = serde_json::to_string(&change).unwrap();
        assert_eq!(
            serde_json::from_str::<SysctlChange>(&again).unwrap(),
            change
        );
    }
}
