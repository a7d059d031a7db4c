//! Watch for the removal of a receiver's physical NIC, netkit device or network namespace.
//!
//! None of these removals ends a TCP connection, which would wait for its peer for as long as TCP
//! does. So a thread listens for the removal of the two links, each in its namespace, and checks
//! the namespace's name five times a second; it stops the engine when one of them is gone.

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

/// Milliseconds between two checks of the namespace's name, whose removal sends no notification.
const TICK: u16 = 200;
/// Longest wait for a NIC's removal event after the removal event of a netkit that leased from it.
const FIRST_CAUSE: Duration = Duration::from_millis(500);

/// Which NIC, device or namespace was removed under a receiver, as text, with a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) what: ExitReason,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

/// Thread that watches for the removal of the NIC, device or namespace, and calls the observer.
pub(super) struct Watch {
    /// Observer of the engine; `None` before receiving begins and after it has ended.
    observer: Arc<Mutex<Option<Observer>>>,
    thread: JoinHandle<(Watched, Option<Cause>)>,
    /// Socket whose closing ends the watching thread.
    end: UnixStream,
}

impl Watch {
    /// Starts the watching thread, which uses `stop` to end receiving after a removal. To be called
    /// before the set-up, so that no removal is missed.
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

    /// Hands an observer to the watching thread, which calls its `tick` about every 200 ms.
    pub(super) fn attend(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }

    /// Ends the observer while the dmabufs are still bound. Returns the use of the dmabufs.
    pub(super) fn observed(&self) -> Option<State> {
        let observer = lock(&self.observer).take();
        observer.map(Observer::end)
    }

    /// Ends the watching thread. Returns which NIC, device or namespace was removed, if any.
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

/// NIC, device and namespace whose removal ends a receiver.
struct Watched {
    device: String,
    /// Physical NIC: the receiver's device, or the NIC that it leases from; `None` if out of reach.
    nic: Option<Followed>,
    /// Receiver's device if it is virtual, for example a netkit; `None` if it is a physical NIC.
    virt: Option<Followed>,
    netns: NetnsEnd,
    /// The `devmem-tcp lease` command that would make the device's lease again, for the remedy.
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

    /// Waits until the NIC, device or namespace is removed, and calls the observer meanwhile.
    /// `None` if the other end of `ended` is closed first, or if `poll` fails.
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

    /// Checks for a removed NIC, device or namespace. Names the NIC before the device, because the
    /// removal of a NIC also removes the netkits that lease from it.
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
