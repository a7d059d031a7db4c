//! Open connection of an engine: its stream, its sink, and its state between events.

use std::time::Instant;

use mio::net::TcpStream;

use super::config::Config;
use super::gathering::Mark;
use super::lifecycle::Lifecycle;
use super::report::{Connection, ConnectionError, End, Peer};
use super::window::WindowChecks;
use crate::buffer::{RecvBuffer, RecvLimit};
use crate::sink::Sink;
use crate::stream::{DevmemStream, RecvError};

/// Outcome of a connection's turn: a series of `recvmsg` calls up to [`Config::budget`].
pub(super) enum Turn {
    /// The turn's budget was spent with data left: another turn follows those of the other
    /// connections.
    More,
    /// The socket has nothing to read until the next event.
    Drained,
    /// The connection's sink keeps too many frags: nothing is read until some are back.
    Full,
    /// The connection has ended.
    Ended(End),
}

/// An open connection.
pub(super) struct OpenConnection<S> {
    pub(super) peer: Peer,
    pub(super) stream: DevmemStream<TcpStream>,
    pub(super) sink: S,
    /// The connection's state between events, which [`Schedule`](super::schedule::Schedule)
    /// changes.
    pub(super) lifecycle: Lifecycle,
    /// Number of the connection's held tokens that the engine's sum includes.
    pub(super) counted: u32,
    /// Whether the sink has kept frags beyond a call; `None` before the first frag.
    keeps: Option<bool>,
    /// Window clamp in bytes, as `TCP_WINDOW_CLAMP` was set last.
    spared: Option<u32>,
    window_checks: WindowChecks,
    /// How the connection ended, while its sink still keeps frags.
    pub(super) end: Option<End>,
}

impl<S: Sink> OpenConnection<S> {
    pub(super) fn new(peer: Peer, stream: DevmemStream<TcpStream>, sink: S, now: Instant) -> Self {
        Self {
            peer,
            stream,
            sink,
            lifecycle: Lifecycle::new(now),
            counted: 0,
            keeps: None,
            spared: None,
            window_checks: WindowChecks::new(),
            end: None,
        }
    }

    /// Low-water mark of the socket for gathering (`SO_RCVLOWAT`), in bytes.
    pub(super) fn low_water(&self, config: &Config) -> u64 {
        let stats = self.stream.stats();
        let mean = stats.frag_bytes.checked_div(stats.frags);
        let bytes = mean.map_or(u64::MAX, |mean| mean * u64::from(config.gather_frags));
        bytes.min(config.gather as u64)
    }

    /// Sets `SO_RCVLOWAT`, and returns whether the kernel took it.
    pub(super) fn set_mark(&mut self, mark: Mark) -> bool {
        let low_water = match mark {
            Mark::One => 1,
            Mark::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        match self.stream.set_low_water(low_water) {
            Ok(()) => {
                // Longer segments may have arrived, and `SO_RCVLOWAT` itself may change the window.
                self.window_checks.restart();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "SO_RCVLOWAT");
                false
            }
        }
    }

    /// Clamps the receive window to two thirds again if the kernel has recomputed it.
    pub(super) fn spare_window(&mut self) {
        if !self.window_checks.is_due(self.stream.bytes()) {
            return;
        }
        match self.stream.spare_window(self.spared) {
            Ok(window) => self.spared = Some(window),
            Err(error) => tracing::debug!(%error, "TCP_WINDOW_CLAMP"),
        }
    }

    /// Receives until nothing is left, as edge-triggered events require, or until the budget is
    /// spent. The kernel says that nothing is left by `TCP_INQ` or `EAGAIN`.
    pub(super) fn serve(&mut self, buffer: &mut RecvBuffer, config: &Config) -> Turn {
        for _ in 0..config.budget.max(1) {
            if self.keeps_too_much(config) {
                return Turn::Full;
            }
            let limit = self.limit(config);
            let mut received = match self.stream.recv_at_most(buffer, limit) {
                Ok(received) => received,
                Err(RecvError::WouldBlock) => return Turn::Drained,
                Err(error) => return failed(error),
            };
            if received.is_end() {
                drop(received);
                let finished = self.sink.finish();
                return finished.map_or_else(failed, |()| Turn::Ended(End::Closed));
            }
            let (offset, bytes) = (received.stream_offset(), received.unsteered());
            if config.refuse_unsteered && bytes > 0 {
                return failed(ConnectionError::Unsteered { offset, bytes });
            }
            let bytes = received.linear_bytes();
            if config.refuse_linear && bytes > 0 {
                return failed(ConnectionError::Linear { offset, bytes });
            }
            if let Err(error) = self.sink.consume(&mut received) {
                return failed(error);
            }
            let (frags, drained) = (received.frags(), received.is_drained());
            drop(received);
            self.keeps = match self.stream.kept().frags {
                0 if frags > 0 => self.keeps.or(Some(false)),
                0 => self.keeps,
                _ => Some(true),
            };
            if drained && !self.lifecycle.ended_by_peer() {
                // Later data makes a new edge, so the call that returns EAGAIN can be saved.
                let flushed = self.stream.flush_if_due();
                return flushed.map_or_else(failed, |()| Turn::Drained);
            }
        }
        Turn::More
    }

    /// Limit of one `recvmsg`: what the sink may still keep, if the sink keeps frags or if that is
    /// unknown.
    fn limit(&self, config: &Config) -> RecvLimit {
        if self.keeps == Some(false) {
            return RecvLimit::NONE;
        }
        let kept = self.stream.kept();
        let left = |most: u64, kept: u64| usize::try_from(most.saturating_sub(kept).max(1));
        RecvLimit {
            frags: left(config.keep.frags.into(), kept.frags).unwrap_or(usize::MAX),
            bytes: left(config.keep.bytes, kept.bytes).unwrap_or(usize::MAX),
        }
    }

    /// Whether the sink keeps more than [`Config::keep`] allows.
    pub(super) fn keeps_too_much(&self, config: &Config) -> bool {
        let kept = self.stream.kept();
        kept.frags >= u64::from(config.keep.frags.max(1)) || kept.bytes >= config.keep.bytes.max(1)
    }

    /// Gives all tokens back and closes the connection. A stream that has not ended is reset:
    /// unread payload would keep the dmabuf for as long as TCP retries.
    pub(super) fn close(mut self) -> Connection<S> {
        let end = self.end.take().unwrap_or(End::Stopped);
        let flushed = self.stream.flush();
        let stats = self.stream.stats();
        let telemetry = Box::new(self.stream.telemetry().clone());
        if let Ok(Some(id)) = self.stream.incoming_napi_id() {
            self.peer.napi_id = Some(id);
        }
        let outstanding = stats.tokens.outstanding();
        let end = match (end, flushed) {
            (End::Failed(error), _) => End::Failed(error),
            (_, Err(error)) => End::Failed(error.into()),
            (_, Ok(())) if outstanding > 0 => {
                End::Failed(ConnectionError::Outstanding(outstanding))
            }
            (end, Ok(())) => end,
        };
        let closed = match end {
            End::Closed => self.stream.close(),
            _ => self.stream.abort(),
        };
        if let Err(error) = closed {
            tracing::warn!(%error, peer = %self.peer.address, "tokens of a closed connection");
        }
        Connection {
            peer: self.peer,
            stats,
            telemetry,
            end,
            sink: Some(self.sink),
        }
    }
}

fn failed(error: impl Into<ConnectionError>) -> Turn {
    Turn::Ended(End::Failed(error.into()))
}
