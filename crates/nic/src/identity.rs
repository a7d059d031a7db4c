//! Identity of a NIC across renames, moves and restarts of its driver.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netdev::link::LinkInfo;
use netdev::{Ifindex, Link, NetNs, SeenNetNs};
use serde::{Deserialize, Serialize};

use undo::Boot;

use crate::Error;

/// Greatest number of searches for a NIC while namespaces come and go.
const TRIES: u32 = 3;

/// Identity of a NIC, which tells it from others, also from one of the same name. In a namespace
/// the kernel gives no number twice until it has given all, and a NIC keeps its number when it
/// moves where that is free. A physical NIC that got another number by a move is known by its
/// device, and its port on that device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    boot: String,
    /// Device and inode of the NIC's namespace.
    netns: (u64, u64),
    pub(crate) ifindex: Ifindex,
    pub(crate) name: String,
    parent: Option<String>,
    bus: Option<String>,
    /// Number of the device's binding to its driver: see [`driver_binding_number`].
    #[serde(default)]
    device: Option<u64>,
    /// Permanent address and port name of the NIC, which tell the ports of a device apart.
    #[serde(default)]
    port: (Option<String>, Option<String>),
}

impl Identity {
    pub(crate) fn of(netns: &NetNs, link: &LinkInfo) -> Result<Self, Error> {
        let mut identity = Self {
            boot: Boot::id()?,
            netns: netns.identity()?,
            ifindex: link.ifindex,
            name: link.name.clone(),
            parent: link.parent.clone(),
            bus: link.parent_bus.clone(),
            device: None,
            port: (
                link.permanent_mac.map(|mac| mac.to_string()),
                link.port.clone(),
            ),
        };
        if let Sysfs::There(device) = identity.read_sysfs() {
            identity.device = Some(device);
        }
        Ok(identity)
    }

    /// Whether both identities, of one boot, are of the same NIC, whatever its namespace, name and
    /// ifindex are now.
    pub(crate) fn is_same_nic(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.parent.clone(), it.bus.clone());
        if of(self) != of(other) {
            return false;
        }
        let same_device = match (self.device, other.device) {
            (Some(one), Some(other)) => Some(one == other),
            _ => None,
        };
        match self.ifindex == other.ifindex {
            true => same_device.unwrap_or(true),
            false => same_device == Some(true) && self.port == other.port,
        }
    }

    /// Whether the identity was recorded in this boot.
    pub(crate) fn boot(&self) -> Result<Boot, Error> {
        Ok(Boot::of(&self.boot)?)
    }

    /// Usual file name of the NIC's journal.
    pub(crate) fn file(&self) -> String {
        format!("nic-{}-{}.json", self.netns.1, self.ifindex)
    }

    /// Whether a journal of this file name may be this NIC's.
    pub(crate) fn may_have(&self, file: &str) -> bool {
        let whole = self.file();
        let stem = whole.trim_end_matches(".json");
        let rest = file
            .strip_prefix(stem)
            .and_then(|it| it.strip_suffix(".json"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Finds the NIC: in the namespace where it was, or in another one that can be seen. `None` if
    /// the NIC is gone for sure.
    ///
    /// # Errors
    /// [`Error::Hidden`] where it may be somewhere else.
    pub(crate) fn find(&self) -> Result<Option<(NetNs, LinkInfo)>, Error> {
        let mut tries = TRIES;
        loop {
            let (found, why) = self.search()?;
            if found.is_some() {
                return Ok(found);
            }
            let why = match (self.read_sysfs(), why) {
                // The settings are gone with the NIC.
                (Sysfs::Gone, _) | (Sysfs::Unknown, None) => return Ok(None),
                (Sysfs::There(device), why) if self.device == Some(device) => why,
                // The device was taken from its driver, or away, since.
                (Sysfs::There(_), _) if self.device.is_some() => return Ok(None),
                (_, why) => why,
            };
            tries -= 1;
            if tries == 0 {
                return Err(Error::Hidden {
                    device: self.name.clone(),
                    why,
                });
            }
        }
    }

    /// Looks once for the NIC in each namespace, and returns why it may have been missed.
    fn search(&self) -> Result<Found, Error> {
        let visible = NetNs::visible_or_held()?;
        let mut why = visible.hidden;
        let (home, away): (Vec<_>, Vec<_>) = visible
            .namespaces
            .iter()
            .partition(|seen| seen.identity() == self.netns);
        for seen in home.into_iter().chain(away) {
            match self.find_in(seen) {
                Ok(None) => {}
                Ok(found) => return Ok((found, None)),
                // A namespace that can't be searched may have the NIC.
                Err(Error::Refused(error)) => why = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok((None, why))
    }

    fn find_in(&self, seen: &SeenNetNs) -> Result<Option<(NetNs, LinkInfo)>, Error> {
        let netns = seen.open()?;
        let mut links = Link::open_in(&netns)?;
        let same = |link: &LinkInfo| Ok::<_, Error>(self.is_same_nic(&Self::of(&netns, link)?));
        match links.get(self.ifindex) {
            Ok(link) if same(&link)? => return Ok(Some((netns, link))),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
        if self.device.is_none() {
            return Ok(None);
        }
        let mut candidates = links.list()?.into_iter();
        let found = candidates.find_map(|link| match link.parent == self.parent {
            true => match same(&link) {
                Ok(is) => is.then_some(Ok(link)),
                Err(error) => Some(Err(error)),
            },
            false => None,
        });
        Ok(found.transpose()?.map(|link| (netns, link)))
    }

    /// Reads from sysfs whether the NIC's device is there, which all namespaces see.
    fn read_sysfs(&self) -> Sysfs {
        let (Some(bus), Some(parent)) = (&self.bus, &self.parent) else {
            return Sysfs::Unknown;
        };
        let all = Path::new("/sys/bus").join(bus).join("devices");
        match driver_binding_number(&all.join(parent)) {
            Ok(device) => Sysfs::There(device),
            Err(error) if error.kind() == ErrorKind::NotFound && all.is_dir() => Sysfs::Gone,
            Err(_) => Sysfs::Unknown,
        }
    }
}

/// A NIC and its place, or why it may be in a namespace that could not be searched.
type Found = (Option<(NetNs, LinkInfo)>, Option<netdev::Error>);

/// Answer of sysfs about a NIC's device.
enum Sysfs {
    /// Number of the device's binding to its driver, if the device is there: see [`driver_binding_number`].
    There(u64),
    Gone,
    /// Not known: there is no device or no sysfs.
    Unknown,
}

/// Number of a device's present binding to its driver: the inode of the link to the driver, which
/// is created at each bind (`driver_sysfs_add`), or of the device's folder where no driver of its
/// bus has it. kernfs gives no number twice in a boot (`kernfs_ino`).
fn driver_binding_number(folder: &Path) -> std::io::Result<u64> {
    let folder: PathBuf = folder.canonicalize()?;
    match fs::symlink_metadata(folder.join("driver")) {
        Ok(link) => Ok(link.ino()),
        Err(_) => Ok(fs::metadata(folder)?.ino()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0() -> Identity {
        Identity {
            boot: "b".to_owned(),
            netns: (4, 1),
            ifindex: Ifindex::new(3),
            name: "eth0".to_owned(),
            parent: Some("0000:01:00.0".to_owned()),
            bus: Some("pci".to_owned()),
            device: Some(77),
            port: (Some("00:00:5e:00:53:01".to_owned()), None),
        }
    }

    #[test]
    fn a_nic_that_moved_is_the_same_under_another_number() {
        let mut moved = eth0();
        (moved.netns, moved.ifindex, moved.name) = ((4, 2), Ifindex::new(9), "rail0".to_owned());
        assert!(eth0().is_same_nic(&moved) && moved.is_same_nic(&eth0()));
    }

    #[test]
    fn another_nic_is_not_the_same() {
        let others: [fn(&mut Identity); 4] = [
            |it| it.parent = Some("0000:02:00.0".to_owned()),
            // The driver was unbound and bound again.
            |it| it.device = Some(78),
            // The second port of its device.
            |it| (it.ifindex, it.port.0) = (Ifindex::new(4), None),
            // A journal of an earlier version, and another number.
            |it| (it.ifindex, it.device) = (Ifindex::new(4), None),
        ];
        for change in others {
            let mut other = eth0();
            change(&mut other);
            assert!(
                !eth0().is_same_nic(&other) && !other.is_same_nic(&eth0()),
                "{other:?}"
            );
        }
    }
}
