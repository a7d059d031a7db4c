//! Memory that a buffer may take before the kernel kills processes to find more.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Memory that can be allocated without swapping, and what limits it.
///
/// The pages of a udmabuf are pinned: they are allocated one by one, each allocation may call the
/// OOM killer, and they are never swapped out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Available {
    /// Number of bytes of memory that are available.
    pub bytes: u64,
    /// Control group whose `memory.max` limits the memory; `None` if the machine's memory is the
    /// limit.
    pub cgroup: Option<PathBuf>,
}

impl Available {
    /// Available memory of the machine: `MemAvailable` of `/proc/meminfo`; `None` if the kernel
    /// does not report it.
    #[doc(alias = "MemAvailable")]
    pub fn on_machine() -> Option<Self> {
        let bytes = mem_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
        Some(Self {
            bytes,
            cgroup: None,
        })
    }

    /// Available memory of this process: that of the machine, or of one of its control groups
    /// (version 2), whichever is less.
    #[doc(alias = "memory.max")]
    pub fn to_process() -> Option<Self> {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let cgroup = in_cgroups(Path::new("/sys/fs/cgroup"), &membership);
        let all = Self::on_machine().into_iter().chain(cgroup);
        all.min_by_key(|available| available.bytes)
    }

    /// Whether `len` bytes of memory are available, with a sixteenth left for sockets and page
    /// tables.
    pub fn holds(&self, len: u64) -> bool {
        len <= self.bytes - self.bytes / 16
    }

    /// Recommended length in bytes of each of `count` buffers, so that half of the available memory
    /// is left: a round number of MiB, at least 1, which does not change with every page that is
    /// allocated elsewhere.
    pub fn advice(&self, count: u64) -> u64 {
        const MIB: u64 = 1 << 20;
        let most = (self.bytes / 2 / count.max(1) / MIB).max(1);
        // Round down to three significant bits.
        let rest = most.ilog2().saturating_sub(2);
        (most >> rest << rest) * MIB
    }
}

impl fmt::Display for Available {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB are available", self.bytes >> 20)?;
        match &self.cgroup {
            Some(cgroup) => write!(f, " ({})", cgroup.join("memory.max").display()),
            None => Ok(()),
        }
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = |line: &str| Some(line.strip_prefix("MemAvailable:")?.trim().to_owned());
    let kib: u64 = meminfo
        .lines()
        .find_map(line)?
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    kib.checked_mul(1024)
}

/// Least available memory of the control groups in `membership` (`/proc/self/cgroup`) and of the
/// groups above them.
fn in_cgroups(root: &Path, membership: &str) -> Option<Available> {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    let of_group = |group: &Path| {
        let bytes = in_cgroup(group)?;
        let cgroup = Some(group.to_owned());
        Some(Available { bytes, cgroup })
    };
    root.join(path)
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(of_group)
        .min_by_key(|available| available.bytes)
}

/// Available memory of a control group: `memory.max` less what is used, plus what would be
/// reclaimed first, the page cache and slabs that can shrink. `None` for a group without a limit.
fn in_cgroup(group: &Path) -> Option<u64> {
    let read = |file| fs::read_to_string(group.join(file)).ok();
    let max: u64 = read("memory.max")?.trim().parse().ok()?;
    let current: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| matches!(*name, "inactive_file" | "active_file" | "slab_reclaimable"))
        .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
        .sum();
    Some(max.saturating_sub(current.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_parsed() {
        let table = "MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:     1024 kB\n";
        assert_eq!(mem_available(table), Some(1 << 20));
        assert_eq!(mem_available("MemTotal: 2000 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: lots\n"), None);
        let machine = Available::on_machine().unwrap();
        assert!(machine.holds(4096) && !machine.holds(u64::MAX), "{machine}");
        let process = Available::to_process().unwrap();
        assert!(process.bytes > 0);
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = std::env::temp_dir().join(format!("cgroups-{}", std::process::id()));
        let group = |path: &str, max: &str, current: &str| {
            let group = root.join(path);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("memory.max"), max).unwrap();
            fs::write(group.join("memory.current"), current).unwrap();
            fs::write(group.join("memory.stat"), "anon 7\nactive_file 1000\n").unwrap();
            group
        };
        // The root of the hierarchy does not have these files.
        let outer = group("outer", "100000\n", "31000\n");
        group("outer/inner", "max\n", "20000\n");
        let found = |membership| in_cgroups(&root, membership);
        let expected = Available {
            bytes: 70_000,
            cgroup: Some(outer),
        };
        let found_inner = found("1:cpu:/other\n0::/outer/inner\n");
        let found_none = (found("0::/\n"), found("4:memory:/outer\n"), found(""));
        group("outer/inner", "40000\n", "50000\n");
        let over = found("0::/outer/inner\n").unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found_inner, Some(expected));
        assert_eq!(found_none, (None, None, None));
        assert_eq!(over.bytes, 0);
        assert!(
            over.to_string().contains("outer/inner/memory.max"),
            "{over}"
        );
    }

    #[test]
    fn the_recommended_length_passes_the_check() {
        let available = Available {
            bytes: 3 << 30,
            cgroup: None,
        };
        assert!(!available.holds(3 << 30));
        assert_eq!(available.advice(1), 1536 << 20);
        let less = Available {
            bytes: 1607 << 20,
            cgroup: None,
        };
        assert_eq!(less.advice(1), 768 << 20);
        assert_eq!(less.advice(10_000), 1 << 20);
        assert!(available.holds(available.advice(4) * 4));
        assert_eq!(available.to_string(), "3072 MiB are available");
    }
}
