//! What a small receiver tells at its end.

use std::error::Error;
use std::io::Write;

use anyhow::{Context, Result};
use devmem::engine::{End, Report};
use serde::{Deserialize, Serialize};

use super::sinks::Checked;

/// All of it, as the engine counted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) frags: u64,
    pub(crate) freed: u64,
    /// Calls of `SO_DEVMEM_DONTNEED`, and ranges in them.
    pub(crate) calls: u64,
    pub(crate) ranges: u64,
    pub(crate) peers: Vec<Ended>,
}

/// One connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// The peer's.
    pub(crate) port: u16,
    /// Ours.
    pub(crate) local_port: u16,
    pub(crate) bytes: u64,
    /// Bytes that were those of the pattern.
    pub(crate) right: u64,
    pub(crate) frags: u64,
    pub(crate) freed: u64,
    /// The most frags that its sink kept at a time.
    pub(crate) kept: u64,
    /// The worker that the engine says it had, by its NAPI id, and the threads that it was served by.
    pub(crate) worker: usize,
    pub(crate) napi_id: Option<u32>,
    pub(crate) threads: Vec<String>,
    /// Why it failed, unless its peer closed.
    pub(crate) error: Option<String>,
}

impl Outcome {
    pub(super) fn new(report: &Report<Checked>) -> Self {
        let stream = &report.stats.stream;
        let peers = report.connections.iter().map(|connection| {
            let (peer, stats) = (&connection.peer, &connection.stats);
            let sink = connection.sink.as_ref();
            Ended {
                port: peer.address.port(),
                local_port: peer.local.port(),
                bytes: stats.bytes,
                right: sink.map_or(0, Checked::right),
                frags: stats.tokens.issued,
                freed: stats.tokens.freed,
                kept: sink.map_or(0, Checked::most_kept),
                worker: peer.worker,
                napi_id: peer.napi_id,
                threads: sink.map_or_else(Vec::new, Checked::threads),
                error: match &connection.end {
                    End::Closed => None,
                    End::Stopped => Some("stopped".to_owned()),
                    End::Failed(error) => Some(chain(error)),
                },
            }
        });
        Self {
            bytes: stream.bytes,
            frags: stream.tokens.issued,
            freed: stream.tokens.freed,
            calls: stream.tokens.calls,
            ranges: stream.tokens.ranges,
            peers: peers.collect(),
        }
    }

    pub(super) fn print(&self) -> Result<()> {
        let text = serde_json::to_string(self)? + "\n";
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).context("standard output")
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
