//! Sysctls of network devices, in this thread's namespace.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use netdev::{Error, Ifindex, Result};
use serde::{Deserialize, Serialize};

/// What each of them is set to.
const ON: &str = "1";

/// A switch that each device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sysctl {
    /// IPv4 packets that come in here are forwarded.
    #[serde(rename = "ipv4.forwarding")]
    Forward4,
    /// IPv6 packets that come in here are forwarded, whatever the global switch says.
    #[serde(rename = "ipv6.force_forwarding")]
    Forward6,
    /// The device is a router's: it may answer for others' addresses, and takes no
    /// advertisements of other routers (unless its `accept_ra` is 2).
    #[serde(rename = "ipv6.forwarding")]
    Router6,
    /// It answers neighbour solicitations for its proxy entries.
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

    /// Whether a write to the same switch of `all` reaches every device (`inet_forward_change`,
    /// `addrconf_forward_change`, `addrconf_force_forward_change`).
    fn follows_all(self) -> bool {
        self != Self::ProxyNdp
    }

    /// As `sysctl` calls it: `net.ipv4.conf.eth0.forwarding`; a dot in a device's name is a slash.
    pub(crate) fn name(self, device: &str) -> String {
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

    /// Its value of this device.
    pub(crate) fn read(self, device: &str) -> Result<String> {
        match fs::read_to_string(self.path(device)) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(Error::from_io("sysctl-get", self.name(device), &error)),
        }
    }

    /// Sets it for this device.
    pub(crate) fn write(self, device: &str, value: &str) -> Result<()> {
        fs::write(self.path(device), value)
            .map_err(|error| Error::from_io("sysctl-set", self.name(device), &error))
    }
}

/// A switch that is to be on, or was put on, and what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SysctlChange {
    /// The device's name at that time.
    pub(crate) device: String,
    /// Its number; `None` for one that is yet to be made.
    pub(crate) ifindex: Option<Ifindex>,
    pub(crate) key: Sysctl,
    /// Its value before the first lease that needs it.
    pub(crate) before: String,
    /// The value of `all` at that time.
    all: String,
}

/// What became of a switch that was to be put back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It is what it was.
    Yes,
    /// It is not ours any more: somebody else has set it, or `all` of them, since.
    ChangedByOthers,
}

impl SysctlChange {
    /// What is to be noted of this switch; `None` if it is on without our doing.
    ///
    /// `earlier` is what an earlier lease noted of the same switch.
    pub(crate) fn needed(
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
        Ok(Some(Self {
            device: device.to_owned(),
            ifindex,
            key,
            before: now,
            all: key.read("all")?,
        }))
    }

    /// Whether it is the same switch of the same device.
    pub(crate) fn is_same(&self, ifindex: Option<Ifindex>, key: Sysctl) -> bool {
        self.ifindex.is_some() && self.ifindex == ifindex && self.key == key
    }

    /// Whether both are about the same switch of the same device.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.is_same(other.ifindex, other.key)
    }

    /// Puts it on, and reads it back.
    pub(crate) fn set(&self) -> Result<()> {
        self.key.write(&self.device, ON)?;
        if self.key.read(&self.device)? == ON {
            Ok(())
        } else {
            let name = self.key.name(&self.device);
            Err(Error::invalid("sysctl-set", name, "it stays off"))
        }
    }

    /// Puts it back, on the device of this name; a dry run says only what would come of it.
    pub(crate) fn restore(&self, device: &str, dry_run: bool) -> Result<Restored> {
        let now = self.key.read(device)?;
        if now == self.before {
            return Ok(Restored::Yes);
        }
        if now != ON || self.was_overruled() {
            return Ok(Restored::ChangedByOthers);
        }
        if !dry_run {
            self.key.write(device, &self.before)?;
        }
        Ok(Restored::Yes)
    }

    /// Whether somebody has since set all devices alike, as a container engine does that starts.
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

    /// The loopback device forwards nothing anywhere by default; nothing is written.
    #[test]
    fn what_is_off_is_noted_and_what_is_missing_is_an_error() {
        let change = SysctlChange::needed("lo", Some(Ifindex::new(1)), Sysctl::ProxyNdp, None);
        if let Ok(Some(change)) = change {
            assert_eq!(change.before, "0");
            assert!(change.is_same(Some(Ifindex::new(1)), Sysctl::ProxyNdp));
            assert!(!change.is_same(None, Sysctl::ProxyNdp));
            assert_eq!(change.restore("lo", false).unwrap(), Restored::Yes);
        }
        let error = SysctlChange::needed("none such", None, Sysctl::Forward4, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
