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
use std::time::{Duration, Instant};

use netdev::{Ifindex, NetNs};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt,
    shutdown, socket, sockopt,
};

use crate::{Error, unix_diag};

/// Number of names that are tried for a socket, as PIDs of several PID namespaces may collide.
const MAX_NAMES: u32 = 64;

/// Longest wait for room in a socket's queue of connections.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Flag of a socket that listens (`__SO_ACCEPTCON`), in `/proc/net/unix`.
const LISTENS: u32 = 1 << 16;

/// Kind of process that has set a NIC up: an owner or a guardian.
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

/// Socket that shows, while it is open, that its process has set a NIC up.
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

/// Accepts connections at a presence socket until it is shut down.
fn accept_until_shutdown(socket: &UnixListener) {
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
    /// Makes the socket that shows that this process has set the NIC up. Its name tells the
    /// directory of the NIC's journal.
    pub(crate) fn announce(
        netns: &NetNs,
        nic: Ifindex,
        dir: &Path,
        kind: Kind,
    ) -> Result<Self, Error> {
        let stem = format!(
            "{}{}/",
            socket_name_prefix(nic),
            directory_id(dir).map_err(Error::Presence)?
        );
        let bind = || {
            let pid = std::process::id();
            let mut names = (0..MAX_NAMES).map(|n| format!("{stem}{pid}.{n}{}", kind.suffix()));
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
        let taker = taker.spawn(move || accept_until_shutdown(&taken));
        Ok(Self {
            socket,
            taker: Some(taker.map_err(Error::Presence)?),
        })
    }

    /// Fails if a process with another runtime directory has set the NIC up.
    pub(crate) fn check(netns: &NetNs, nic: (Ifindex, &str), dir: &Path) -> Result<(), Error> {
        let (ifindex, device) = nic;
        let ours = match directory_id(dir) {
            Ok(ours) => ours,
            // No process has a journal there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::Presence(error)),
        };
        let others = || -> io::Result<Option<OtherProcess>> {
            let table = fs::read("/proc/thread-self/net/unix")?;
            let table = String::from_utf8_lossy(&table);
            let about = socket_name_prefix(ifindex);
            let mut sockets: Vec<Socket<'_>> = table.lines().filter_map(Socket::parse).collect();
            // Owners are told before their guardians.
            sockets.sort_by_key(|socket| socket.name.ends_with(Kind::Guardian.suffix()));
            for socket in sockets {
                let other = socket
                    .name
                    .strip_prefix(&about)
                    .and_then(|rest| rest.split_once('/'));
                if other.is_some_and(|(directory, _)| directory != ours) {
                    if let Some(present) = find_trusted(&socket) {
                        return Ok(Some(present));
                    }
                }
            }
            Ok(None)
        };
        match netns.run(others)?.map_err(Error::Presence)? {
            None => Ok(()),
            Some(OtherProcess { pid }) => Err(Error::OtherRunDir {
                device: device.to_owned(),
                // A process that can't be seen from this PID namespace has no id here.
                pid: pid
                    .and_then(|pid| u32::try_from(pid).ok())
                    .filter(|pid| *pid > 0),
            }),
        }
    }
}

/// Prefix of the names of sockets that are about this NIC.
fn socket_name_prefix(nic: Ifindex) -> String {
    format!("devmem-tcp/{nic}/")
}

/// Device and inode of the runtime directory, as text.
fn directory_id(dir: &Path) -> io::Result<String> {
    let meta = fs::metadata(dir)?;
    Ok(format!("{:x}-{:x}", meta.dev(), meta.ino()))
}

/// A Unix socket that listens, from `/proc/net/unix` (`unix_seq_show`).
struct Socket<'a> {
    inode: u32,
    name: &'a str,
}

impl<'a> Socket<'a> {
    /// Parses a line of `/proc/net/unix`; `None` for a socket that does not listen, or has no
    /// abstract name.
    fn parse(line: &'a str) -> Option<Self> {
        let (numbers, name) = line.split_once('@')?;
        let mut numbers = numbers.split_whitespace().skip(3);
        let flags = u32::from_str_radix(numbers.next()?, 16).ok()?;
        let inode = numbers.nth(2)?.parse().ok()?;
        // A path that has the sign in it.
        if numbers.next().is_some() {
            return None;
        }
        (flags & LISTENS != 0).then_some(Self { inode, name })
    }
}

/// A process that has set the NIC up.
struct OtherProcess {
    /// Id of the process, if it could be asked for.
    pid: Option<i32>,
}

/// Finds the process that has the socket, if its user may change a NIC: otherwise any user could
/// keep others from the NIC. The kernel tells the user also of a socket that can't be connected to:
/// one whose queue is full, because its process is stopped.
fn find_trusted(socket: &Socket<'_>) -> Option<OtherProcess> {
    let name = socket.name;
    let end = Instant::now() + CONNECT_TIMEOUT;
    loop {
        let errno = match peer_credentials(name) {
            Ok(peer) => {
                let pid = Some(peer.pid());
                return is_trusted(name, peer.uid()).then_some(OtherProcess { pid });
            }
            // The process has ended.
            Err(Errno::ECONNREFUSED) => return None,
            Err(errno) => errno,
        };
        let uid = unix_diag::socket_owner(socket.inode, name);
        if uid.as_ref().is_ok_and(|uid| !is_trusted(name, *uid)) {
            return None;
        }
        if errno != Errno::EAGAIN || Instant::now() > end {
            return match uid {
                Ok(_) => Some(OtherProcess { pid: None }),
                Err(error) => {
                    tracing::warn!(
                        "{name}: {errno}, {error}: it is not known whose it is, and does not count"
                    );
                    None
                }
            };
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a socket of this user is believed to show who has set a NIC up.
fn is_trusted(name: &str, uid: u32) -> bool {
    let trusted = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    if !trusted {
        tracing::debug!("{name}: of user {uid}, which does not count");
    }
    trusted
}

/// Credentials of the process that listens at the socket (`unix_listen`: `init_peercred`).
fn peer_credentials(name: &str) -> Result<UnixCredentials, Errno> {
    let address = UnixAddr::new_abstract(name.as_bytes())?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asker: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(asker.as_raw_fd(), &address)?;
    getsockopt(&asker, sockopt::PeerCredentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn processes_with_other_runtime_directories_see_each_other() {
        let (one, other) = (Scratch::new(), Scratch::new());
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

    /// A presence socket can be connected to more often than `net.core.somaxconn`, the number of
    /// connections that its queue holds.
    #[test]
    fn a_socket_can_be_connected_to_any_number_of_times() {
        let (one, other) = (Scratch::new(), Scratch::new());
        let netns = NetNs::current().unwrap();
        let nic = Ifindex::new(0x7100_0000 + std::process::id() % 0xffff);
        let _present = Presence::announce(&netns, nic, one.0.path(), Kind::Owner).unwrap();
        let directory = directory_id(one.0.path()).unwrap();
        let name = format!(
            "{}{directory}/{}.0",
            socket_name_prefix(nic),
            std::process::id()
        );
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let most: u32 = most.trim().parse().unwrap();
        for _ in 0..most + 10 {
            // A moment's crowd is none.
            let asked = (0..1000).any(|_| peer_credentials(&name).is_ok());
            assert!(asked);
        }
        assert!(Presence::check(&netns, (nic, "eth9"), other.0.path()).is_err());
    }

    #[test]
    fn the_user_of_a_socket_is_known_without_a_connection() {
        let name = format!("devmem-tcp-test/{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _socket = UnixListener::bind_addr(&address).unwrap();
        let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
        let mut sockets = table.lines().filter_map(Socket::parse);
        let socket = sockets.find(|socket| socket.name == name).unwrap();
        match unix_diag::socket_owner(socket.inode, &name) {
            Ok(uid) => {
                assert_eq!(uid, nix::unistd::geteuid().as_raw());
                // As in a line that another user's name has in it.
                let other = unix_diag::socket_owner(socket.inode, "devmem-tcp-test/1").unwrap_err();
                assert_eq!(other.kind(), io::ErrorKind::NotFound);
            }
            // A kernel without it, and a sandbox.
            Err(error) => {
                let errno = error.raw_os_error();
                let without = [libc::ENOENT, libc::EPROTONOSUPPORT, libc::EINVAL].map(Some);
                assert!(without.contains(&errno), "{error}");
            }
        }
        assert!(unix_diag::socket_owner(1, &name).is_err());
    }

    #[test]
    fn only_abstract_names_of_sockets_that_listen_count() {
        let parse = |text: &'static str| Socket::parse(text).map(|it| (it.inode, it.name));
        let listens = "0: 00000002 00000000 00010000 0001 01 4711 @devmem-tcp/5/0-0/1.0";
        assert_eq!(parse(listens), Some((4711, "devmem-tcp/5/0-0/1.0")));
        for other in [
            "0: 00000002 00000000 00000000 0001 03 4711 @devmem-tcp/5/0-0/1.0",
            "0: 00000002 00000000 00010000 0001 01 4711 /tmp/@devmem-tcp/5/0-0/1.0",
            "0: 00000002 00000000 00010000 0001 01 @devmem-tcp/5/0-0/1.0",
            "Num       RefCount Protocol Flags    Type St Inode Path",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
