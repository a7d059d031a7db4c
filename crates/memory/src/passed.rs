//! Memory that another process made: an fd inherited, or passed over a Unix socket.
//!
//! Making memory of a GPU may take privilege or a library that the receiver has not: a helper makes
//! the dmabuf and hands it over. It listens on a Unix stream socket and sends each process that
//! connects a message of at least one byte with one fd (`SCM_RIGHTS`, unix(7)): [`pass`] does that.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::time::Duration;

use dmabuf::{Dmabuf, DmabufFd};

use crate::sys;

/// How long the other process may take to pass the fd.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a Unix socket: a path, or `@` and a name without a file (an abstract one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketName(String);

impl SocketName {
    /// `None` for what no socket can have as its name: nothing, more than fits `sun_path` of
    /// `struct sockaddr_un` (107 bytes), a byte 0.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=107).contains(&name.len()) && !name.contains('\0');
        (fits && name != "@").then(|| Self(name.to_owned()))
    }

    fn is_abstract(&self) -> bool {
        self.0.starts_with('@')
    }

    /// To connect to, or to listen on.
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

/// Why no memory was passed; [`Error::remedy`] says what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process was not started with such an fd, or has no room for another.
    #[error("fd:{fd}")]
    Inherit {
        /// The number.
        fd: u32,
        /// What `fcntl(F_DUPFD_CLOEXEC)` answered.
        #[source]
        source: io::Error,
    },
    /// The number is that of something else.
    #[error("fd:{fd}: not a dmabuf, but {what}")]
    NotDmabuf {
        /// The number.
        fd: u32,
        /// What `/proc/self/fd` says that it is.
        what: String,
    },
    /// Nobody answers.
    #[error("connect to Unix socket {socket}")]
    Connect {
        /// Its name.
        socket: SocketName,
        /// What `connect` answered.
        #[source]
        source: io::Error,
    },
    /// The other process did not pass an fd in time, or the connection broke.
    #[error("receive an fd from Unix socket {socket}")]
    Receive {
        /// Its name.
        socket: SocketName,
        /// What `recvmsg` answered.
        #[source]
        source: io::Error,
    },
    /// Not one fd was passed.
    #[error("Unix socket {socket}: {fds} fds were passed, one is wanted")]
    Count {
        /// Its name.
        socket: SocketName,
        /// How many.
        fds: usize,
    },
    /// What was passed is something else.
    #[error("Unix socket {socket}: what was passed is not a dmabuf, but {what}")]
    PassedOther {
        /// Its name.
        socket: SocketName,
        /// What `/proc/self/fd` says that it is.
        what: String,
    },
    /// The buffer has fewer bytes than are needed.
    #[error("{origin}: a dmabuf of {len} bytes, {wanted} are wanted")]
    TooSmall {
        /// Where it came from, as on a command line.
        origin: String,
        /// Its length.
        len: u64,
        /// How many bytes were asked for.
        wanted: u64,
    },
    /// The kernel would not say how long it is.
    #[error(transparent)]
    Dmabuf(dmabuf::Error),
}

impl Error {
    /// What would help, in one line, where that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Inherit { fd, source } => match source.raw_os_error()? {
                libc::EBADF => Some(format!(
                    "whoever starts this process opens fd {fd} and leaves it open across exec \
                     (no FD_CLOEXEC)"
                )),
                libc::EMFILE => Some("raise the limit: ulimit -n".to_owned()),
                _ => None,
            },
            Error::NotDmabuf { .. } | Error::PassedOther { .. } => Some(
                "pass the fd that the exporter gave: a heap's, a udmabuf's (not its memfd), a \
                 GPU's (not its device node)"
                    .to_owned(),
            ),
            Error::Connect { source, .. } => connect_remedy(source),
            Error::Receive { source, .. } => {
                let late = matches!(source.raw_os_error(), Some(libc::EAGAIN));
                late.then(|| format!("the helper has {PATIENCE:?} to send the fd (SCM_RIGHTS)"))
            }
            Error::Count { .. } => {
                Some("the helper sends one fd to each that connects (SCM_RIGHTS)".to_owned())
            }
            Error::TooSmall { len, .. } => {
                Some(format!("pass a larger one, or ask for {len} bytes at most"))
            }
            Error::Dmabuf(_) => None,
        }
    }
}

fn connect_remedy(source: &io::Error) -> Option<String> {
    let remedy = match source.raw_os_error()? {
        libc::ENOENT | libc::ECONNREFUSED => {
            "start the helper first: it listens on a Unix stream socket and sends one fd to each \
             that connects (SCM_RIGHTS)"
        }
        libc::EPROTOTYPE => "the helper is to listen on a stream socket (SOCK_STREAM)",
        libc::EACCES | libc::EPERM => "to connect takes the right to write to the socket's file",
        libc::ENOTSOCK => "that file is not a socket",
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// A second fd on the dmabuf that this process was started with under the number `fd`. The number
/// itself stays open until the process ends, but not in processes that it starts from now on.
///
/// # Errors
/// [`Error::Inherit`], [`Error::NotDmabuf`], [`Error::Dmabuf`].
pub fn inherited(fd: u32) -> Result<DmabufFd, Error> {
    let own = sys::duplicate(fd).map_err(|source| Error::Inherit { fd, source })?;
    let memory = dmabuf(own).map_err(|error| error.at(|what| Error::NotDmabuf { fd, what }))?;
    sys::close_on_exec(fd).map_err(|source| Error::Inherit { fd, source })?;
    Ok(memory)
}

/// Connects to a Unix stream socket and takes the dmabuf that is passed over it.
///
/// # Errors
/// [`Error::Connect`], [`Error::Receive`] if none comes within 10 s, [`Error::Count`],
/// [`Error::PassedOther`], [`Error::Dmabuf`].
pub fn received(socket: &SocketName) -> Result<DmabufFd, Error> {
    received_within(socket, PATIENCE)
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

/// Whether a process has a stream socket of that name to connect to. It isn't connected to, so that
/// no memory is made in vain; that the process listens, and has memory, is more than this says.
///
/// # Errors
/// [`Error::Connect`].
pub fn offered(socket: &SocketName) -> Result<(), Error> {
    let error = |source| Error::Connect {
        socket: socket.clone(),
        source,
    };
    let answered = match socket.is_abstract() {
        true => listed(socket),
        false => refused_by_type(socket),
    };
    answered.map_err(error)
}

/// A socket of another type than that of a path is refused last of all (`unix_find_bsd`).
fn refused_by_type(socket: &SocketName) -> io::Result<()> {
    let other = io::Error::from_raw_os_error(libc::EPROTOTYPE);
    match UnixDatagram::unbound()?.connect_addr(&socket.address()?) {
        Err(refused) if refused.raw_os_error() == other.raw_os_error() => Ok(()),
        Err(refused) => Err(refused),
        Ok(()) => Err(other),
    }
}

/// An abstract name is looked up with the type (`unix_find_abstract`), but it is listed. Names of other
/// sockets may be any bytes.
fn listed(socket: &SocketName) -> io::Result<()> {
    let name = socket.to_string();
    let wanted = Some((&b"0001"[..], name.as_bytes()));
    let list = fs::read("/proc/thread-self/net/unix")?;
    let mut lines = list.split(|byte| *byte == b'\n');
    match lines.any(|line| type_and_name(line) == wanted) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
    }
}

/// The type and the name in a line of `/proc/net/unix` (`unix_seq_show`): number, references, protocol,
/// flags, type, state, inode, each followed by a blank, and the name, which may have blanks.
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

/// Passes a dmabuf, or any fd, to the process at the other end: the helper's side of [`received`].
///
/// # Errors
/// What `sendmsg` answered.
pub fn pass(stream: &UnixStream, fd: impl AsFd) -> io::Result<()> {
    sys::send_fds(stream.as_fd(), &[fd.as_fd()])
}

/// Holds the length against what was asked for, if anything was.
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

/// What an fd turned out to be.
enum Odd {
    Other(String),
    Error(dmabuf::Error),
}

impl Odd {
    fn at(self, other: impl FnOnce(String) -> Error) -> Error {
        match self {
            Odd::Other(what) => other(what),
            Odd::Error(error) => Error::Dmabuf(error),
        }
    }
}

fn dmabuf(fd: OwnedFd) -> Result<DmabufFd, Odd> {
    let what = sys::name(fd.as_fd());
    DmabufFd::new(fd).map_err(|error| match error {
        dmabuf::Error::NotDmabuf { .. } => Odd::Other(what),
        error => Odd::Error(error),
    })
}

#[cfg(test)]
mod tests;
