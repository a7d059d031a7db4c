//! Checks of the memory: udmabuf and its limits, hugepages, the kernel's limits of sockets.

use std::fs;
use std::io::ErrorKind;

use ::memory::{Available, Choice, check_available};
use udmabuf::{HugePage, Udmabuf};

use super::check::{Area, Check, Finding};
use super::machine::{Machine, Wanted};
use super::namespace::program;
use crate::args::Size;
use crate::room;

const DEVICE: &str = "/dev/udmabuf";
const SIZE_LIMIT_MB: &str = "/sys/module/udmabuf/parameters/size_limit_mb";
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

pub(super) const CHECKS: &[Check<Machine>] = &[
    Check {
        id: "udmabuf.device",
        areas: &[Area::Rx, Area::Tx],
        what: "/dev/udmabuf is there and can be opened",
        run: check_udmabuf_device,
    },
    Check {
        id: "udmabuf.limit",
        areas: &[Area::Rx, Area::Tx],
        what: "one buffer may be as large as requested",
        run: check_udmabuf_limit,
    },
    Check {
        id: "udmabuf.seals",
        areas: &[Area::Rx, Area::Tx],
        what: "a memfd can be sealed and made a dmabuf",
        run: check_udmabuf_seals,
    },
    Check {
        id: "memory.free",
        areas: &[Area::Rx, Area::Tx],
        what: "there is memory for the buffer",
        run: check_available_memory,
    },
    Check {
        id: "memory.hugepages",
        areas: &[Area::Rx, Area::Tx],
        what: "hugepages for the buffer are reserved and free",
        run: check_hugepages,
    },
    Check {
        id: "memory.memlock",
        areas: &[Area::Tx],
        what: "RLIMIT_MEMLOCK",
        run: report_memlock_limit,
    },
    Check {
        id: "socket.optmem",
        areas: &[Area::Tx],
        what: "net.core.optmem_max has room for sends in flight",
        run: check_optmem_limit,
    },
    Check {
        id: "socket.rmem",
        areas: &[Area::Rx],
        what: "net.ipv4.tcp_rmem lets a connection fill a link and not the pool",
        run: check_receive_buffer_limit,
    },
];

/// Reads a number from proc or sysfs.
fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn check_udmabuf_device(machine: &Machine) -> Option<Finding> {
    if !machine.wanted.is_udmabuf() {
        return None;
    }
    let error = match fs::File::open(DEVICE) {
        Ok(_) => return Some(Finding::ok(DEVICE)),
        Err(error) => error,
    };
    let found = format!("{DEVICE}: {error}");
    let misc = fs::read_to_string("/proc/misc").unwrap_or_default();
    let minor = misc.lines().find_map(|line| {
        let (minor, name) = line.trim().split_once(' ')?;
        (name.trim() == "udmabuf").then(|| minor.to_owned())
    });
    let uid = nix::unistd::geteuid();
    Some(Finding::fail(found).remedy(match (error.kind(), minor) {
        (ErrorKind::PermissionDenied, _) => format!("chown {uid} {DEVICE}"),
        // The driver is loaded, but the node is missing: a /dev of a container.
        (_, Some(minor)) => format!("mknod -m 600 {DEVICE} c 10 {minor}"),
        (_, None) => "modprobe udmabuf".to_owned(),
    }))
}

/// Checks the limit on one udmabuf: `udmabuf_create` returns `EINVAL` for more pages.
fn check_udmabuf_limit(machine: &Machine) -> Option<Finding> {
    if !machine.wanted.is_udmabuf() {
        return None;
    }
    let limit_mb = read_number(SIZE_LIMIT_MB)?;
    let size = Size(machine.wanted.size);
    let found = format!("{limit_mb} MiB, {size} requested");
    Some(if machine.wanted.size <= limit_mb.saturating_mul(1 << 20) {
        Finding::ok(found)
    } else {
        let want = machine.wanted.size.div_ceil(1 << 20);
        Finding::fail(found).remedy(format!("echo {want} > {SIZE_LIMIT_MB}"))
    })
}

/// Checks that a small udmabuf can be made, and drops it, which does not change the machine.
fn check_udmabuf_seals(machine: &Machine) -> Option<Finding> {
    if !machine.wanted.is_udmabuf() {
        return None;
    }
    let page = HugePage::None.bytes();
    match Udmabuf::builder(page).build() {
        Ok(_) => Some(Finding::ok("a page was sealed, made a dmabuf and dropped")),
        // Reported by `udmabuf.device`.
        Err(udmabuf::Error::Open { .. }) => None,
        Err(error) => {
            let words = anyhow::Error::from(error);
            Some(Finding::fail(format!("{words:#}")))
        }
    }
}

/// Checks that enough memory is available for the dmabuf, as `recv` and `send` do.
fn check_available_memory(machine: &Machine) -> Option<Finding> {
    let of_pages = matches!(machine.wanted.memory, Choice::Udmabuf | Choice::Heap(_));
    if machine.wanted.is_huge() || !of_pages {
        return None;
    }
    let available = Available::to_process()?;
    let found = format!("{available}, {} requested", mib(machine.wanted.size));
    let Wanted {
        memory,
        size,
        pages,
        ..
    } = &machine.wanted;
    Some(match check_available(memory, Some(*size), 1, *pages) {
        Ok(()) => Finding::ok(found),
        Err(_) => Finding::fail(found).remedy(format!(
            "{} doctor {} --size {}",
            program(),
            machine.arguments,
            Size(room::advice(&available, 1, memory)).flag()
        )),
    })
}

fn check_hugepages(machine: &Machine) -> Option<Finding> {
    if !machine.wanted.is_udmabuf() {
        return None;
    }
    let size = 2 << 20;
    let (Some(free), Some(reserved)) = (
        read_number(&format!("{HUGEPAGES}/free_hugepages")),
        read_number(&format!("{HUGEPAGES}/nr_hugepages")),
    ) else {
        let none = "the kernel has no hugepages of 2 MiB";
        return Some(match machine.wanted.is_huge() {
            true => Finding::fail(none).remedy("take other pages: leave out --pages"),
            false => Finding::ok(none.to_owned() + "; they are not requested"),
        });
    };
    if machine.wanted.is_huge() && machine.wanted.size % size != 0 {
        let found = format!("{} is not a multiple of 2 MiB", mib(machine.wanted.size));
        let whole = Size(machine.wanted.size.div_ceil(size).saturating_mul(size));
        let remedy = format!("take a multiple: --size {}", whole.flag());
        return Some(Finding::fail(found).remedy(remedy));
    }
    let want = machine.wanted.size.div_ceil(size);
    let found = format!("{free} of {reserved} are free");
    Some(match (machine.wanted.is_huge(), free >= want) {
        (_, true) => Finding::ok(found),
        (false, false) => Finding::ok(found + "; they are not requested"),
        (true, false) => Finding::fail(format!("{found}, {want} are needed")).remedy(format!(
            "sysctl -w vm.nr_hugepages={}",
            reserved + want - free
        )),
    })
}

/// Reports the limit on locked memory. Neither a udmabuf's pages (`udmabuf_create`) nor those of a
/// dmabuf that is sent (`msg_zerocopy_alloc`) count towards it.
fn report_memlock_limit(_: &Machine) -> Option<Finding> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    let soft = line.split_whitespace().next()?;
    let soft = soft
        .parse()
        .map_or_else(|_| soft.to_owned(), |bytes| Size(bytes).to_string());
    Some(Finding::ok(format!(
        "{soft}; a dmabuf does not count towards it"
    )))
}

/// Checks the limit on memory for notifications of sends in flight (`sock_omalloc`): without it a
/// send fails with `ENOBUFS`.
fn check_optmem_limit(machine: &Machine) -> Option<Finding> {
    const WANT: u64 = 64 << 10;
    let read = || read_number("/proc/sys/net/core/optmem_max");
    let bytes = machine.namespace.netns.run(read).ok()??;
    let found = Size(bytes).to_string();
    Some(if bytes >= WANT {
        Finding::ok(found)
    } else {
        let command = "sysctl -w net.core.optmem_max=131072";
        Finding::warn(format!("{found}: few sends fit in flight"))
            .remedy(machine.namespace.command(command))
    })
}

/// Checks the limit on receive buffers. The kernel counts whole niovs towards a receive buffer:
/// what all connections may hold must fit the pool, or the NIC has no niovs left.
fn check_receive_buffer_limit(machine: &Machine) -> Option<Finding> {
    const LEAST: u64 = 1 << 20;
    let read = || fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").ok();
    let limits = machine.namespace.netns.run(read).ok()??;
    let most: u64 = limits.split_whitespace().nth(2)?.parse().ok()?;
    let room = machine.wanted.size / 2;
    let found = format!(
        "{} at most, a pool of {}",
        mib(most),
        mib(machine.wanted.size)
    );
    let remedy = |max: u64| {
        let command = format!("sysctl -w net.ipv4.tcp_rmem='4096 131072 {max}'");
        machine.namespace.command(&command)
    };
    Some(if most < LEAST.min(room) {
        Finding::warn(found + ": a connection will be slow").remedy(remedy(room.min(32 << 20)))
    } else if most > room {
        Finding::warn(found + ": one connection can take more than half of it, and the NIC runs dry; `recv` sets a smaller buffer itself")
            .remedy(remedy(room))
    } else {
        Finding::ok(found)
    })
}

/// Formats a number of bytes in MiB, exact to a tenth.
fn mib(bytes: u64) -> String {
    if bytes % (1 << 20) == 0 {
        Size(bytes).to_string()
    } else {
        format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
    }
}
