//! The figures of a run, round by round: what `docs/performance/data.json` has.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::spread::median;
use crate::Guest;
use crate::contender::{BARE, LOWAT};
use crate::sweep::{Point, Series};

/// All that is known of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    /// The guest's kernel.
    pub(super) kernel: String,
    /// MiB of a whole transfer.
    pub(super) mib: u64,
    pub(super) rounds: u32,
    /// Rounds where one condition is varied.
    pub(super) sweeps: u32,
    pub(super) rows: Vec<Row>,
    pub(super) echo: Vec<Latency>,
    pub(super) parts: Vec<Parts>,
    /// What `make bench-host` measured on the host, if it did.
    pub(super) host: Option<Host>,
}

/// One receiver under one set of conditions in one guest. Each list has a value a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) guest: Guest,
    pub(super) who: String,
    pub(super) series: Series,
    #[serde(flatten)]
    pub(super) at: Point,
    /// Bytes of a transfer.
    pub(super) bytes: u64,
    /// Transfers that came before, and are in none of the figures.
    pub(super) warm_up: usize,
    /// CPU seconds a GiB, in the loop.
    pub(super) cpu: Vec<f64>,
    /// The part of it in user mode, of all rounds together: the kernel's ticks tell it, if they were enough.
    pub(super) user: Option<f64>,
    /// The same CPU seconds while system calls were counted.
    pub(super) cpu_counted: Vec<f64>,
    /// MiB a second.
    pub(super) goodput: Vec<f64>,
    /// Times that it went to sleep, a GiB.
    pub(super) wakeups: Vec<f64>,
    /// System calls a GiB, in the loop.
    pub(super) calls: Vec<f64>,
    /// The same by kind, of all rounds together, a GiB.
    pub(super) calls_by: BTreeMap<String, f64>,
    /// The tracepoints' counts against the receiver's own, of all rounds together.
    pub(super) check: Option<Check>,
    /// CPU seconds to begin and end: the mean of two processes.
    pub(super) setup: Vec<f64>,
    /// The part of it in user mode.
    pub(super) setup_user: Option<f64>,
    /// CPU seconds in the loop for a transfer of 4 KiB.
    pub(super) first: Vec<f64>,
    /// By the receiver's own counts.
    pub(super) frags_per_mib: Vec<f64>,
    pub(super) frags_per_recvmsg: Vec<f64>,
    pub(super) tokens_per_dontneed: Vec<f64>,
    /// The most private memory that it ever had, in KiB.
    pub(super) memory: u64,
    /// The most of one transfer.
    pub(super) alloc_fail: u64,
    pub(super) retransmitted: u64,
}

/// System calls by the tracepoints, and by the receiver's own count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) transfers: u64,
    pub(super) recvmsg: (u64, u64),
    /// Of all `setsockopt`, and of `SO_DEVMEM_DONTNEED` alone.
    pub(super) setsockopt: (u64, u64),
    pub(super) epoll_wait: Option<(u64, u64)>,
}

impl Check {
    /// Whether the two counts can be of the same processes.
    pub(super) fn agrees(&self) -> bool {
        let same = |(counted, own): (u64, u64)| counted == own;
        let (all, dontneed) = self.setsockopt;
        same(self.recvmsg) && self.epoll_wait.is_none_or(same) && dontneed <= all
    }
}

/// 64 bytes there and back, in microseconds, a value a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) gathers: bool,
    pub(super) messages: usize,
    pub(super) p50: Vec<f64>,
    pub(super) p99: Vec<f64>,
    pub(super) max: Vec<f64>,
}

/// CPU seconds of the kernel for memory of 64 MiB and its binding, two values a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Parts {
    /// Whether of pages of 2 MiB.
    pub(super) huge: bool,
    pub(super) make: Vec<f64>,
    pub(super) bind: Vec<f64>,
    pub(super) unbind: Vec<f64>,
    pub(super) free: Vec<f64>,
}

/// What `make bench-host` says of the path in user space, with no kernel in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Host {
    /// To take a frag out of the control message, discard and recycle it.
    pub(super) recv_frag_ns: Option<f64>,
    /// Bytes a second, by those of a `memcmp` of the same memory.
    pub(super) validate_fraction_of_memcmp: Option<f64>,
}

impl Data {
    /// JSON with a row a line.
    pub(super) fn json(&self) -> Result<String> {
        let mut rows = String::new();
        for row in &self.rows {
            let comma = if rows.is_empty() { "" } else { ",\n" };
            write!(rows, "{comma}{}", serde_json::to_string(row)?)?;
        }
        let head = Self {
            rows: Vec::new(),
            ..self.clone()
        };
        let head = serde_json::to_string(&head)?;
        Ok(head.replacen("\"rows\":[]", &format!("\"rows\":[\n{rows}\n]"), 1) + "\n")
    }

    pub(super) fn row(&self, guest: Guest, who: &str, series: Series, at: &Point) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|it| it.guest == guest && it.who == who && it.series == series && it.at == *at)
    }

    /// A receiver among the others.
    pub(super) fn compared(&self, guest: Guest, who: &str, gro: bool) -> Option<&Row> {
        let at = Point {
            gro,
            ..Point::default()
        };
        self.row(guest, who, Series::Compare, &at)
    }

    /// The bare loop that costs less.
    pub(super) fn better_bare(&self, guest: Guest, gro: bool) -> Option<&Row> {
        let both = [BARE.name, LOWAT.name].map(|who| self.compared(guest, who, gro));
        let cost = |row: &&Row| median(&row.cpu).unwrap_or(f64::INFINITY);
        let both = both.into_iter().flatten();
        both.min_by(|one, other| cost(one).total_cmp(&cost(other)))
    }
}
