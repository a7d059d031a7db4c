//! Records of a benchmark run, one JSON object per line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counters::Calls;
use super::echo::Echo;
use super::sweep::{Point, Series};

/// Kind of guest: number of processors, and kind of clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Guest {
    /// One processor, and a clock that counts instructions.
    OneCpu,
    /// The same without instructions that move strings of bytes.
    Words,
    /// Two processors, as fast as they can.
    TwoCpu,
}

/// One line of a measurement's output file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    About(About),
    Sample(Box<Sample>),
    Echo(Echo),
    Parts(Parts),
}

/// Settings of a measurement and the guest it ran in: the first line of the output file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Release of the running kernel.
    pub(crate) kernel: String,
    pub(crate) guest: Guest,
    pub(crate) mib: u64,
    pub(crate) rounds: u32,
    pub(crate) sweeps: u32,
}

/// Purpose of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A transfer before the first round, which is in none of the figures.
    WarmUp,
    /// A full transfer: measures throughput in the guest of two processors, CPU time in the others.
    Whole,
    /// A full transfer that waits until the receiver is idle: measures CPU time in the guest of two
    /// processors.
    Settled,
    /// A full transfer with system calls being counted.
    Counted,
    /// A transfer of 4 KiB: measures the cost of set-up and tear-down.
    Nothing,
}

/// CPU seconds of a thread that makes a dmabuf of 64 MiB, binds a queue to it, unbinds and frees
/// it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// Whether the memory has pages of 2 MiB, else of 4 KiB.
    pub(crate) huge: bool,
    pub(crate) make: f64,
    pub(crate) bind: f64,
    pub(crate) unbind: f64,
    pub(crate) free: f64,
}

/// One transfer, its conditions and its cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Name of the receiver.
    pub(crate) who: String,
    /// Series of transfers that this one belongs to.
    pub(crate) series: Series,
    pub(crate) kind: Kind,
    pub(crate) round: u32,
    /// Conditions of the transfer.
    #[serde(flatten)]
    pub(crate) at: Point,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) cost: Cost,
}

/// Cost of a transfer: times, memory and counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Seconds from the first byte sent to the receiver's last close.
    pub(crate) seconds: f64,
    /// CPU time of the receiver's process from its start to its end, in seconds.
    pub(crate) cpu: f64,
    /// Part of the process's CPU time in user mode, in seconds, by the kernel's ticks.
    pub(crate) user_of_process: f64,
    /// CPU seconds of the receiver from its first byte to its last; `None` if the transfer did not
    /// wait until the receiver was idle.
    pub(crate) in_loop: Option<f64>,
    /// CPU seconds in user mode that the receiver reports for its loop, else those of its process.
    pub(crate) user: f64,
    /// Number of times that the receiver went to sleep during the transfer; `None` if it could not
    /// be read.
    pub(crate) wakeups: Option<u64>,
    /// Peak of the receiver's private memory in KiB.
    pub(crate) memory: u64,
    /// System calls of the receiver from its first byte to its last, where they were counted.
    pub(crate) calls: Option<Calls>,
    /// System calls of the receiver from its start to its end, to compare with the receiver's own
    /// counts.
    pub(crate) calls_of_process: Option<Calls>,
    /// The receiver's own counts, if it reports any.
    pub(crate) counts: Option<Counts>,
    /// Number of packets during the transfer for which the NIC had no buffer.
    pub(crate) alloc_fail: u64,
    /// Number of TCP segments retransmitted during the transfer, at either end.
    pub(crate) retransmitted: u64,
    /// TCP's counters of drops and timeouts during the transfer, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// Counts that a receiver reports of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) recvmsg: u64,
    pub(crate) frags: u64,
    /// Number of calls of `setsockopt(SO_DEVMEM_DONTNEED)`.
    pub(crate) dontneed: u64,
    pub(crate) epoll_wait: Option<u64>,
}
