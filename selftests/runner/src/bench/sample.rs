//! Records of a benchmark run, one JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counters::Calls;
use super::echo::Echo;
use super::sweep::{Point, Series};

/// A kind of guest.
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

/// One line of a run's output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    About(About),
    Sample(Box<Sample>),
    Echo(Echo),
    Parts(Parts),
}

/// The settings of a run and where it ran: the first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The running kernel's release.
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
    /// Made before the first round; in none of the figures.
    WarmUp,
    /// Goodput in the guest of two processors, CPU in the others.
    Whole,
    /// CPU in the guest of two processors.
    Settled,
    /// System calls, with counting switched on.
    Counted,
    /// 4 KiB: the cost of set-up and tear-down.
    Nothing,
}

/// CPU seconds of a thread that makes a dmabuf of 64 MiB, binds a queue to it, unbinds it and frees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// Whether of pages of 2 MiB.
    pub(crate) huge: bool,
    pub(crate) make: f64,
    pub(crate) bind: f64,
    pub(crate) unbind: f64,
    pub(crate) free: f64,
}

/// One transfer's cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The contender.
    pub(crate) who: String,
    /// What it was a part of.
    pub(crate) series: Series,
    pub(crate) kind: Kind,
    pub(crate) round: u32,
    /// Under which conditions.
    #[serde(flatten)]
    pub(crate) at: Point,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) cost: Cost,
}

/// What a transfer took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From the first byte sent to the receiver's last close.
    pub(crate) seconds: f64,
    /// CPU time of the receiver's process from its start to its end, in seconds.
    pub(crate) cpu: f64,
    /// Of that, in user mode, as the kernel's ticks tell.
    pub(crate) user_of_process: f64,
    /// CPU time from its first byte to its last, if it settled.
    pub(crate) in_loop: Option<f64>,
    /// Of that, in user mode, as the kernel's ticks tell.
    pub(crate) user: f64,
    /// Times that it went to sleep meanwhile, if that could be read.
    pub(crate) wakeups: Option<u64>,
    /// The most memory that it had, without what it shares, in KiB.
    pub(crate) memory: u64,
    /// Its system calls from the first byte to the last, where they were counted.
    pub(crate) calls: Option<Calls>,
    /// The same from its start to its end: what it counted itself covers that, too.
    pub(crate) calls_of_process: Option<Calls>,
    /// What it counted itself, if it did.
    pub(crate) counts: Option<Counts>,
    /// Times that the NIC had no buffer for a packet meanwhile.
    pub(crate) alloc_fail: u64,
    /// TCP segments sent again meanwhile, at either end.
    pub(crate) retransmitted: u64,
    /// What TCP dropped or timed out meanwhile, by its own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// What a receiver counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) recvmsg: u64,
    pub(crate) frags: u64,
    /// Calls of `setsockopt(SO_DEVMEM_DONTNEED)`.
    pub(crate) dontneed: u64,
    pub(crate) epoll_wait: Option<u64>,
}
