//! The figures of a benchmark run, round by round, as in `docs/performance/data.json`.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::spread::median;
use crate::Guest;
use crate::contender::{BARE, LOWAT};
use crate::sweep::{Point, Series};

/// All figures of a benchmark run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Data {
    /// Release of the guest's kernel.
    pub(super) kernel: String,
    /// Length of a full transfer in MiB.
    pub(super) mib: u64,
    pub(super) rounds: u32,
    /// Number of rounds of each series that varies one condition.
    pub(super) sweeps: u32,
    pub(super) rows: Vec<Row>,
    pub(super) echo: Vec<Latency>,
    pub(super) parts: Vec<Parts>,
    /// Results of `make bench-host` on the host, if it was run.
    pub(super) host: Option<Host>,
}

/// Figures of one receiver under one set of conditions in one guest. Each list has one value per
/// round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) guest: Guest,
    pub(super) who: String,
    pub(super) series: Series,
    #[serde(flatten)]
    pub(super) at: Point,
    /// Length of a transfer in bytes.
    pub(super) bytes: u64,
    /// Number of warm-up transfers, which are in none of the figures.
    pub(super) warm_up: usize,
    /// CPU seconds per GiB in the receive loop.
    pub(super) cpu: Vec<f64>,
    /// Fraction of the loop's CPU time in user mode, over all rounds; `None` where that time is too
    /// short for the kernel's ticks.
    pub(super) user: Option<f64>,
    /// CPU seconds per GiB in the receive loop while system calls were counted.
    pub(super) cpu_counted: Vec<f64>,
    /// Payload throughput in MiB per second.
    pub(super) goodput: Vec<f64>,
    /// Number of times per GiB that the receiver went to sleep.
    pub(super) wakeups: Vec<f64>,
    /// System calls per GiB in the receive loop.
    pub(super) calls: Vec<f64>,
    /// System calls per GiB in the receive loop by name, over all rounds.
    pub(super) calls_by: BTreeMap<String, f64>,
    /// System calls as counted by tracepoints and by the receiver itself, over all rounds.
    pub(super) check: Option<Check>,
    /// CPU seconds of set-up and tear-down: in each round the mean of two processes.
    pub(super) setup: Vec<f64>,
    /// Fraction of the set-up and tear-down time in user mode.
    pub(super) setup_user: Option<f64>,
    /// CPU seconds in the receive loop for a transfer of 4 KiB.
    pub(super) first: Vec<f64>,
    /// Frags per MiB, by the receiver's own counts.
    pub(super) frags_per_mib: Vec<f64>,
    pub(super) frags_per_recvmsg: Vec<f64>,
    pub(super) tokens_per_dontneed: Vec<f64>,
    /// Peak of the receiver's private memory in KiB.
    pub(super) memory: u64,
    /// Largest number, of all transfers, of packets for which the NIC had no buffer.
    pub(super) alloc_fail: u64,
    pub(super) retransmitted: u64,
}

/// Numbers of system calls as pairs: by the tracepoints, and by the receiver's own count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) transfers: u64,
    pub(super) recvmsg: (u64, u64),
    /// All calls of `setsockopt`, and those for `SO_DEVMEM_DONTNEED` that the receiver counted.
    pub(super) setsockopt: (u64, u64),
    pub(super) epoll_wait: Option<(u64, u64)>,
}

impl Check {
    /// Whether the tracepoints' and the receiver's counts can be of the same processes.
    pub(super) fn agrees(&self) -> bool {
        let same = |(counted, own): (u64, u64)| counted == own;
        let (all, dontneed) = self.setsockopt;
        same(self.recvmsg) && self.epoll_wait.is_none_or(same) && dontneed <= all
    }
}

/// Round-trip times of 64-byte messages in microseconds, one value per round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) gathers: bool,
    pub(super) messages: usize,
    pub(super) p50: Vec<f64>,
    pub(super) p99: Vec<f64>,
    pub(super) max: Vec<f64>,
}

/// CPU seconds that the kernel takes to make a dmabuf of 64 MiB and bind it, two values per round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Parts {
    /// Whether the memory has pages of 2 MiB, else of 4 KiB.
    pub(super) huge: bool,
    pub(super) make: Vec<f64>,
    pub(super) bind: Vec<f64>,
    pub(super) unbind: Vec<f64>,
    pub(super) free: Vec<f64>,
}

/// Results of `make bench-host`: the cost of the receive path in user space, without a kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Host {
    /// Nanoseconds per frag to parse its control message, discard it and return its token.
    pub(super) recv_frag_ns: Option<f64>,
    /// Rate of validation as a fraction of the rate of `memcmp` over the same memory.
    pub(super) validate_fraction_of_memcmp: Option<f64>,
}

impl Data {
    /// Formats the figures as JSON, with each row on a line of its own.
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

    /// Finds the row of a receiver in the comparison of receivers.
    pub(super) fn compared(&self, guest: Guest, who: &str, gro: bool) -> Option<&Row> {
        let at = Point {
            gro,
            ..Point::default()
        };
        self.row(guest, who, Series::Compare, &at)
    }

    /// Finds the row of the bare loop that took less CPU time.
    pub(super) fn better_bare(&self, guest: Guest, gro: bool) -> Option<&Row> {
        let both = [BARE.name, LOWAT.name].map(|who| self.compared(guest, who, gro));
        let cost = |row: &&Row| median(&row.cpu).unwrap_or(f64::INFINITY);
        let both = both.into_iter().flatten();
        both.min_by(|one, other| cost(one).total_cmp(&cost(other)))
    }
}
