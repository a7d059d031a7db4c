//! What is read off the kernel before and after a transfer.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use netdev::{Ifindex, NetNs, Netdev, Scope};

/// A process that spends less than [`IDLE`] seconds in this time has nothing to do.
const SETTLING: Duration = Duration::from_millis(30);
const IDLE: f64 = 200e-6;

/// What TCP says of packets that it dropped, or sent again, and why (`/proc/net/netstat`).
const REASONS: [&str; 12] = [
    "ListenOverflows",
    "PruneCalled",
    "RcvPruned",
    "OfoPruned",
    "TCPBacklogDrop",
    "TCPLossProbes",
    "TCPOFODrop",
    "TCPRcvCollapsed",
    "TCPRcvQDrop",
    "TCPSynRetrans",
    "TCPTimeouts",
    "TCPZeroWindowDrop",
];

/// Counters that should stand still.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    /// Times that the NIC had no buffer for a packet (`rx-alloc-fail` of `qstats-get`).
    pub(super) alloc_fail: u64,
    /// TCP segments sent again by these namespaces (`RetransSegs` of `/proc/net/snmp`).
    pub(super) retransmitted: u64,
    /// Why, as far as TCP counts it.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Meters {
    pub(super) fn read(nic: Ifindex, namespaces: &[NetNs]) -> Result<Self> {
        let stats = Netdev::open()?.qstats(Some(nic), Scope::Device)?;
        let mut retransmitted = 0;
        let mut reasons = BTreeMap::new();
        for netns in namespaces {
            // A thread's own: the namespace is the thread's.
            let text = netns.run(|| -> std::io::Result<_> {
                let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok((read("snmp")?, read("netstat")?))
            })?;
            let (snmp, netstat) = text.context("TCP's counters")?;
            retransmitted += counter(&snmp, "Tcp:", "RetransSegs").context("RetransSegs")?;
            for name in REASONS {
                let count = counter(&netstat, "TcpExt:", name).unwrap_or(0);
                *reasons.entry(name.to_owned()).or_insert(0) += count;
            }
        }
        Ok(Self {
            alloc_fail: stats
                .iter()
                .filter_map(|stats| stats.counters.rx_alloc_fail)
                .sum(),
            retransmitted,
            reasons,
        })
    }

    /// What came since an earlier reading; of the reasons only those that there were.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        for (name, count) in &mut self.reasons {
            *count -= earlier.reasons.get(name).copied().unwrap_or(0).min(*count);
        }
        self.reasons.retain(|_, count| *count > 0);
        Self {
            alloc_fail: self.alloc_fail.saturating_sub(earlier.alloc_fail),
            retransmitted: self.retransmitted.saturating_sub(earlier.retransmitted),
            reasons: self.reasons,
        }
    }
}

/// A counter of a table of two lines, names and numbers, that begin with the same word.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let names = lines.next()?.split_whitespace();
    let mut numbers = lines.next()?.split_whitespace();
    let at = names.into_iter().position(|it| it == name)?;
    numbers.nth(at)?.parse().ok()
}

/// CPU seconds of a process's threads, as soon as they have hardly anything to do.
pub(super) fn settled_cpu(pid: u32) -> Result<f64> {
    let mut before = cpu(pid)?;
    loop {
        thread::sleep(SETTLING);
        let now = cpu(pid)?;
        if now - before < IDLE {
            return Ok(now);
        }
        before = now;
    }
}

/// What they have spent until they were last descheduled, to the nanosecond
/// (`proc_pid_schedstat`).
fn cpu(pid: u32) -> Result<f64> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&tasks).context(tasks)? {
        // One that has ended meanwhile did nothing of note.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            let spent = text.split_whitespace().next().context("schedstat")?;
            nanoseconds += spent.parse::<u64>().context("schedstat")?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The most memory that a process has had and does not share with files or dmabufs, in KiB: all that
/// was ever resident at once (`VmHWM`), without what of it are files.
pub(super) fn peak_memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(path)?;
    own_memory(&text).context("memory in a process's status")
}

fn own_memory(status: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let shared = number("RssFile:")? + number("RssShmem:")?;
    Some(number("VmHWM:")?.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_stands_below_its_name() {
        let text = "Ip: Forwarding Default\nIp: 1 64\nTcp: A RetransSegs C\nTcp: 1 7 3\n";
        assert_eq!(counter(text, "Tcp:", "RetransSegs"), Some(7));
        assert_eq!(counter(text, "Tcp:", "D"), None);
        assert_eq!(counter(text, "Udp:", "RetransSegs"), None);
    }

    #[test]
    fn shared_memory_does_not_count() {
        let status = "Name:\tx\nVmHWM:\t  9000 kB\nRssAnon:\t 400 kB\n\
                      RssFile:\t 2000 kB\nRssShmem:\t 1000 kB\n";
        assert_eq!(own_memory(status), Some(6000));
        assert_eq!(own_memory("VmHWM: 1 kB"), None);
    }
}
