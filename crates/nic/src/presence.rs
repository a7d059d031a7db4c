//! Sockets that show who has set a NIC up, to every process in its network namespace.
//!
//! Two receivers whose runtime directories differ, as in two mount namespaces, know nothing of each
//! other's journals: the second would take for the NIC's own what the first made of it. So each owner
//! has a socket with an abstract name in the NIC's network namespace, which tells the directory of its
//! journal and goes with the process: `@devmem-tcp/IFINDEX/DEVICE-INODE/PID.N`, of a guardian with `-guardian` behind it. Whoever wants to change
//! the NIC, and has another directory, refuses.
//!
//! Any user can have a socket of such a name, so only those of the same user, and of root, count. To find
//! that out takes a connection, and any user can make those, too: a thread takes them, or they would fill the
//! socket's queue, and further connections would fail.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netdev::{Ifindex, NetNs};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt,
    shutdown, socket, sockopt,
};

use crate::Error;

/// Number of names tried, as PIDs of several PID namespaces may collide.
const TRIES: u32 = 64;

/// Kind of process that has the socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Owner,
    Guardian,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Owner => "",
            Self::Guardian => "-guardian",
        }
    }
}

/// Socket that shows its process while it is open.
#[derive(Debug)]
pub(crate) struct Presence {
    socket: Arc<UnixListener>,
    taker: Option<JoinHandle<()>>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // From here on `unix_accept` fails.
        let ended = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let (Ok(()), Some(taker)) = (ended, self.taker.take()) {
            let _panicked = taker.join();
        }
    }
}

/// Accepts connections until the socket is shut down.
fn take(socket: &UnixListener) {
    loop {
        match socket.accept() {
            Ok(asked) => drop(asked),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // No descriptor is free, for example.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

impl Presence {
    /// Makes the socket, whose name tells the directory of the NIC's journal.
    pub(crate) fn announce(
        netns: &NetNs,
        nic: Ifindex,
        dir: &Path,
        kind: Kind,
    ) -> Result<Self, Error> {
        let stem = format!(
            "{}{}/",
            about(nic),
            directory(dir).map_err(Error::Presence)?
        );
        let bind = || {
            let pid = std::process::id();
            let mut names = (0..TRIES).map(|n| format!("{stem}{pid}.{n}{}", kind.suffix()));
            let taken = || io::Error::from(io::ErrorKind::AddrInUse);
            let bound = names.find_map(|name| {
                let address = SocketAddr::from_abstract_name(name);
                match address.and_then(|it| UnixListener::bind_addr(&it)) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                    bound => Some(bound),
                }
            });
            bound.unwrap_or_else(|| Err(taken()))
        };
        let socket = Arc::new(netns.run(bind)?.map_err(Error::Presence)?);
        let taken = Arc::clone(&socket);
        let taker = thread::Builder::new().name("presence".to_owned());
        let taker = taker.spawn(move || take(&taken));
        Ok(Self {
            socket,
            taker: Some(taker.map_err(Error::Presence)?),
        })
    }

    /// Fails if a process with another runtime directory has set the NIC up.
    pub(crate) fn check(netns: &NetNs, nic: (Ifindex, &str), dir: &Path) -> Result<(), Error> {
        let (ifindex, device) = nic;
        let ours = match directory(dir) {
            Ok(ours) => ours,
            // No process has a journal there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::Presence(error)),
        };
        let others = || -> io::Result<Option<i32>> {
            let table = fs::read("/proc/thread-self/net/unix")?;
            let table = String::from_utf8_lossy(&table);
            let names = table.lines().filter_map(|line| line.split_once('@'));
            let about = about(ifindex);
            // Owners are told before their guardians.
            let mut names: Vec<&str> = names.map(|(_, name)| name).collect();
            names.sort_by_key(|name| name.ends_with(Kind::Guardian.suffix()));
            for name in names {
                let other = name
                    .strip_prefix(&about)
                    .and_then(|rest| rest.split_once('/'));
                if other.is_some_and(|(directory, _)| directory != ours) {
                    if let Some(peer) = trusted(name) {
                        return Ok(Some(peer.pid()));
                    }
                }
            }
            Ok(None)
        };
        match netns.run(others)?.map_err(Error::Presence)? {
            None => Ok(()),
            Some(pid) => Err(Error::OtherRunDir {
                device: device.to_owned(),
                // A process that can't be seen from this PID namespace has no id here.
                pid: u32::try_from(pid).ok().filter(|pid| *pid > 0),
            }),
        }
    }
}

/// Prefix of the names of sockets about a NIC.
fn about(nic: Ifindex) -> String {
    format!("devmem-tcp/{nic}/")
}

/// Device and inode of the directory.
fn directory(dir: &Path) -> io::Result<String> {
    let meta = fs::metadata(dir)?;
    Ok(format!("{:x}-{:x}", meta.dev(), meta.ino()))
}

/// Who has the socket of this name, if that is somebody who may change a NIC for us: else any user could
/// keep others from it.
fn trusted(name: &str) -> Option<UnixCredentials> {
    let address = UnixAddr::new_abstract(name.as_bytes()).ok()?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asker: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    let connected = connect(asker.as_raw_fd(), &address);
    // Credentials of the process that listens (`unix_listen`: `init_peercred`).
    let peer = connected.and_then(|()| getsockopt(&asker, sockopt::PeerCredentials));
    match peer {
        Ok(peer) => {
            let user = nix::unistd::geteuid().as_raw();
            let trusted = peer.uid() == 0 || peer.uid() == user;
            if !trusted {
                tracing::debug!("{name}: of user {}, which does not count", peer.uid());
            }
            Some(peer).filter(|_| trusted)
        }
        // The process has ended.
        Err(Errno::ECONNREFUSED) => None,
        Err(errno) => {
            tracing::warn!("{name}: {errno}: it is not known whose it is, and does not count");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rundir::tests::Scratch;

    #[test]
    fn those_with_another_directory_see_each_other() {
        let (one, other) = (Scratch::new("presence-1"), Scratch::new("presence-2"));
        let netns = NetNs::current().unwrap();
        // A number that no device here has.
        let nic = Ifindex::new(0x7000_0000 + std::process::id() % 0xffff);
        let check = |dir: &Scratch| Presence::check(&netns, (nic, "eth9"), dir.0.path());
        check(&one).unwrap();
        let present = Presence::announce(&netns, nic, one.0.path(), Kind::Owner).unwrap();
        let twice = Presence::announce(&netns, nic, one.0.path(), Kind::Guardian).unwrap();
        check(&one).unwrap();
        let refused = check(&other).unwrap_err();
        let Error::OtherRunDir { pid, .. } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(present);
        assert!(check(&other).is_err());
        drop(twice);
        check(&other).unwrap();
        let elsewhere = Path::new("/none/such");
        Presence::check(&netns, (nic, "eth9"), elsewhere).unwrap();
    }

    /// Whoever asks leaves a connection behind, and the kernel holds `net.core.somaxconn` of them.
    #[test]
    fn it_can_be_asked_any_number_of_times() {
        let (one, other) = (Scratch::new("asked-1"), Scratch::new("asked-2"));
        let netns = NetNs::current().unwrap();
        let nic = Ifindex::new(0x7100_0000 + std::process::id() % 0xffff);
        let _present = Presence::announce(&netns, nic, one.0.path(), Kind::Owner).unwrap();
        let directory = directory(one.0.path()).unwrap();
        let name = format!("{}{directory}/{}.0", about(nic), std::process::id());
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: u32 = most.trim().parse().unwrap();
        for _ in 0..most + 10 {
            // A moment's crowd is none.
            let asked = (0..1000).any(|_| trusted(&name).is_some());
            assert!(asked);
        }
        assert!(Presence::check(&netns, (nic, "eth9"), other.0.path()).is_err());
    }
}
