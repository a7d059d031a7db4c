//! The counts that the probe receiver prints at its end.

use std::io::Write;

use anyhow::{Context, Result};
use common::with_sources;
use devmem::engine::{End, Report};
use framework::probe_receiver::{Ended, Outcome};

use super::sinks::Checked;

/// Collects the engine's and the sinks' counts.
pub(super) fn outcome(report: &Report<Checked>) -> Outcome {
    let stream = &report.stats.stream;
    let peers = report.connections.iter().map(|connection| {
        let (peer, stats) = (&connection.peer, &connection.stats);
        let sink = connection.sink.as_ref();
        Ended {
            port: peer.address.port(),
            local_port: peer.local.port(),
            bytes: stats.bytes,
            right: sink.map_or(0, Checked::right_bytes),
            frags: stats.tokens.issued,
            freed: stats.tokens.freed,
            kept: sink.map_or(0, Checked::most_kept),
            worker: peer.worker,
            napi_id: peer.napi_id,
            threads: sink.map_or_else(Vec::new, Checked::threads),
            error: match &connection.end {
                End::Closed => None,
                End::Stopped => Some("stopped".to_owned()),
                End::Failed(error) => Some(with_sources(error)),
            },
        }
    });
    Outcome {
        bytes: stream.bytes,
        frags: stream.tokens.issued,
        freed: stream.tokens.freed,
        calls: stream.tokens.calls,
        ranges: stream.tokens.ranges,
        peers: peers.collect(),
    }
}

pub(super) fn print(outcome: &Outcome) -> Result<()> {
    let text = serde_json::to_string(outcome)? + "\n";
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).context("standard output")
}
