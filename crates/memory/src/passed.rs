//! Memory that another process made: an inherited fd, or one passed over a Unix socket.
//!
//! Making memory of a GPU may need privilege or a library that the receiver does not have. A helper
//! can make the dmabuf instead: it listens on a Unix stream socket, and sends each process that
//! connects a message of at least one byte with one fd (`SCM_RIGHTS`, unix(7)), as [`pass`] does.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::time::Duration;

use dmabuf::{Dmabuf, DmabufFd};

use crate::sys;

/// Time that the other process has to pass the dmabuf's fd.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Name of a Unix socket: a path, or `@` and an abstract name without a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketName(String);

impl SocketName {
    /// Parses the name of a Unix socket; `None` for what no socket can be called: an empty text,
    /// more than fits `sun_path` of `struct sockaddr_un` (107 bytes), a text with a byte 0.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=107).contains(&name.len()) && !name.contains('\0');
        (fits && name != "@").then(|| Self(name.to_owned()))
    }

    fn is_abstract(&self) -> bool {
        self.0.starts_with('@')
    }

    /// Address of the Unix socket, to connect to or to listen on.
    ///
    /// # Errors
    /// None that is known: the name was checked.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self.0.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&self.0),
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Error of a dmabuf that another process passes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process did not inherit an fd of this number, or can't open another fd.
    #[error("fd:{fd}")]
    Inherit {
        /// Number of the fd.
        fd: u32,
        /// Error of `fcntl(F_DUPFD_CLOEXEC)`.
        #[source]
        source: io::Error,
    },
    /// The fd is not a dmabuf.
    #[error("fd:{fd}: not a dmabuf, but {what}")]
    NotDmabuf {
        /// Number of the inherited fd.
        fd: u32,
        /// Target of the fd in `/proc/self/fd`.
        what: String,
    },
    /// The Unix socket can't be connected to.
    #[error("connect to Unix socket {socket}")]
    Connect {
        /// Name of the socket.
        socket: SocketName,
        /// Error of `connect`.
        #[source]
        source: io::Error,
    },
    /// The other process did not pass an fd in time, or the connection broke.
    #[error("receive an fd from Unix socket {socket}")]
    Receive {
        /// Name of the socket.
        socket: SocketName,
        /// Error of `recvmsg`.
        #[source]
        source: io::Error,
    },
    /// The other process passed no fd, or more than one.
    #[error("Unix socket {socket}: {fds} fds were passed, one is wanted")]
    Count {
        /// Name of the socket.
        socket: SocketName,
        /// Number of fds that were passed.
        fds: usize,
    },
    /// The fd that the other process passed is not a dmabuf.
    #[error("Unix socket {socket}: what was passed is not a dmabuf, but {what}")]
    PassedOther {
        /// Name of the socket.
        socket: SocketName,
        /// Target of the fd in `/proc/self/fd`.
        what: String,
    },
    /// The passed dmabuf is smaller than required.
    #[error("{origin}: a dmabuf of {len} bytes, {wanted} are wanted")]
    TooSmall {
        /// Origin of the dmabuf, as it is written on a command line.
        origin: String,
        /// Length of the dmabuf in bytes.
        len: u64,
        /// Required length in bytes.
        wanted: u64,
    },
    /// The length of the passed dmabuf could not be read.
    #[error(transparent)]
    Dmabuf(dmabuf::Error),
}

/// Duplicates the dmabuf that this process inherited as fd `fd`. The original fd stays open until
/// the process ends, but is closed in processes that it starts from now on.
///
/// # Errors
/// [`Error::Inherit`], [`Error::NotDmabuf`], [`Error::Dmabuf`].
#[doc(alias = "F_DUPFD_CLOEXEC")]
pub fn inherited(fd: u32) -> Result<DmabufFd, Error> {
    let own = sys::duplicate(fd).map_err(|source| Error::Inherit { fd, source })?;
    let memory = dmabuf(own).map_err(|error| error.at(|what| Error::NotDmabuf { fd, what }))?;
    sys::close_on_exec(fd).map_err(|source| Error::Inherit { fd, source })?;
    Ok(memory)
}

/// Connects to a Unix stream socket and receives the dmabuf that the other process passes over it.
///
/// # Errors
/// [`Error::Connect`], [`Error::Receive`] if none comes within 10 s, [`Error::Count`],
/// [`Error::PassedOther`], [`Error::Dmabuf`].
#[doc(alias = "SCM_RIGHTS")]
pub fn received(socket: &SocketName) -> Result<DmabufFd, Error> {
    received_within(socket, SEND_TIMEOUT)
}

fn received_within(socket: &SocketName, patience: Duration) -> Result<DmabufFd, Error> {
    let name = || socket.clone();
    let connect = || UnixStream::connect_addr(&socket.address()?);
    let stream = connect().map_err(|source| Error::Connect {
        socket: name(),
        source,
    })?;
    let receive = || sys::receive_fds(&stream, patience);
    let fds = receive().map_err(|source| Error::Receive {
        socket: name(),
        source,
    })?;
    let count = |fds: &Vec<OwnedFd>| Error::Count {
        socket: name(),
        fds: fds.len(),
    };
    let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| count(&fds))?;
    let socket = name();
    dmabuf(fd).map_err(|error| error.at(|what| Error::PassedOther { socket, what }))
}

/// Checks that a process has a Unix stream socket of that name, without connecting to it, so that
/// no memory is made in vain. Whether the process listens and has memory is not checked.
///
/// # Errors
/// [`Error::Connect`].
pub fn offered(socket: &SocketName) -> Result<(), Error> {
    let error = |source| Error::Connect {
        socket: socket.clone(),
        source,
    };
    let answered = match socket.is_abstract() {
        true => find_abstract_socket(socket),
        false => check_socket_type(socket),
    };
    answered.map_err(error)
}

/// Checks that a Unix socket with a path is a stream socket, by an error of `connect`: the kernel
/// checks the type last (`unix_find_bsd`).
fn check_socket_type(socket: &SocketName) -> io::Result<()> {
    let other = io::Error::from_raw_os_error(libc::EPROTOTYPE);
    match UnixDatagram::unbound()?.connect_addr(&socket.address()?) {
        Err(refused) if refused.raw_os_error() == other.raw_os_error() => Ok(()),
        Err(refused) => Err(refused),
        Ok(()) => Err(other),
    }
}

/// Looks for an abstract Unix socket in the list of sockets (`unix_seq_show`: number, references,
/// protocol, flags, type, state, inode, name), because the kernel looks its name up together with
/// the type (`unix_find_abstract`).
fn find_abstract_socket(socket: &SocketName) -> io::Result<()> {
    let name = socket.to_string();
    let wanted = Some((&b"0001"[..], name.as_bytes()));
    let list = fs::read("/proc/thread-self/net/unix")?;
    let mut lines = list.split(|byte| *byte == b'\n');
    match lines.any(|line| type_and_name(line) == wanted) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
    }
}

/// The socket's type and name in a line of `/proc/net/unix` (`unix_seq_show`): number, references,
/// protocol, flags, type, state, inode, each followed by a blank, and the name, which may have
/// blanks.
fn type_and_name(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut kind, mut rest) = (None, line);
    for field in 0..7 {
        // A short inode has blanks before it.
        let word = rest.trim_ascii_start();
        let end = word.iter().position(|byte| *byte == b' ')?;
        let (word, after) = word.split_at_checked(end)?;
        kind = kind.or(Some(word).filter(|_| field == 4));
        rest = after.get(1..)?;
    }
    Some((kind?, rest))
}

/// Passes a dmabuf, or any fd, to the process at the other end of a Unix socket: the helper's side
/// of [`received`].
///
/// # Errors
/// Those of `sendmsg`.
#[doc(alias = "SCM_RIGHTS")]
pub fn pass(stream: &UnixStream, fd: impl AsFd) -> io::Result<()> {
    sys::send_fds(stream.as_fd(), &[fd.as_fd()])
}

/// Checks that a passed dmabuf is as long as required, if a length is required.
pub(crate) fn large_enough(
    memory: DmabufFd,
    wanted: Option<u64>,
    origin: &dyn fmt::Display,
) -> Result<DmabufFd, Error> {
    match wanted {
        Some(wanted) if memory.len() < wanted => Err(Error::TooSmall {
            origin: origin.to_string(),
            len: memory.len(),
            wanted,
        }),
        _ => Ok(memory),
    }
}

/// Why a passed fd is not usable as a dmabuf.
enum Unusable {
    Other(String),
    Error(dmabuf::Error),
}

impl Unusable {
    fn at(self, other: impl FnOnce(String) -> Error) -> Error {
        match self {
            Unusable::Other(what) => other(what),
            Unusable::Error(error) => Error::Dmabuf(error),
        }
    }
}

fn dmabuf(fd: OwnedFd) -> Result<DmabufFd, Unusable> {
    let what = sys::name(fd.as_fd());
    DmabufFd::new(fd).map_err(|error| match error {
        dmabuf::Error::NotDmabuf { .. } => Unusable::Other(what),
        error => Unusable::Error(error),
    })
}

#[cfg(test)]
mod tests;
