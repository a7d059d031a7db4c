//! Notifications about devices and page pools.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink::{Attrs, Error, Listener, Result};
use serde::Serialize;

use super::{Dev, Netdev, PagePool, cmd};
use crate::parse::Parsed;

/// Multicast group of notifications of the netdev family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Notifications about devices (`mgmt`).
    Mgmt,
    /// Notifications about page pools (`page-pool`).
    PagePool,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Mgmt => "mgmt",
            Self::PagePool => "page-pool",
        }
    }
}

impl Netdev {
    /// Listens to multicast groups of the netdev family. The handle becomes the listener's.
    ///
    /// # Errors
    /// Where the kernel does not have a group, and those of `NETLINK_ADD_MEMBERSHIP`.
    #[doc(alias = "NETDEV_CMD_DEV_ADD_NTF")]
    #[doc(alias = "NETDEV_CMD_DEV_DEL_NTF")]
    #[doc(alias = "NETDEV_CMD_PAGE_POOL_ADD_NTF")]
    pub fn events(self, groups: &[Group]) -> Result<Events> {
        let ids: Result<Vec<_>> = groups
            .iter()
            .map(|group| self.0.family.group(group.name()))
            .collect();
        let family = self.0.family.id();
        Ok(Events {
            listener: self.0.socket.listen(&ids?)?,
            family,
        })
    }
}

/// A listener for changes of devices and page pools in a network namespace.
#[derive(Debug)]
pub struct Events {
    listener: Listener,
    family: u16,
}

impl Events {
    /// Waits for the next event until `deadline`, or without limit if there is none. `None` means
    /// that the deadline has passed.
    ///
    /// # Errors
    /// [`Error::is_overrun`] where events were lost.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        while let Some(message) = self.listener.next(deadline)? {
            if message.kind() != self.family {
                continue;
            }
            let event = message
                .generic()
                .and_then(|(cmd, attrs)| Event::parse(cmd, attrs));
            return event
                .map(Some)
                .map_err(|e| Error::malformed("listen", "netdev", e));
        }
        Ok(None)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A change of a device or of a page pool, as the kernel notified of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A network device appeared.
    DevAdd(Dev),
    /// A network device disappeared.
    DevDel(Dev),
    /// The XDP capabilities of a network device changed.
    DevChange(Dev),
    /// A page pool appeared.
    PagePoolAdd(PagePool),
    /// A page pool disappeared.
    PagePoolDel(PagePool),
    /// A page pool changed: its driver released it, for instance.
    PagePoolChange(PagePool),
    /// A notification that this crate does not know, by its command.
    Other(u8),
}

impl Event {
    pub(super) fn parse(cmd: u8, attrs: Attrs<'_>) -> Parsed<Self> {
        Ok(match cmd {
            cmd::DEV_ADD_NTF => Self::DevAdd(Dev::parse(attrs)?),
            cmd::DEV_DEL_NTF => Self::DevDel(Dev::parse(attrs)?),
            cmd::DEV_CHANGE_NTF => Self::DevChange(Dev::parse(attrs)?),
            cmd::PAGE_POOL_ADD_NTF => Self::PagePoolAdd(PagePool::parse(attrs)?),
            cmd::PAGE_POOL_DEL_NTF => Self::PagePoolDel(PagePool::parse(attrs)?),
            cmd::PAGE_POOL_CHANGE_NTF => Self::PagePoolChange(PagePool::parse(attrs)?),
            other => Self::Other(other),
        })
    }
}
