//! Netlink sockets: for requests, or for notifications.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::describe::{self, Expected, FindMessageSpec};
use crate::extack::Verdict;
use crate::message::{Message, Messages};
use crate::{Error, NetNs, ParseError, Request, Result, generic};

// Flags of messages, in the width of the header's field.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;

// Types of messages that belong to netlink itself.
const NOOP: u16 = libc::NLMSG_NOOP as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
const OVERRUN: u16 = libc::NLMSG_OVERRUN as u16;

/// Number of times that a netlink dump is tried before it fails because it changes each time.
const DUMP_TRIES: u32 = 16;

/// Initial size of the netlink receive buffer in bytes: the most that the kernel packs into one
/// datagram of a dump.
const BUFFER: usize = 32 * 1024;

/// Size of a listener's receive queue in bytes. The kernel drops notifications beyond it.
const LISTEN_BACKLOG: usize = 1024 * 1024;

/// A blocking netlink socket. It stays in the network namespace in which it was opened.
///
/// Requests are sent one at a time. An answer counts only if it comes from the kernel and has the
/// request's sequence number and this socket's port id; other messages are ignored.
#[derive(Debug)]
pub struct Socket {
    wire: Wire,
    port: u32,
    seq: u32,
    message_spec: Option<FindMessageSpec>,
}

impl Socket {
    /// Opens a generic netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket`, `bind` and `setsockopt`.
    #[doc(alias = "NETLINK_GENERIC")]
    pub fn generic() -> Result<Self> {
        let socket = Self::open(NETLINK_GENERIC);
        let mut socket = socket.map_err(|e| Error::from_io("open", "netlink socket", &e))?;
        socket.set_message_specs(generic::message_spec);
        Ok(socket)
    }

    /// Opens a generic netlink socket in the network namespace `ns`.
    ///
    /// # Errors
    /// As for [`Socket::generic`] and [`NetNs::run`].
    pub fn generic_in(ns: &NetNs) -> Result<Self> {
        ns.run(Self::generic)?
    }

    /// Opens an rtnetlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// As for [`Socket::generic`].
    #[doc(alias = "NETLINK_ROUTE")]
    pub fn route() -> Result<Self> {
        Self::open(NETLINK_ROUTE).map_err(|e| Error::from_io("open", "rtnetlink socket", &e))
    }

    /// Opens an rtnetlink socket in the network namespace `ns`.
    ///
    /// # Errors
    /// As for [`Socket::generic_in`].
    pub fn route_in(ns: &NetNs) -> Result<Self> {
        ns.run(Self::route)?
    }

    /// Opens a netfilter socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// As for [`Socket::generic`].
    #[doc(alias = "NETLINK_NETFILTER")]
    pub fn netfilter() -> Result<Self> {
        Self::open(NETLINK_NETFILTER).map_err(|e| Error::from_io("open", "netfilter socket", &e))
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        // From now on the kernel refuses datagrams of other sockets when they are sent
        // (`netlink_getsockbyportid`).
        socket.connect(&kernel())?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self {
            wire: Wire {
                socket,
                buffer: Vec::with_capacity(BUFFER),
            },
            port,
            seq: 0,
            message_spec: None,
        })
    }

    /// Sets the format of requests and answers in `tracing` events, which have target `netlink` and
    /// level `DEBUG`. Without it they name operation and object only.
    pub fn set_message_specs(&mut self, message_spec: FindMessageSpec) {
        self.message_spec = Some(message_spec);
    }

    /// Sends a netlink request and returns its one answer.
    ///
    /// # Errors
    /// The kernel's refusal, or any number of answers but one.
    pub fn ask(&mut self, request: &Request) -> Result<Message> {
        let mut answers = self.exchange(request)?;
        match (answers.pop(), answers.is_empty()) {
            (Some(answer), true) => Ok(answer),
            (None, _) => Err(request.malformed(ParseError::Answer("no answer but a bare ack"))),
            _ => Err(request.malformed(ParseError::Answer("more than one answer"))),
        }
    }

    /// Sends a netlink request that is answered by an acknowledgement alone.
    ///
    /// # Errors
    /// The kernel's refusal.
    #[doc(alias = "NLM_F_ACK")]
    pub fn tell(&mut self, request: &Request) -> Result<()> {
        self.exchange(request).map(drop)
    }

    /// Sends a netlink request with `NLM_F_ECHO`, and returns the notification of the change, if
    /// the kernel sends one.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn tell_echoed(&mut self, request: &Request) -> Result<Option<Message>> {
        Ok(self.exchange(request)?.pop())
    }

    /// Requests a list (`NLM_F_DUMP`). A list that changed while it was read (`NLM_F_DUMP_INTR`) is
    /// requested again, several times if necessary.
    ///
    /// # Errors
    /// The kernel's refusal, at the beginning or at the end of the list; a list that kept changing.
    #[doc(alias = "NLM_F_DUMP")]
    #[doc(alias = "NLM_F_DUMP_INTR")]
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Message>> {
        let listed = self.list(request);
        describe::log(self.message_spec, Expected::All, request, &listed);
        listed
    }

    fn list(&mut self, request: &Request) -> Result<Vec<Message>> {
        for _ in 0..DUMP_TRIES {
            self.send(request, REQUEST | DUMP)?;
            let mut whole = Vec::new();
            let mut steady = true;
            self.collect(request, |message| {
                steady &= message.header.flags & DUMP_INTR == 0;
                if !matches!(message.kind(), ERROR | DONE) {
                    whole.push(message);
                }
            })?;
            if steady {
                return Ok(whole);
            }
        }
        Err(Error::interrupted(request.op, &request.object))
    }

    /// Joins multicast groups (`NETLINK_ADD_MEMBERSHIP`). The socket becomes a listener and sends
    /// no more requests.
    ///
    /// # Errors
    /// Those of `NETLINK_ADD_MEMBERSHIP`: `EPERM` for a group that needs `CAP_NET_ADMIN`.
    #[doc(alias = "NETLINK_ADD_MEMBERSHIP")]
    pub fn listen(self, groups: &[u32]) -> Result<Listener> {
        let join = || -> io::Result<()> {
            self.wire
                .socket
                .set_rx_buf_sz(libc::c_int::try_from(LISTEN_BACKLOG).unwrap_or(0))?;
            groups
                .iter()
                .try_for_each(|&group| self.wire.socket.add_membership(group))
        };
        join().map_err(|e| Error::from_io("listen", format!("groups {groups:?}"), &e))?;
        Ok(Listener {
            wire: self.wire,
            pending: Vec::new(),
        })
    }

    fn exchange(&mut self, request: &Request) -> Result<Vec<Message>> {
        let answers = self.answers(request);
        describe::log(self.message_spec, Expected::One, request, &answers);
        answers
    }

    fn answers(&mut self, request: &Request) -> Result<Vec<Message>> {
        self.send(request, REQUEST | ACK)?;
        let mut answers = Vec::new();
        self.collect(request, |message| {
            if !matches!(message.kind(), ERROR | DONE) {
                answers.push(message);
            }
        })?;
        Ok(answers)
    }

    fn send(&mut self, request: &Request, flags: u16) -> Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let bytes = request.encode(flags, self.seq, self.port)?;
        let sent = self.wire.socket.send_to(&bytes, &kernel(), 0);
        sent.map(drop)
            .map_err(|e| Error::from_io(request.op, &request.object, &e))
    }

    /// Passes each message of the answer to the latest request to `each`, the final message
    /// included.
    fn collect(&mut self, request: &Request, mut each: impl FnMut(Message)) -> Result<()> {
        loop {
            let received = self.wire.receive();
            received.map_err(|e| Error::from_io(request.op, &request.object, &e))?;
            if pass_answers(&self.wire.buffer, request, (self.seq, self.port), &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Netlink address of the kernel.
fn kernel() -> SocketAddr {
    SocketAddr::new(0, 0)
}

/// Passes the messages of a datagram that answer `request` to `each`, and returns whether the
/// answer is complete.
pub(crate) fn pass_answers(
    datagram: &[u8],
    request: &Request,
    (seq, port): (u32, u32),
    each: &mut impl FnMut(Message),
) -> Result<bool> {
    for message in Messages(datagram) {
        let message = message.map_err(|e| request.malformed(e))?;
        let header = message.header;
        // A late answer to an earlier request, or a notification.
        if (header.sequence_number, header.port_number) != (seq, port) {
            continue;
        }
        let verdict = match message.kind() {
            NOOP => continue,
            OVERRUN => {
                return Err(Error::from_errno(
                    request.op,
                    &request.object,
                    libc::ENOBUFS,
                ));
            }
            ERROR => Verdict::of_ack(&message),
            DONE => Verdict::of_done(&message),
            _ => {
                each(message);
                continue;
            }
        };
        let verdict = verdict.map_err(|e| request.malformed(e))?;
        if verdict.errno != 0 {
            return Err(Error::refused(request.op, &request.object, verdict));
        }
        each(message);
        return Ok(true);
    }
    Ok(false)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.as_fd()
    }
}

/// A netlink socket that joined multicast groups. Its descriptor is readable when a notification is
/// there.
#[derive(Debug)]
pub struct Listener {
    wire: Wire,
    /// Unread messages of the latest datagram, last message first.
    pending: Vec<Message>,
}

impl Listener {
    /// Waits for the next notification until `deadline`, or without limit if there is none; `None`
    /// means that the deadline has passed. A deadline in the past only looks, without waiting.
    ///
    /// # Errors
    /// [`Error::is_overrun`] where notifications were lost: list again, then go on listening.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.pending.pop() {
                return Ok(Some(message));
            }
            let failed = |e: io::Error| Error::from_io("listen", "", &e);
            if !self.wire.wait(deadline).map_err(failed)? {
                return Ok(None);
            }
            // The datagram may be from another process, which sent it to a group.
            if !self.wire.receive_now().map_err(failed)? {
                match deadline {
                    Some(at) if at <= Instant::now() => return Ok(None),
                    _ => continue,
                }
            }
            let messages: std::result::Result<Vec<_>, _> = Messages(&self.wire.buffer).collect();
            self.pending = messages.map_err(|e| Error::malformed("listen", "", e))?;
            self.pending
                .retain(|message| !matches!(message.kind(), NOOP | ERROR | DONE));
            self.pending.reverse();
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.as_fd()
    }
}

/// A netlink socket that reads whole datagrams from the kernel, of any length.
struct Wire {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl Wire {
    /// Fills the buffer with the next datagram that the kernel sent.
    fn receive(&mut self) -> io::Result<()> {
        while !self.take(0)? {}
        Ok(())
    }

    /// Fills the buffer with the next datagram, without waiting. `false` if there was none, or it
    /// was not the kernel's.
    fn receive_now(&mut self) -> io::Result<bool> {
        match self.take(libc::MSG_DONTWAIT) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            taken => taken,
        }
    }

    /// Fills the buffer with the next datagram. Returns whether the kernel sent it.
    fn take(&mut self, flags: libc::c_int) -> io::Result<bool> {
        // Ask for the length first: a datagram that does not fit is cut off, and the rest is lost.
        let (len, _) = self.receive_datagram(flags | libc::MSG_PEEK | libc::MSG_TRUNC)?;
        self.buffer.clear();
        self.buffer.reserve(len);
        let (len, from) = self.receive_datagram(flags | libc::MSG_TRUNC)?;
        if len > self.buffer.len() {
            return Err(io::Error::other("a message grew while it was read"));
        }
        // Other processes may send to a group, too. Only the kernel sends from port 0.
        Ok(from.port_number() == 0)
    }

    fn receive_datagram(&mut self, flags: libc::c_int) -> io::Result<(usize, SocketAddr)> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, flags) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Waits until the socket can be read. `false` if the deadline came first.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            let left = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    // Rounded up, because after an early wake-up this would only poll again.
                    let left = deadline.saturating_duration_since(Instant::now());
                    let millis = left.as_nanos().div_ceil(1_000_000);
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, left) {
                Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wire").field(&self.socket.as_fd()).finish()
    }
}
