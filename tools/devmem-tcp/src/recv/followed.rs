//! Tracker of a network device, from namespace to namespace, until the device is deleted.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netdev::link::{LinkEvent, LinkEvents, LinkInfo};
use netdev::{Ifindex, Link, NetNs, NsId, Result};

/// Tracked network device, with the netlink socket that receives its moves and its deletion.
pub(super) struct Followed {
    pub(super) device: String,
    ifindex: Ifindex,
    netns: NetNs,
    events: LinkEvents,
    /// Device as it was last seen, by which a NIC is found again; `None` if it was deleted already.
    seen: Option<LinkInfo>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Followed,
    /// The device moved to a namespace that can't be entered: its deletion will not be seen.
    Lost,
    Gone,
}

impl Followed {
    pub(super) fn new(device: &str, ifindex: Ifindex, netns: &NetNs) -> Result<Self> {
        // Listen first, then look: an end between the two is one or the other.
        let events = Link::open_in(netns)?.events()?;
        let seen = look(netns, ifindex)?;
        Ok(Self {
            device: device.to_owned(),
            ifindex,
            netns: netns.clone(),
            events,
            state: match seen {
                Some(_) => State::Followed,
                None => State::Gone,
            },
            seen,
        })
    }

    /// Whether events of the device are received: it is neither deleted nor out of sight.
    pub(super) fn is_followed(&self) -> bool {
        self.state == State::Followed
    }

    /// Whether the device exists in the namespace where it was last seen.
    pub(super) fn is_there(&self) -> bool {
        self.state == State::Followed
            && look(&self.netns, self.ifindex).is_ok_and(|link| link.is_some())
    }

    /// Whether the device was deleted, by the events received until now, or until `deadline`.
    pub(super) fn is_gone(&mut self, deadline: Option<Instant>) -> bool {
        while self.state == State::Followed {
            let deadline = deadline.unwrap_or_else(Instant::now);
            match self.events.next(Some(deadline)) {
                Ok(None) => return false,
                Ok(Some(LinkEvent::Deleted { ifindex, .. })) if ifindex == self.ifindex => {
                    self.state = State::Gone;
                }
                Ok(Some(LinkEvent::Moved {
                    ifindex,
                    to,
                    new_ifindex,
                    ..
                })) if ifindex == self.ifindex => self.follow(to, new_ifindex.unwrap_or(ifindex)),
                Ok(Some(_)) => {}
                // Events were lost: what is there now counts.
                Err(error) => {
                    tracing::debug!("{error}");
                    if !self.is_there() {
                        self.find_or_lose();
                    }
                }
            }
        }
        self.state == State::Gone
    }

    /// Follows the device into the namespace that has the id `nsid` in its old namespace.
    fn follow(&mut self, nsid: NsId, ifindex: Ifindex) {
        let there = NetNs::visible().and_then(|visible| {
            Link::open_in(&self.netns)?.find_namespace(nsid, &visible.namespaces)
        });
        let there = there.unwrap_or_else(|error| {
            tracing::debug!("{error}");
            None
        });
        let arrived = there.is_some_and(|netns| self.settle(&netns, ifindex));
        if !arrived {
            self.find_or_lose();
        }
    }

    /// Continues tracking in another namespace; returns false if the device is not there.
    fn settle(&mut self, netns: &NetNs, ifindex: Ifindex) -> bool {
        match Self::new(&self.device, ifindex, netns) {
            Ok(found) if found.state == State::Followed => {
                *self = found;
                true
            }
            _ => false,
        }
    }

    /// Searches all visible namespaces for a NIC that moved on before it was found, or gives up. A
    /// NIC is recognised by its parent device and MAC address; a virtual device can't be.
    fn find_or_lose(&mut self) {
        self.state = State::Lost;
        let Some(seen) = self.seen.clone().filter(LinkInfo::is_physical) else {
            return;
        };
        let same = |link: &LinkInfo| {
            (&link.parent, &link.parent_bus, link.mac) == (&seen.parent, &seen.parent_bus, seen.mac)
        };
        for netns in visible() {
            let links = Link::open_in(&netns).and_then(|mut link| link.list());
            let found = links.unwrap_or_default().into_iter().find(same);
            if found.is_some_and(|link| self.settle(&netns, link.ifindex)) {
                return;
            }
        }
        tracing::warn!(
            "{} went out of sight: its end will not be seen",
            self.device
        );
    }
}

impl AsFd for Followed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Iterates over the visible namespaces. Opens only one of them at a time.
fn visible() -> impl Iterator<Item = NetNs> {
    let seen = NetNs::visible().map(|visible| visible.namespaces);
    let seen = seen.unwrap_or_default().into_iter();
    seen.filter_map(|seen| seen.open().ok())
}

/// Looks a device up by its ifindex in a namespace; `None` if it does not exist.
fn look(netns: &NetNs, ifindex: Ifindex) -> Result<Option<LinkInfo>> {
    match Link::open_in(netns)?.get(ifindex) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}
