//! Where an engine's connections come from: its own listeners, or a thread that hands them over.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::config::{Config, Room};
use super::report::{EngineError, Strangers, at, reset_on_close};
use crate::listen::drop_urgent_by_default;

/// Time before the engine tries to accept again, after a shortage of fds or memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Number of connections of a listener that are accepted before other connections have their turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// Time before a warning about a shortage of fds or memory is repeated.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A connection as `accept` returned it: socket and remote address.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
}

/// Outcome of accepting the connections that waited at the listeners.
pub(super) enum Waiting {
    /// Every waiting connection was accepted.
    None,
    /// Many connections were accepted, and more may wait: other connections have their turn first.
    More,
    /// The process is out of fds or memory, or a security module refuses: try again after
    /// [`ACCEPT_PAUSE`].
    Shortage,
    /// As many connections are open as may be.
    Full,
    /// The engine wants no more connections.
    Enough,
}

/// Listening sockets.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<TcpListener>,
    /// Connections that were refused ([`Config::from`]).
    pub(super) strangers: Strangers,
    /// Time of the last warning that nothing can be accepted.
    warned: Option<Instant>,
}

impl Listeners {
    /// Takes a listener over, and returns the address that it listens on.
    pub(super) fn add(
        &mut self,
        registry: &Registry,
        listener: std::net::TcpListener,
        token: Token,
    ) -> Result<SocketAddr, EngineError> {
        drop_urgent_by_default(&listener);
        listener
            .set_nonblocking(true)
            .map_err(at("set the listener non-blocking"))?;
        let mut listener = TcpListener::from_std(listener);
        let address = listener
            .local_addr()
            .map_err(at("get the listener's address"))?;
        registry
            .register(&mut listener, token, Interest::READABLE)
            .map_err(at("register the listener"))?;
        self.sockets.push(listener);
        Ok(address)
    }

    /// Closes the listeners: the kernel refuses further connections instead of queueing them.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }

    /// Accepts the waiting connections, for as long as `open` has room for more. The listeners' events are
    /// edge-triggered: call this again until no connection waits.
    pub(super) fn accept(
        &mut self,
        config: &Config,
        mut open: impl FnMut(Accepted) -> Room,
    ) -> Result<Waiting, EngineError> {
        let mut waiting = Waiting::None;
        for (number, listener) in self.sockets.iter().enumerate() {
            // However many wait at one listener, the next one has its turn.
            for accepted in 0.. {
                if accepted == ACCEPTS_PER_TURN {
                    waiting = Waiting::More;
                    break;
                }
                match listener.accept() {
                    Ok((socket, address)) if !config.accepts(address) => {
                        self.strangers.refuse(&socket, address);
                    }
                    Ok((socket, address)) => {
                        // Not on the listener: connections that are already queued would not inherit the option.
                        if let Some(Err(error)) =
                            config.keepalive.map(|keepalive| keepalive.set_on(&socket))
                        {
                            tracing::warn!(%error, peer = %address, "SO_KEEPALIVE");
                        }
                        match open(Accepted { socket, address }) {
                            Room::Free => {}
                            Room::Full => {
                                // The next place goes to the next listener.
                                let listeners = self.sockets.len();
                                self.sockets.rotate_left((number + 1) % listeners);
                                return Ok(Waiting::Full);
                            }
                            Room::Enough => return Ok(Waiting::Enough),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_the_peer(&error) => {}
                    Err(error) if is_shortage(&error) => {
                        // Accepting is retried many times a second.
                        if self.warned.is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
                            self.warned = Some(Instant::now());
                            tracing::warn!(%error, "connections wait: accept");
                        }
                        return Ok(Waiting::Shortage);
                    }
                    Err(error) => return Err(EngineError::Accept(error)),
                }
            }
        }
        Ok(waiting)
    }
}

/// Queue of accepted connections from the thread that accepts to a worker, each with its number.
#[derive(Debug, Default)]
pub(super) struct Handover {
    accepted: Mutex<VecDeque<(usize, Accepted)>>,
    closed: AtomicBool,
}

impl Handover {
    pub(super) fn put(&self, index: usize, accepted: Accepted) {
        let queue = self.accepted.lock();
        queue
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((index, accepted));
    }

    /// Closes the queue: no further connection is handed over.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn take(&self) -> Option<(usize, Accepted)> {
        let queue = self.accepted.lock();
        queue.unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Whether the queue is closed and empty.
    pub(super) fn is_finished(&self) -> bool {
        // In this order: what is put last is put before it is closed.
        let closed = self.closed.load(Ordering::SeqCst);
        let queue = self.accepted.lock();
        closed && queue.unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Drop for Handover {
    /// Resets connections that no worker has taken: closing them would tell their peers that all was received.
    fn drop(&mut self) {
        while let Some((_, accepted)) = self.take() {
            reset_on_close(&accepted.socket);
        }
    }
}

/// Origin of an engine's connections: its listeners, or another thread.
#[derive(Debug)]
pub(super) enum Source {
    /// Listening sockets at which the engine accepts.
    Listeners(Listeners),
    /// Connections that an accepting thread hands over.
    Handover(Arc<Handover>),
}

/// Whether an error of `accept` concerns one peer only (`accept(2)`: network errors already pending
/// on the new socket).
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        Interrupted | ConnectionAborted | NetworkDown | NetworkUnreachable | HostUnreachable
    ) || matches!(error.raw_os_error(), Some(libc::EPROTO))
}

/// Whether an error of `accept` passes when fds or memory are freed, or may pass, if a security
/// module refuses, which leaves the connection in the queue.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EPERM)
    )
}

#[cfg(test)]
mod tests {
    use mio::Poll;

    use super::*;

    #[test]
    fn a_busy_listener_does_not_starve_another() {
        let poll = Poll::new().unwrap();
        let mut listeners = Listeners::default();
        let mut addresses = Vec::new();
        for token in 0..2 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let added = listeners.add(poll.registry(), listener, Token(token));
            addresses.push(added.unwrap());
        }
        let connect = |address: SocketAddr| std::net::TcpStream::connect(address).unwrap();
        let crowd = (0..=ACCEPTS_PER_TURN).map(|_| connect(addresses[0]));
        let _crowd: Vec<_> = crowd.collect();
        let _other = connect(addresses[1]);
        let mut at_the_other = 0;
        let waiting = listeners.accept(&Config::default(), |accepted| {
            let local = accepted.socket.local_addr().unwrap();
            at_the_other += u32::from(local == addresses[1]);
            Room::Free
        });
        assert!(matches!(waiting.unwrap(), Waiting::More));
        assert_eq!(at_the_other, 1);
    }

    #[test]
    fn connections_that_no_worker_took_are_reset() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = TcpStream::from_std(socket);
        let handover = Handover::default();
        handover.put(0, Accepted { socket, address });
        drop(handover);
        let error = io::Read::read(&mut peer, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
