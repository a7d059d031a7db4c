//! The probe receiver: its path, and what it prints at its end, as JSON.

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use serde::{Deserialize, Serialize};

use crate::memory;
use crate::tool::ours;

/// The path of the program.
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
    /// A receiver with sinks of this kind.
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

    /// The port of the peer whose sink is of that kind; those of the others are fair.
    pub fn culprit(self, port: u16) -> Self {
        self.with("--culprit", port)
    }

    /// Bytes of device memory.
    pub fn pool(mut self, bytes: u64) -> Self {
        self.pool = bytes;
        self.with("--pool", bytes)
    }

    /// Milliseconds that a token may be held.
    pub fn hold(self, milliseconds: u32) -> Self {
        self.with("--hold", milliseconds)
    }

    /// Milliseconds after which a sink that keeps too much is given up.
    pub fn stalled(self, milliseconds: u32) -> Self {
        self.with("--stalled", milliseconds)
    }

    /// Milliseconds that an ended connection waits for the frags that its sink keeps.
    pub fn returns(self, milliseconds: u32) -> Self {
        self.with("--returns", milliseconds)
    }

    /// Prints the number of frags once this many bytes have come.
    pub fn tell(self, bytes: impl Display) -> Self {
        self.with("--tell", bytes)
    }

    /// A thread for each queue.
    pub fn workers(mut self) -> Self {
        self.line += " --workers";
        self
    }

    fn with(mut self, option: &str, value: impl Display) -> Self {
        self.line += &format!(" {option} {value}");
        self
    }

    /// The arguments, as a line.
    pub fn line(&self) -> Result<String> {
        Ok(format!("{} {}", self.line, memory::option(self.pool)?))
    }
}

/// What a probe receiver counted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub bytes: u64,
    pub frags: u64,
    pub freed: u64,
    /// Calls of `SO_DEVMEM_DONTNEED`, and ranges in them.
    pub calls: u64,
    pub ranges: u64,
    pub peers: Vec<Ended>,
}

/// One connection of a probe receiver.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The peer's port.
    pub port: u16,
    /// The receiver's port.
    pub local_port: u16,
    pub bytes: u64,
    /// Bytes that were those of the pattern.
    pub right: u64,
    pub frags: u64,
    pub freed: u64,
    /// The most frags that its sink kept at a time.
    pub kept: u64,
    /// The worker that the engine says it had, by its NAPI id, and the threads that it was served by.
    pub worker: usize,
    pub napi_id: Option<u32>,
    pub threads: Vec<String>,
    /// Why it failed, unless its peer closed.
    pub error: Option<String>,
}
