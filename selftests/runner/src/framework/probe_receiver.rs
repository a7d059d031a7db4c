//! Command line and output of the probe receiver, whose sinks misbehave.

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use serde::{Deserialize, Serialize};

use crate::memory;
use crate::tool::ours;

/// Returns the path of the probe receiver's program.
pub fn probe_receiver() -> PathBuf {
    ours("probe-receiver")
}

/// What the sinks of a probe receiver do with the frags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SinkKind {
    /// They panic.
    Panic,
    /// They give them back at once.
    Fair,
    /// They keep them for ever.
    Miser,
    /// They keep them until all other peers are done; then another thread gives them back.
    Last,
    /// They keep them until after the peer's end; then another thread gives them back.
    Late,
}

/// The command line of a probe receiver, with memory of the kind that the case runs with.
#[derive(Debug, Clone)]
#[must_use]
pub struct Probe {
    line: String,
    pool: u64,
}

impl Probe {
    /// A probe receiver whose sinks are of this kind.
    pub fn of(kind: SinkKind) -> Self {
        let value = kind.to_possible_value();
        Self {
            line: value.map_or_else(String::new, |value| value.get_name().to_owned()),
            pool: 4 << 20,
        }
    }

    pub fn listen(self, address: impl Display) -> Self {
        self.with("--listen", address)
    }

    pub fn queue(self, queue: impl Display) -> Self {
        self.with("--queue", queue)
    }

    pub fn peers(self, peers: impl Display) -> Self {
        self.with("--peers", peers)
    }

    /// Gives the sink of that kind to the peer with this port only; the other peers' sinks return
    /// frags at once.
    pub fn culprit(self, port: u16) -> Self {
        self.with("--culprit", port)
    }

    /// Sets the size of device memory in bytes.
    pub fn pool(mut self, bytes: u64) -> Self {
        self.pool = bytes;
        self.with("--pool", bytes)
    }

    /// Sets the time in milliseconds that a token may be held.
    pub fn hold(self, milliseconds: u32) -> Self {
        self.with("--hold", milliseconds)
    }

    /// Sets the time in milliseconds after which a connection is given up whose sink keeps too many
    /// frags.
    pub fn stalled(self, milliseconds: u32) -> Self {
        self.with("--stalled", milliseconds)
    }

    /// Sets the time in milliseconds that an ended connection waits for frags that its sink keeps.
    pub fn returns(self, milliseconds: u32) -> Self {
        self.with("--returns", milliseconds)
    }

    /// Makes the receiver print the number of frags once `bytes` bytes have come.
    pub fn tell(self, bytes: impl Display) -> Self {
        self.with("--tell", bytes)
    }

    /// Uses a thread for each queue.
    pub fn workers(mut self) -> Self {
        self.line += " --workers";
        self
    }

    fn with(mut self, option: &str, value: impl Display) -> Self {
        self.line += &format!(" {option} {value}");
        self
    }

    /// Formats the arguments as one line.
    pub fn line(&self) -> Result<String> {
        Ok(format!("{} {}", self.line, memory::option(self.pool)?))
    }
}

/// Counts of a probe receiver, which it prints at its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub bytes: u64,
    pub frags: u64,
    pub freed: u64,
    /// Number of calls of `SO_DEVMEM_DONTNEED`.
    pub calls: u64,
    pub ranges: u64,
    pub peers: Vec<Ended>,
}

/// A connection of a probe receiver, as it ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Port of the peer.
    pub port: u16,
    /// Port of the receiver.
    pub local_port: u16,
    pub bytes: u64,
    /// Number of bytes, from the start on, that were right.
    pub right: u64,
    pub frags: u64,
    pub freed: u64,
    /// The largest number of frags that the sink kept at a time.
    pub kept: u64,
    /// Index of the engine's worker that served the connection.
    pub worker: usize,
    pub napi_id: Option<u32>,
    pub threads: Vec<String>,
    /// Error of the connection; `None` if the peer closed it.
    pub error: Option<String>,
}
