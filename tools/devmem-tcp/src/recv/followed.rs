//! A link that is followed from namespace to namespace until it is gone for good.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netdev::link::{LinkEvent, LinkEvents, LinkInfo};
use netdev::{Ifindex, Link, NetNs, NsId, Result};

/// The link and a socket that hears of it.
pub(super) struct Followed {
    pub(super) device: String,
    ifindex: Ifindex,
    netns: NetNs,
    events: LinkEvents,
    /// How it was when it was last seen, to know it again; `None` if it was gone already.
    seen: Option<LinkInfo>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Followed,
    /// It went to a namespace that can't be looked into: of its end nothing is heard.
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

    /// Whether anything is heard of it.
    pub(super) fn is_followed(&self) -> bool {
        self.state == State::Followed
    }

    /// Whether it is where it was last heard of.
    pub(super) fn is_there(&self) -> bool {
        self.state == State::Followed
            && look(&self.netns, self.ifindex).is_ok_and(|link| link.is_some())
    }

    /// Whether it is gone, after all that has been told of it until now, or until a deadline.
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

    /// Follows the link into the namespace that it moved to, of which its old namespace has this id.
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

    /// Listens in another namespace from now on; false if it is not there.
    fn settle(&mut self, netns: &NetNs, ifindex: Ifindex) -> bool {
        match Self::new(&self.device, ifindex, netns) {
            Ok(found) if found.state == State::Followed => {
                *self = found;
                true
            }
            _ => false,
        }
    }

    /// It moved on before it was looked for. A NIC is known again by its place on the bus and its
    /// address; a virtual link by nothing.
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

/// One after the other: none is held open.
fn visible() -> impl Iterator<Item = NetNs> {
    let seen = NetNs::visible().map(|visible| visible.namespaces);
    let seen = seen.unwrap_or_default().into_iter();
    seen.filter_map(|seen| seen.open().ok())
}

/// The link, if it is there.
fn look(netns: &NetNs, ifindex: Ifindex) -> Result<Option<LinkInfo>> {
    match Link::open_in(netns)?.get(ifindex) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}
