//! What may go away under a receiver: the physical NIC, the device, the namespace.
//!
//! Nothing of it ends a TCP connection, which would wait for its peer for as long as TCP does. So a
//! thread listens for the ends of the two links, each in its namespace, and looks at the
//! namespace's name five times a second; it stops the engine when one has gone.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devmem::engine::StopHandle;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use receiver::RxDevice;

use super::followed::Followed;
use super::lease_again::lease_again;
use super::netns_end::NetnsEnd;
use super::observer::Observer;
use super::pool::State;
use crate::args::NetNsArg;
use crate::exit::ExitReason;

/// Between two looks at the namespace, which sends no notification, in milliseconds.
const TICK: u16 = 200;
/// The NIC's end is told after that of the netkits that go with it: a while later at most.
const FIRST_CAUSE: Duration = Duration::from_millis(500);

/// What went away, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) what: ExitReason,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

/// The thread that watches.
pub(super) struct Watch {
    /// Observer of the engine, once there is one.
    observer: Arc<Mutex<Option<Observer>>>,
    thread: JoinHandle<(Watched, Option<Cause>)>,
    /// Closing it ends the thread.
    end: UnixStream,
}

impl Watch {
    /// Begins to watch, before anything is made that may go; `stop` is used when something has gone.
    pub(super) fn start(
        arg: Option<&NetNsArg>,
        device: &RxDevice,
        stop: StopHandle,
    ) -> Result<Self> {
        let mut watched = Watched::new(arg, device)?;
        let (end, ended) = UnixStream::pair().context("socketpair")?;
        let observer = Arc::new(Mutex::new(None));
        let theirs = Arc::clone(&observer);
        let run = move || {
            let cause = watched.until_gone(&ended, &theirs);
            if cause.is_some() {
                stop.stop();
            }
            (watched, cause)
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(run);
        Ok(Self {
            observer,
            thread: thread.context("starting a thread")?,
            end,
        })
    }

    /// Has this observer look at the engine from time to time.
    pub(super) fn attend(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }

    /// Ends the look at the engine, before its binding is gone: how much memory was taken.
    pub(super) fn observed(&self) -> Option<State> {
        let observer = lock(&self.observer).take();
        observer.map(Observer::end)
    }

    /// Ends the watch; what has gone until now.
    pub(super) fn end(self) -> Option<Cause> {
        self.observed();
        drop(self.end);
        let (mut watched, cause) = self.thread.join().ok()?;
        cause.or_else(|| watched.look())
    }
}

fn lock(observer: &Mutex<Option<Observer>>) -> std::sync::MutexGuard<'_, Option<Observer>> {
    observer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that may go.
struct Watched {
    device: String,
    /// The physical NIC: the device itself, or the one that it leases from, if that is in reach.
    nic: Option<Followed>,
    /// The device, if it is virtual.
    virt: Option<Followed>,
    netns: NetnsEnd,
    /// Command that leases again what the device leases.
    lease: String,
}

impl Watched {
    fn new(arg: Option<&NetNsArg>, device: &RxDevice) -> Result<Self> {
        let RxDevice {
            netns, link, nic, ..
        } = device;
        let nic = nic
            .as_ref()
            .map(|nic| Followed::new(&nic.device, nic.ifindex, &nic.netns));
        let virt = link
            .is_virtual()
            .then(|| Followed::new(&link.name, link.ifindex, netns));
        Ok(Self {
            device: link.name.clone(),
            nic: nic.transpose()?,
            virt: virt.transpose()?,
            netns: NetnsEnd::of(arg, netns)?,
            lease: lease_again(device),
        })
    }

    /// Waits until something has gone; `None` when the other end of `ended` was closed first.
    fn until_gone(
        &mut self,
        ended: &UnixStream,
        observer: &Mutex<Option<Observer>>,
    ) -> Option<Cause> {
        loop {
            if let Some(cause) = self.look() {
                return Some(cause);
            }
            let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            let links = [&self.nic, &self.virt].into_iter().flatten();
            let followed = links.filter(|link| link.is_followed());
            fds.extend(followed.map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::from(TICK)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::warn!("what goes away is not seen any more: poll: {errno}");
                    return None;
                }
            }
            if fds.first().and_then(PollFd::any) == Some(true) {
                return None;
            }
            if let Some(observer) = lock(observer).as_mut() {
                observer.tick();
            }
        }
    }

    /// What has gone, the first cause first: with a NIC go the netkits that lease from it.
    fn look(&mut self) -> Option<Cause> {
        let mut nic_gone = self.nic.as_mut().is_some_and(|nic| nic.is_gone(None));
        let virt_gone = self.virt.as_mut().is_some_and(|virt| virt.is_gone(None));
        if virt_gone && !nic_gone {
            // `netkit_check_lease_unregister` ends the netkit before the NIC's own end is told, but
            // after the NIC is off the list of devices.
            nic_gone = self.nic.as_mut().is_some_and(|nic| {
                !nic.is_there() && nic.is_gone(Some(Instant::now() + FIRST_CAUSE))
            });
        }
        if nic_gone {
            return self.nic.as_ref().map(|nic| self.nic_cause(&nic.device));
        }
        if virt_gone {
            return Some(self.device_cause());
        }
        let text = self.netns.gone()?;
        Some(Cause {
            what: ExitReason::Netns,
            text,
            remedy: None,
        })
    }

    fn nic_cause(&self, nic: &str) -> Cause {
        let device = &self.device;
        let (text, remedy) = match &self.virt {
            None => (
                format!("{nic} was removed: the NIC is gone, and its binding with it"),
                None,
            ),
            Some(_) => (
                format!(
                    "{nic}, the NIC whose queue {device} leases, was removed, and {device} with it"
                ),
                Some(format!("when {nic} is back: {}", self.lease)),
            ),
        };
        Cause {
            what: ExitReason::Nic,
            text,
            remedy,
        }
    }

    fn device_cause(&self) -> Cause {
        let device = &self.device;
        let from = match &self.nic {
            Some(nic) => format!(" of a queue of {}", nic.device),
            None => String::new(),
        };
        Cause {
            what: ExitReason::Device,
            text: format!("{device} was deleted, and its lease{from} has ended"),
            remedy: Some(format!("make it again: {}", self.lease)),
        }
    }
}
