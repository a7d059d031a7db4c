//! Counts the system calls of a process and its children by the kernel's tracepoints
//! (`perf_event_open(2)`). The process is not stopped: a call costs some instructions more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use sys::Event;

const TRACEFS: &str = "/sys/kernel/tracing";
/// Tracepoint that every system call passes.
const ANY_CALL: &str = "raw_syscalls/sys_enter";
/// Names of the system calls that are counted one by one: those that receivers make.
const CALL_NAMES: [&str; 12] = [
    "recvmsg",
    "recvfrom",
    "setsockopt",
    "ioctl",
    "epoll_wait",
    "epoll_pwait",
    "poll",
    "read",
    "write",
    "futex",
    "io_uring_enter",
    "clock_gettime",
];

/// Numbers of system calls: in all, and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub(crate) all: u64,
    /// Number of calls by system call; only names with at least one call.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) by: BTreeMap<String, u64>,
}

impl Calls {
    /// Returns the calls that were made since an earlier reading.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        self.all -= earlier.all.min(self.all);
        for (name, count) in &mut self.by {
            *count -= earlier.by.get(name).copied().unwrap_or(0).min(*count);
        }
        self.by.retain(|_, count| *count > 0);
        self
    }

    /// Returns the number of calls of the system call `name`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.by.get(name).copied().unwrap_or(0)
    }
}

/// Counters of the system calls of one process and its children.
pub(super) struct Counters {
    all: Event,
    by: Vec<(&'static str, Event)>,
}

impl Counters {
    /// Attaches counters to a process that is about to call `execve`: they start counting there.
    pub(super) fn attach(process: u32) -> Result<Self> {
        mount_tracefs()?;
        let pid = i32::try_from(process).context("pid")?;
        let open = |name: &str| -> Result<Event> {
            let path = format!("{TRACEFS}/events/{name}/id");
            let id = fs::read_to_string(&path).with_context(|| path.clone())?;
            let id = id.trim().parse().with_context(|| path.clone())?;
            Event::open(id, pid).with_context(|| format!("perf_event_open {name}"))
        };
        let mut by = Vec::new();
        for name in CALL_NAMES {
            by.push((name, open(&format!("syscalls/sys_enter_{name}"))?));
        }
        Ok(Self {
            all: open(ANY_CALL)?,
            by,
        })
    }

    /// Reads the counters, including the calls of processes and threads that have ended.
    pub(super) fn read(&self) -> Result<Calls> {
        let mut by = BTreeMap::new();
        for (name, event) in &self.by {
            by.insert((*name).to_owned(), event.read().context("perf counter")?);
        }
        let all = self.all.read().context("perf counter")?;
        let known: u64 = by.values().sum();
        ensure!(
            all >= known,
            "{all} system calls in all, and {known} by name"
        );
        by.retain(|_, count| *count > 0);
        Ok(Calls { all, by })
    }
}

/// Keeps the kernel's tracepoints enabled until it is dropped.
///
/// The first counter patches the kernel's code, and the last one that is closed does so again. An
/// emulator before QEMU 8.1 with two processors may run the breakpoint of such a patch once more when it
/// is gone (cb62bd15e14e), which the guest doesn't survive: so that happens once, not at each transfer.
pub(super) struct Anchor {
    process: Child,
    _counters: Counters,
}

impl Anchor {
    pub(super) fn new() -> Result<Self> {
        // It never calls execve again: its counters never begin.
        let process = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cat")?;
        let counters = Counters::attach(process.id())?;
        Ok(Self {
            process,
            _counters: counters,
        })
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // It ends with its standard input at the latest.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// Mounts tracefs, unless it is mounted.
fn mount_tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        none,
    )
    .context(TRACEFS)
}

#[allow(unsafe_code)]
mod sys {
    use std::fs::File;
    use std::io::{self, Read};
    use std::os::fd::{FromRawFd, OwnedFd};

    use nix::libc;

    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
    const DISABLED: u64 = 1;
    const INHERIT: u64 = 1 << 1;
    const ENABLE_ON_EXEC: u64 = 1 << 12;

    /// `struct perf_event_attr` as of `PERF_ATTR_SIZE_VER0`.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup_events: u32,
        breakpoint: u32,
        config1: u64,
    }

    const _: () = assert!(size_of::<Attributes>() == 64);

    /// A perf counter of one tracepoint.
    pub(super) struct Event(File);

    impl Event {
        pub(super) fn open(tracepoint: u64, process: libc::pid_t) -> io::Result<Self> {
            let attributes = Attributes {
                kind: PERF_TYPE_TRACEPOINT,
                size: 64,
                config: tracepoint,
                flags: DISABLED | INHERIT | ENABLE_ON_EXEC,
                ..Attributes::default()
            };
            let (any_cpu, no_group) = (-1, -1);
            // SAFETY: `attributes` outlives the call, and its size, which it says, is what the kernel
            // reads.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_perf_event_open,
                    &raw const attributes,
                    process,
                    any_cpu,
                    no_group,
                    PERF_FLAG_FD_CLOEXEC,
                )
            };
            let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just opened this descriptor, and it has no other owner.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(Self(File::from(fd)))
        }

        pub(super) fn read(&self) -> io::Result<u64> {
            let mut count = [0; 8];
            (&self.0).read_exact(&mut count)?;
            Ok(u64::from_ne_bytes(count))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(all: u64, by: &[(&str, u64)]) -> Calls {
        let by = by.iter().map(|(name, count)| ((*name).to_owned(), *count));
        Calls {
            all,
            by: by.collect(),
        }
    }

    #[test]
    fn what_came_between_two_readings() {
        let before = calls(10, &[("read", 4), ("write", 2)]);
        let after = calls(25, &[("read", 4), ("write", 3), ("ioctl", 7)]);
        let between = after.since(&before);
        assert_eq!(between, calls(15, &[("write", 1), ("ioctl", 7)]));
        assert_eq!((between.count("ioctl"), between.count("read")), (7, 0));
    }
}
