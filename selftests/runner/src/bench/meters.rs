//! Counters of the kernel that are read before and after a transfer.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use netdev::queues::Scope;
use netdev::{Ifindex, NetNs, Netdev};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::counters::{Calls, Counters};

/// Interval over which a process must spend less than [`IDLE`] CPU seconds to count as idle.
const IDLE_INTERVAL: Duration = Duration::from_millis(30);
const IDLE: f64 = 200e-6;

/// TCP counters for dropped and retransmitted packets (`/proc/net/netstat`).
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

/// Counters of lost and retransmitted packets, which should not change during a transfer.
#[derive(Debug, Clone)]
pub(super) struct LossCounters {
    /// Number of packets for which the NIC had no buffer (`rx-alloc-fail` of `qstats-get`).
    pub(super) alloc_fail: u64,
    /// Number of TCP segments that these namespaces have retransmitted (`RetransSegs` of
    /// `/proc/net/snmp`).
    pub(super) retransmitted: u64,
    /// The TCP counters that say why packets were lost, by name.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl LossCounters {
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
            retransmitted += find_counter(&snmp, "Tcp:", "RetransSegs").context("RetransSegs")?;
            for name in REASONS {
                let count = find_counter(&netstat, "TcpExt:", name).unwrap_or(0);
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

    /// Returns the counts since an earlier reading, without TCP counters that did not change.
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

/// Finds a counter in the text of `/proc/net/snmp` or `netstat`: two lines that start with `group`,
/// the first with names and the second with numbers.
fn find_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let names = lines.next()?.split_whitespace();
    let mut numbers = lines.next()?.split_whitespace();
    let at = names.into_iter().position(|it| it == name)?;
    numbers.nth(at)?.parse().ok()
}

/// Reads the CPU time, sleeps and system calls of a receiver's process.
pub(super) struct Meter {
    process: u32,
    clock: ClockId,
    counters: Option<Counters>,
}

/// CPU time, sleeps and system calls of a process up to now.
#[derive(Debug, Clone)]
pub(super) struct Spent {
    /// CPU seconds of all threads of the process, including those that have ended.
    pub(super) cpu: f64,
    /// Number of times that the process's threads went to sleep; `None` once the process has ended.
    pub(super) wakeups: Option<u64>,
    /// System calls of the process; `None` where they are not counted.
    pub(super) calls: Option<Calls>,
}

impl Spent {
    /// Returns the difference of two readings of a counter, given as `(after, before)`.
    pub(super) fn between((after, before): (u64, u64)) -> u64 {
        after.saturating_sub(before)
    }
}

impl Meter {
    pub(super) fn new(process: u32, counters: Option<Counters>) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(process).context("pid")?);
        Ok(Self {
            process,
            clock: clock_getcpuclockid(pid).context("CPU clock of the receiver")?,
            counters,
        })
    }

    /// Reads the process's CPU time, sleeps and system calls up to now.
    pub(super) fn read(&self) -> Result<Spent> {
        Ok(Spent {
            cpu: self.cpu()?,
            wakeups: wakeups(self.process),
            calls: self.calls()?,
        })
    }

    /// Reads the counters of the process's system calls, if there are any; possible after its end,
    /// too.
    pub(super) fn calls(&self) -> Result<Option<Calls>> {
        self.counters.as_ref().map(Counters::read).transpose()
    }

    /// Waits until the process is nearly idle, then reads its CPU time, sleeps and system calls.
    pub(super) fn read_when_idle(&self) -> Result<Spent> {
        let mut before = self.cpu()?;
        loop {
            thread::sleep(IDLE_INTERVAL);
            let now = self.cpu()?;
            if now - before < IDLE {
                return self.read();
            }
            before = now;
        }
    }

    /// Returns the process's peak of private memory in KiB: the most that was ever resident
    /// (`VmHWM`), less the pages of files and shared memory, such as dmabufs.
    pub(super) fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process);
        let text = fs::read_to_string(&path).context(path)?;
        own_memory(&text).context("memory in a process's status")
    }

    fn cpu(&self) -> Result<f64> {
        let time = clock_gettime(self.clock).context("CPU clock of the receiver")?;
        Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
    }
}

/// Returns the number of voluntary context switches of all threads of a process.
fn wakeups(process: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let of = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let text = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        status_field(&text, "voluntary_ctxt_switches:")
    };
    tasks.map(of).sum()
}

fn own_memory(status: &str) -> Option<u64> {
    let shared = status_field(status, "RssFile:")? + status_field(status, "RssShmem:")?;
    Some(status_field(status, "VmHWM:")?.saturating_sub(shared))
}

/// Returns a number from the text of `/proc/PID/status` by the name of its line.
fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_stands_below_its_name() {
        let text = "Ip: Forwarding Default\nIp: 1 64\nTcp: A RetransSegs C\nTcp: 1 7 3\n";
        assert_eq!(find_counter(text, "Tcp:", "RetransSegs"), Some(7));
        assert_eq!(find_counter(text, "Tcp:", "D"), None);
        assert_eq!(find_counter(text, "Udp:", "RetransSegs"), None);
    }

    #[test]
    fn shared_memory_does_not_count() {
        let status = "Name:\tx\nVmHWM:\t  9000 kB\nRssAnon:\t 400 kB\n\
                      RssFile:\t 2000 kB\nRssShmem:\t 1000 kB\n";
        assert_eq!(own_memory(status), Some(6000));
        assert_eq!(own_memory("VmHWM: 1 kB"), None);
    }
    #[test]
    fn who_sleeps_is_told_from_who_is_preempted() {
        let status = "voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(status_field(status, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(wakeups(u32::MAX), None);
    }

    #[test]
    fn a_process_that_computes_spends() {
        let meter = Meter::new(std::process::id(), None).unwrap();
        let before = meter.read().unwrap();
        while meter.cpu().unwrap() - before.cpu < 1e-3 {}
        assert!(meter.read().unwrap().cpu > before.cpu);
    }
}
