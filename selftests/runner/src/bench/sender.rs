//! The sender of a benchmark transfer: many connections in one thread, because many threads would
//! leave little of an emulated machine's processors to the receiver.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devmem::listen::{SocketOptions, connect};
use devmem::pattern::Pattern;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::contender::Payload;
use super::meters::{Meter, Spent};
use super::testbench::{Side, pin};
use framework::testbed::SENDER_ADDRESS;

/// Time limit for a receiver to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// Time without progress after which a receiver is given up that takes no bytes or does not close.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);
/// Approximate length of a write in bytes.
const PIECE: usize = 1 << 20;

/// A transfer to be sent: its receiver, its size, and over how many connections.
pub(super) struct Job<'a> {
    pub(super) to: SocketAddr,
    /// Bytes to send, over all connections together.
    pub(super) bytes: u64,
    pub(super) connections: u32,
    /// Source port of the first connection; the others have the following ones.
    pub(super) port: u16,
    pub(super) payload: Payload,
    /// Meter of the receiver's process.
    pub(super) receiver: &'a Meter,
    /// Whether to wait, after the last byte, until the receiver is idle.
    pub(super) settles: bool,
}

/// Duration of a transfer, and what the receiver's process spent.
pub(super) struct Sent {
    /// Seconds from the first byte to the last close.
    pub(super) seconds: f64,
    /// Peak of the receiver's private memory in KiB, when all was sent.
    pub(super) memory: u64,
    /// What the receiver's process had spent before the first byte.
    pub(super) before: Spent,
    /// What the receiver's process had spent when all was received; `None` if that was not waited
    /// for.
    pub(super) after: Option<Spent>,
}

impl Job<'_> {
    /// Connects, sends all bytes, and waits until the receiver has closed every connection.
    pub(super) fn run(&self) -> Result<Sent> {
        pin(Pid::from_raw(0), Side::Sender)?;
        let sockets = self.connect()?;
        let before = self.receiver.read_when_idle()?;
        let begin = Instant::now();
        self.write(&sockets)?;
        let memory = self.receiver.peak_memory()?;
        let after = match self.settles {
            true => Some(self.wait_until_received()?),
            false => None,
        };
        for socket in &sockets {
            socket.shutdown(Shutdown::Write)?;
        }
        for socket in &sockets {
            wait_for_close(socket)?;
        }
        Ok(Sent {
            seconds: begin.elapsed().as_secs_f64(),
            memory,
            before,
            after,
        })
    }

    /// Writes to all connections in turn, to each as much as its socket takes.
    fn write(&self, sockets: &[TcpStream]) -> Result<()> {
        let piece = self.payload.repeated_bytes()?;
        let share = self.bytes / u64::from(self.connections);
        let mut open: Vec<(&TcpStream, u64)> = sockets.iter().map(|it| (it, 0)).collect();
        for socket in sockets {
            socket.set_nonblocking(true)?;
        }
        while !open.is_empty() {
            let mut any = false;
            for (socket, sent) in &mut open {
                let from = usize::try_from(*sent % piece.len() as u64)?;
                let len = usize::try_from(share - *sent)?.min(piece.len() - from);
                let mut socket = *socket;
                match socket.write(&piece[from..from + len]) {
                    Ok(written) => {
                        *sent += written as u64;
                        any = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("sending"),
                }
            }
            open.retain(|(_, sent)| *sent < share);
            if !any {
                wait_until_writable(&open)?;
            }
        }
        for socket in sockets {
            socket.set_nonblocking(false)?;
        }
        Ok(())
    }

    /// Waits until all bytes are acknowledged and the receiver is idle, then returns what it has
    /// spent.
    fn wait_until_received(&self) -> Result<Spent> {
        let end = Instant::now() + SILENCE_LIMIT;
        while !all_acknowledged(self.to.port())? {
            ensure!(Instant::now() < end, "bytes are not acknowledged");
            thread::sleep(Duration::from_millis(10));
        }
        self.receiver.read_when_idle()
    }

    fn connect(&self) -> Result<Vec<TcpStream>> {
        let end = Instant::now() + LISTEN_LIMIT;
        let mut sockets = Vec::new();
        while sockets.len() < self.connections as usize {
            let port = self.port + u16::try_from(sockets.len())?;
            let options = SocketOptions {
                source: Some(SocketAddr::new(SENDER_ADDRESS.parse()?, port)),
                ..SocketOptions::default()
            };
            match connect(self.to, &options, Duration::from_secs(5)) {
                Ok(socket) => {
                    socket.set_write_timeout(Some(SILENCE_LIMIT))?;
                    socket.set_read_timeout(Some(SILENCE_LIMIT))?;
                    sockets.push(socket);
                }
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(sockets)
    }
}

impl Payload {
    /// Returns the bytes that are sent repeatedly: a whole number of the payload's periods.
    fn repeated_bytes(self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Seven => {
                let mut piece = vec![0; PIECE / 7 * 7];
                Pattern::new(7)?.fill(0, &mut piece);
                piece
            }
            Self::Letters => (b'a'..=b'z').cycle().take(PIECE / 26 * 26).collect(),
        })
    }
}

/// Waits until one of the connections can be written to.
fn wait_until_writable(open: &[(&TcpStream, u64)]) -> Result<()> {
    let fds = open.iter().map(|(socket, _)| socket.as_fd());
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).collect();
    let timeout = PollTimeout::try_from(SILENCE_LIMIT)?;
    ensure!(poll(&mut fds, timeout)? > 0, "nobody takes anything");
    Ok(())
}

/// Whether all bytes sent to this port have been acknowledged.
fn all_acknowledged(port: u16) -> Result<bool> {
    // A thread's own: the namespace is the thread's.
    let path = "/proc/thread-self/net/tcp";
    let text = fs::read_to_string(path).context(path)?;
    Ok(count_unacknowledged(&text, port) == 0)
}

/// Counts the connections to a port that have unacknowledged bytes, in `/proc/net/tcp`: `sl
/// local:port remote:port state tx:rx ...`.
fn count_unacknowledged(table: &str, port: u16) -> usize {
    let port = format!(":{port:04X}");
    let waits = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let to = fields.next().is_some_and(|remote| remote.ends_with(&port));
        let queues = fields.nth(1).unwrap_or_default();
        to && queues
            .split(':')
            .next()
            .is_some_and(|tx| tx.contains(|digit| digit != '0'))
    };
    table.lines().filter(waits).count()
}

/// Waits until the peer has closed the connection; an error if it sends anything.
fn wait_for_close(mut socket: &TcpStream) -> Result<()> {
    match socket.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("it answered"),
        Err(error) => Err(error).context("waiting for its close"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_where_the_next_begins() {
        let seven = Payload::Seven.repeated_bytes().unwrap();
        assert_eq!(seven[..7], [1, 2, 3, 4, 5, 6, b'\n']);
        assert_eq!(seven[seven.len() - 7..], seven[..7]);
        let letters = Payload::Letters.repeated_bytes().unwrap();
        assert_eq!((letters[0], letters[25], letters[26]), (b'a', b'z', b'a'));
        assert_eq!(letters.last(), Some(&b'z'));
    }

    #[test]
    fn what_is_not_acknowledged() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr\n\
             0: 010200C0:2900 020200C0:1388 01 00000000:00000000 00:0\n\
             1: 010200C0:2901 020200C0:1388 01 000005A8:00000000 00:0\n\
             2: 010200C0:2902 020200C0:1389 01 000005A8:00000000 00:0\n";
        assert_eq!(
            (
                count_unacknowledged(table, 5000),
                count_unacknowledged(table, 5001)
            ),
            (1, 1)
        );
        assert_eq!(count_unacknowledged(table, 5002), 0);
    }
}
