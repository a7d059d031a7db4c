//! Figures of a receiver that its progress output shows each second.

use serde::Serialize;

use crate::recv::pool::State;
use crate::recv::spread::Spreads;

pub(super) const MIB: f64 = (1 << 20) as f64;

/// Figures of a receiver at one second of its progress output.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Second {
    /// Seconds since the receiver was ready.
    pub(super) at: f64,
    pub(super) bytes: u64,
    /// Payload rate since the previous output, in MiB/s.
    pub(super) mib_per_second: f64,
    /// Mean payload rate since the first bytes, in MiB/s.
    pub(super) mean_mib_per_second: f64,
    pub(super) frags: u64,
    pub(super) tokens: Tokens,
    /// Open connections, the one with the highest rate first.
    pub(super) connections: Vec<Connection>,
    /// Number of connections that have ended.
    pub(super) ended: usize,
    pub(super) queues: Vec<Queue>,
    pub(super) memory: State,
    pub(super) telemetry: Spreads,
    /// Number of threads that did not answer in time; their figures are as of their last answer.
    pub(super) missing: usize,
    /// Last warning of peers whose payload all came beside the dmabuf.
    pub(super) warning: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tokens {
    pub(super) issued: u64,
    pub(super) returned: u64,
    /// Number of tokens that sinks gave back, and that wait for the next flush.
    pub(super) held: u64,
    /// Number of tokens whose frags sinks have not given back.
    pub(super) kept: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Connection {
    pub(super) peer: String,
    /// Number of the rx queue that the connection's packets arrive through; `None` if unknown.
    pub(super) queue: Option<u32>,
    pub(super) napi_id: Option<u32>,
    pub(super) bytes: u64,
    pub(super) mib_per_second: f64,
    pub(super) frags: u64,
    pub(super) tokens: Tokens,
    /// Memory of the connection's receive queue in bytes.
    pub(super) queued_bytes: u64,
    /// Seconds for which the connection has not been read because its sink keeps too many frags.
    pub(super) paused_seconds: Option<f64>,
}

/// Figures of an rx queue: sums over its open and ended connections, and its drops.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Queue {
    pub(super) queue: Option<u32>,
    pub(super) napi_id: Option<u32>,
    pub(super) connections: usize,
    pub(super) ended: usize,
    pub(super) bytes: u64,
    pub(super) mib_per_second: f64,
    pub(super) frags: u64,
    pub(super) alloc_fail: Option<u64>,
    pub(super) hw_drops: Option<u64>,
}

impl Second {
    /// Formats the figures as one plain line of text.
    pub(super) fn line(&self) -> String {
        let Self {
            bytes,
            mib_per_second,
            mean_mib_per_second,
            tokens,
            ..
        } = self;
        let mut line = format!(
            "received {:.1} MiB, {mib_per_second:.1} MiB/s, {mean_mib_per_second:.1} on average, {}, \
             {} tokens held, {} kept",
            *bytes as f64 / MIB,
            plural(self.connections.len() as u64, "connection"),
            tokens.held,
            tokens.kept,
        );
        for pool in &self.memory.pools {
            if let Some(in_use) = pool.in_use {
                line += &format!(", {in_use} of {} niovs taken", pool.niovs);
            }
        }
        if let Some(failed) = self.memory.alloc_fail {
            line += &format!(", {failed} allocations failed");
        }
        line + "\n"
    }
}

/// Formats a count with its noun, as `1 thread` or `2 threads`.
pub(in crate::recv) fn plural(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line() {
        let second = Second {
            bytes: 3 << 20,
            mib_per_second: 1.5,
            mean_mib_per_second: 1.25,
            ..Second::default()
        };
        assert_eq!(
            second.line(),
            "received 3.0 MiB, 1.5 MiB/s, 1.2 on average, 0 connections, 0 tokens held, 0 kept\n"
        );
        let json = serde_json::to_value(&second).unwrap();
        assert_eq!(json["bytes"], 3 << 20);
    }
}
