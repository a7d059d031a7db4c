//! Sockets in all visible namespaces that are notified of changes.
//!
//! A socket keeps its namespace alive, and with it the netkits and leases in it. So each is closed
//! as soon as its namespace is not visible any more: a watch must not change what it watches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netdev::link::LinkEvents;
use netdev::queues::{Events, Group, Queue};
use netdev::{Link, NetNs, Netdev};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::snapshot::Identity;

/// Folder in which `ip netns` keeps the named namespaces.
const NAMED: &str = "/run/netns";

/// Interval of polling, for what has no notification: a lease (`netdev_nl_queue_create_doit`), a
/// binding of a queue whose device is down, a namespace without a name.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Netlink sockets in a namespace that are notified of changes.
struct NamespaceWatch {
    identity: Identity,
    pools: Events,
    links: LinkEvents,
    /// Queues to poll for leases, where the namespace has physical devices, which alone report
    /// them.
    queues: Option<(Netdev, Vec<Queue>)>,
}

impl NamespaceWatch {
    fn open(netns: &NetNs) -> netdev::Result<Self> {
        let pools = Netdev::open_in(netns)?.events(&[Group::Mgmt, Group::PagePool])?;
        // Listen before the first snapshot is taken.
        let links = Link::open_in(netns)?.events()?;
        let mut watch = Self {
            identity: netns.identity()?,
            pools,
            links,
            queues: None,
        };
        watch.poll_queues(netns)?;
        Ok(watch)
    }

    fn poll_queues(&mut self, netns: &NetNs) -> netdev::Result<()> {
        let links = Link::open_in(netns)?.list()?;
        let physical = links.iter().any(netdev::link::LinkInfo::is_physical);
        if physical && self.queues.is_none() {
            self.queues = Some((Netdev::open_in(netns)?, Vec::new()));
        } else if !physical {
            self.queues = None;
        }
        Ok(())
    }

    /// Reads all notifications of a namespace, and returns whether there were any. Lost ones count,
    /// too.
    fn drain(&mut self) -> bool {
        let now = Some(Instant::now());
        let mut any = false;
        // An error means lost events, so there were some; the rest is read next time.
        while let Some(event) = self.pools.next(now).transpose() {
            any = true;
            if event.is_err() {
                break;
            }
        }
        while let Some(event) = self.links.next(now).transpose() {
            any = true;
            if event.is_err() {
                break;
            }
        }
        any
    }

    /// Whether a queue's lease or binding has changed since the last poll.
    fn queues_changed(&mut self) -> bool {
        let Some((netdev, before)) = &mut self.queues else {
            return false;
        };
        match netdev.queues(None) {
            Ok(queues) => std::mem::replace(before, queues) != *before,
            // A device disappeared while it was listed.
            Err(_) => true,
        }
    }
}

/// Watches of all visible namespaces.
pub(super) struct NamespaceWatches {
    watches: Vec<NamespaceWatch>,
    /// Inotify watch of the folder of namespace names; `None` where inotify is not available.
    names: Option<Inotify>,
    named: bool,
    polled_at: Instant,
}

impl NamespaceWatches {
    pub(super) fn open() -> Result<Self> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let mut watches = Self {
            watches: Vec::new(),
            names: Inotify::init(flags).ok(),
            named: false,
            polled_at: Instant::now(),
        };
        watches.refresh()?;
        Ok(watches)
    }

    pub(super) fn count(&self) -> usize {
        self.watches.len()
    }

    /// Waits until something has changed or may have. `false` when `end` became readable, or the
    /// reader of standard output has gone.
    pub(super) fn wait(&mut self, end: impl AsFd) -> Result<bool> {
        loop {
            let left = (self.polled_at + POLL_INTERVAL).saturating_duration_since(Instant::now());
            let stdout = io::stdout();
            let mut fds = vec![
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
                // A pipe without a reader is an error, which poll always reports.
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            fds.extend(self.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let timeout = left.as_nanos().div_ceil(1_000_000);
            match poll(
                &mut fds,
                PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            if fds.iter().take(2).any(|fd| fd.any() == Some(true)) {
                return Ok(false);
            }
            if self.changed()? {
                return Ok(true);
            }
        }
    }

    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let watches = self.watches.iter();
        let sockets = watches.flat_map(|watch| [watch.pools.as_fd(), watch.links.as_fd()]);
        sockets.chain(self.names.iter().map(AsFd::as_fd))
    }

    fn changed(&mut self) -> Result<bool> {
        let mut any = false;
        for watch in &mut self.watches {
            any |= watch.drain();
        }
        let mut names = false;
        while self
            .names
            .as_ref()
            .is_some_and(|names| names.read_events().is_ok())
        {
            names = true;
        }
        if names || any || self.polled_at.elapsed() >= POLL_INTERVAL {
            self.polled_at = Instant::now();
            any |= self.refresh()? | names;
            for watch in &mut self.watches {
                any |= watch.queues_changed();
            }
        }
        Ok(any)
    }

    /// Opens watches of new namespaces and closes those of namespaces that are not visible any
    /// more. Returns whether any were opened or closed.
    fn refresh(&mut self) -> Result<bool> {
        self.watch_names();
        let visible = NetNs::visible()?.namespaces;
        let mut identities = Vec::new();
        let mut any = false;
        for seen in &visible {
            let identity = seen.identity();
            identities.push(identity);
            if let Some(watch) = self
                .watches
                .iter_mut()
                .find(|watch| watch.identity == identity)
            {
                let polled = seen.open().and_then(|netns| watch.poll_queues(&netns));
                any |= polled.is_err();
                continue;
            }
            match seen.open().and_then(|netns| NamespaceWatch::open(&netns)) {
                Ok(watch) => {
                    self.watches.push(watch);
                    any = true;
                }
                // The namespace has ended, or is another user's.
                Err(error) => tracing::debug!("namespace skipped: {error}"),
            }
        }
        let before = self.watches.len();
        self.watches
            .retain(|watch| identities.contains(&watch.identity));
        Ok(any || before != self.watches.len())
    }

    /// Watches the folder of namespace names, which exists from the first name on.
    fn watch_names(&mut self) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB;
        if let Some(names) = self.names.as_ref().filter(|_| !self.named) {
            self.named = names.add_watch(Path::new(NAMED), flags).is_ok();
        }
    }
}
