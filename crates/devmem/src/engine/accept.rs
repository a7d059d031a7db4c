//! New connections of an event loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::{Interest, Token};

use super::config::Room;
use super::connection::OpenConnection;
use super::event_loop::{EventLoop, Slot};
use super::source::{ACCEPT_PAUSE, Accepted, Source, Waiting};
use super::{Connection, ConnectionError, End, EngineError, Peer};
use crate::sink::{Sink, SinkError};
use crate::stream::DevmemStream;

impl<S: Sink, F: FnMut(&Peer) -> Result<S, SinkError>> EventLoop<S, F> {
    /// Opens the connections that wait at the listeners, or that an accepting thread has handed
    /// over.
    pub(super) fn accept(&mut self, now: Instant) -> Result<(), EngineError> {
        if self.ending {
            // Otherwise the loop would not sleep while open connections close.
            self.accept_at = None;
            return Ok(());
        }
        let room = self.room();
        match &mut self.setup.source {
            Source::Handover(_) => {
                self.open_handed_over();
                return Ok(());
            }
            Source::Listeners(_) if self.accept_at.is_none_or(|at| at > now) => return Ok(()),
            Source::Listeners(listeners) => {
                self.accept_at = None;
                if room == Room::Full {
                    self.waits_for_room = true;
                    return Ok(());
                }
                let mut listeners = std::mem::take(listeners);
                let config = self.setup.config.clone();
                let waiting = listeners.accept(&config, |accepted| {
                    self.open(self.accepted, accepted);
                    self.room()
                })?;
                match waiting {
                    Waiting::None => {}
                    Waiting::More => self.accept_at = Some(now),
                    Waiting::Shortage => self.accept_at = Some(Instant::now() + ACCEPT_PAUSE),
                    Waiting::Full => self.waits_for_room = true,
                    Waiting::Enough => listeners.close(),
                }
                self.setup.source = Source::Listeners(listeners);
            }
        }
        Ok(())
    }

    /// Room for another connection.
    fn room(&self) -> Room {
        self.setup.config.room(self.accepted, self.working)
    }

    /// Opens the connections that an accepting thread has handed over.
    pub(super) fn open_handed_over(&mut self) {
        let Source::Handover(handover) = &self.setup.source else {
            return;
        };
        let handover = Arc::clone(handover);
        while let Some((number, accepted)) = handover.take() {
            self.open(number, accepted);
        }
    }

    /// Opens a connection. `number` counts the connections of all threads of the engine.
    fn open(&mut self, number: usize, accepted: Accepted) {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Vacant);
            self.slots.len() - 1
        });
        self.accepted += 1;
        let Accepted {
            mut socket,
            address,
        } = accepted;
        let registry = self.base.poll.registry();
        let registered = registry.register(&mut socket, Token(index), Interest::READABLE);
        self.stats.connections += 1;
        self.setup.progress.connected();
        let local = socket.local_addr();
        let mut stream = DevmemStream::with_thresholds(socket, self.setup.config.thresholds);
        let peer = Peer {
            index: number,
            address,
            local: local.unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0))),
            napi_id: stream.incoming_napi_id().ok().flatten(),
            worker: self.setup.worker,
        };
        let returned = Arc::clone(&self.returned);
        stream.on_return(move || returned.tell(index));
        if let Err(error) = stream.report_queued() {
            tracing::debug!(%error, "TCP_INQ");
        }
        let sink = match registered {
            Ok(()) => (self.setup.open_sink)(&peer).map_err(ConnectionError::from),
            Err(error) => Err(ConnectionError::Register(error)),
        };
        match sink {
            Ok(sink) => {
                self.working += 1;
                let now = Instant::now();
                let open = Box::new(OpenConnection::new(peer, stream, sink, now));
                self.schedule
                    .update(index, &open.lifecycle, &self.setup.config);
                if let Some(slot) = self.slots.get_mut(index) {
                    *slot = Slot::Open(open);
                }
            }
            Err(error) => {
                let end = End::Failed(error);
                let stats = stream.stats();
                let telemetry = Box::new(stream.telemetry().clone());
                let _nothing_held = stream.abort();
                let connection = Connection {
                    peer,
                    stats,
                    telemetry,
                    end,
                    sink: None,
                };
                self.retire(index, connection);
            }
        }
    }
}
