//! Which NIC it is.

use netdev::{Ifindex, Link, LinkInfo, NetNs};
use serde::{Deserialize, Serialize};

use crate::{Error, boot_id};

/// What tells a NIC from others, one of the same name too: the kernel gives no number twice in a
/// boot until it has given all, and a NIC keeps its number when it moves where that is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    boot: String,
    /// Device and inode of its namespace.
    netns: (u64, u64),
    pub(crate) ifindex: Ifindex,
    pub(crate) name: String,
    parent: Option<String>,
    bus: Option<String>,
}

impl Identity {
    pub(crate) fn of(netns: &NetNs, link: &LinkInfo) -> Result<Self, Error> {
        Ok(Self {
            boot: boot_id()?,
            netns: netns.identity()?,
            ifindex: link.ifindex,
            name: link.name.clone(),
            parent: link.parent.clone(),
            bus: link.parent_bus.clone(),
        })
    }

    /// Whether both are one NIC, wherever it is now and whatever its name is.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.boot == other.boot
            && self.ifindex == other.ifindex
            && self.parent == other.parent
            && self.bus == other.bus
    }

    /// Whether it was met in this boot of the machine.
    pub(crate) fn is_of_this_boot(&self) -> Result<bool, Error> {
        Ok(self.boot == boot_id()?)
    }

    /// The name of its journal.
    pub(crate) fn file(&self) -> String {
        format!("nic-{}-{}.json", self.netns.1, self.ifindex)
    }

    /// Where it is now, if anywhere: in the namespace where it was, or in another one that can be seen.
    pub(crate) fn find(&self) -> Result<Option<(NetNs, LinkInfo)>, Error> {
        let mut spaces = NetNs::visible()?;
        // Where it was comes first.
        spaces.sort_by_key(|netns| netns.identity().ok() != Some(self.netns));
        for netns in spaces {
            let link = match Link::open_in(&netns).and_then(|mut link| link.get(self.ifindex)) {
                Ok(link) => link,
                Err(error) if is_not_there(&error) => continue,
                // Not knowing is not absence: what was changed stays noted.
                Err(error) => return Err(error.into()),
            };
            if self.is(&Self::of(&netns, &link)?) {
                return Ok(Some((netns, link)));
            }
        }
        Ok(None)
    }
}

/// Whether an error says that a namespace has no such device: `ENODEV`, or that the namespace went meanwhile
/// or may not be entered.
fn is_not_there(error: &netdev::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL | libc::EPERM | libc::EACCES)
    )
}
