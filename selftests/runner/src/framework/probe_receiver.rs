//! The probe receiver: its path, and what it prints at its end, as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tool::ours;

/// The program.
pub fn probe_receiver() -> PathBuf {
    ours("probe-receiver")
}

/// All of it, as the engine counted.
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

/// One connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The peer's.
    pub port: u16,
    /// Ours.
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
