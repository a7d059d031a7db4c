//! One connection of an engine: its stream, its sink, and what becomes of both.

use std::time::Instant;

use mio::net::TcpStream;

use super::config::Config;
use super::gathering::{Gathering, Limits, Mark};
use super::report::{Connection, ConnectionError, End, Peer};
use super::window::WindowLooks;
use crate::buffer::{RecvBuffer, RecvLimit};
use crate::sink::Sink;
use crate::stream::{DevmemStream, RecvError};

/// What a turn came to.
pub(super) enum Turn {
    /// There may be more to read: another turn, when the others have had theirs.
    More,
    /// Nothing to read until the next event.
    Drained,
    /// The sink keeps too much: nothing more until some of it came back.
    Full,
    /// The connection is over.
    Ended(End),
}

/// A connection at work.
pub(super) struct Open<S> {
    pub(super) peer: Peer,
    pub(super) stream: DevmemStream<TcpStream>,
    pub(super) sink: S,
    /// In the list of those that may have something to read.
    pub(super) ready: bool,
    /// An event told of the stream's end or of an error. No other event follows, so it must be read to
    /// that end.
    pub(super) ended_by_peer: bool,
    /// In the list of those that hold tokens.
    pub(super) holding: bool,
    /// When it last brought bytes, or began, or was served again after a pause. Kept up to date if there
    /// is an idle timeout.
    pub(super) active: Instant,
    /// It has been silent for too long, unless its next turn brings something.
    pub(super) suspected: bool,
    pub(super) gathering: Gathering,
    /// Whether its sink was seen to keep frags beyond a call; not known before the first.
    keeps: Option<bool>,
    /// Not served since, as its sink keeps too much.
    pub(super) paused: Option<Instant>,
    /// What was left of its window, at the last look.
    spared: Option<u32>,
    window_looks: WindowLooks,
    /// Over, but for frags that its sink keeps, since this moment.
    pub(super) closing: Option<(End, Instant)>,
}

impl<S: Sink> Open<S> {
    pub(super) fn new(peer: Peer, stream: DevmemStream<TcpStream>, sink: S, now: Instant) -> Self {
        Self {
            peer,
            stream,
            sink,
            ready: false,
            ended_by_peer: false,
            holding: false,
            active: now,
            suspected: false,
            gathering: Gathering::new(),
            keeps: None,
            paused: None,
            spared: None,
            window_looks: WindowLooks::new(),
            closing: None,
        }
    }

    /// Bytes to gather.
    fn low_water(&self, config: &Config) -> u64 {
        let stats = self.stream.stats();
        let mean = stats.frag_bytes.checked_div(stats.frags);
        let bytes = mean.map_or(u64::MAX, |mean| mean * u64::from(config.gather_frags));
        bytes.min(config.gather as u64)
    }

    /// Decides, after a turn that left nothing to read, whether to gather from now on.
    pub(super) fn gather(&mut self, now: Instant, config: &Config) {
        let limits = Limits {
            mark: self.low_water(config),
            patience: config.patience,
        };
        let total = self.stream.bytes();
        let low_water = match self.gathering.drained(total, now, limits) {
            None => return,
            Some(Mark::One) => 1,
            Some(Mark::Bytes(bytes)) => usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        match self.stream.set_low_water(low_water) {
            // Longer segments may have come, and the option itself may change the window.
            Ok(()) => self.window_looks.restart(),
            Err(error) => {
                tracing::debug!(%error, "SO_RCVLOWAT");
                self.gathering.refused(now, limits);
            }
        }
    }

    /// Takes a third off the window, where the kernel has made it whole again.
    pub(super) fn spare_window(&mut self) {
        if !self.window_looks.is_due(self.stream.bytes()) {
            return;
        }
        match self.stream.spare_window(self.spared) {
            Ok(window) => self.spared = Some(window),
            Err(error) => tracing::debug!(%error, "TCP_WINDOW_CLAMP"),
        }
    }

    /// Receives until there is nothing left, which is what an edge-triggered event obliges to, or
    /// until the budget is spent. That nothing is left the kernel says itself (`TCP_INQ`) or by
    /// `EAGAIN`.
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
            if drained && !self.ended_by_peer {
                // What arrives from here on is a new edge, so no call is needed that would block.
                let flushed = self.stream.flush_if_due();
                return flushed.map_or_else(failed, |()| Turn::Drained);
            }
        }
        Turn::More
    }

    /// What one call may bring: as much as the sink may still keep, if it keeps frags, or if that is
    /// not known yet.
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

    /// Does the sink keep more than it may?
    pub(super) fn keeps_too_much(&self, config: &Config) -> bool {
        let kept = self.stream.kept();
        kept.frags >= u64::from(config.keep.frags.max(1)) || kept.bytes >= config.keep.bytes.max(1)
    }

    /// Gives all tokens back and closes. A stream that did not come to its end is closed
    /// abortively: what was not read would otherwise keep the dmabuf for as long as TCP retries.
    pub(super) fn end(mut self, end: End) -> Connection<S> {
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
