//! Processes that may have a binding.
//!
//! A binding belongs to the netlink socket that made it, and the kernel names neither socket nor
//! process. Visible are processes that have a generic netlink socket of the netkit's namespace, and
//! a dmabuf.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use common::text::on_one_line;
use netdev::NetNs;

/// Number of `NETLINK_GENERIC`, as in `/proc/net/netlink`.
const GENERIC: &str = "16";

/// Lists the processes that may have the binding: `devmem-tcp (pid 123)`.
pub(crate) fn find(netns: Option<&NetNs>) -> Vec<String> {
    let sockets = netns.and_then(|netns| netns.run(generic_sockets).ok());
    let Some(sockets) = sockets.filter(|sockets| !sockets.is_empty()) else {
        return Vec::new();
    };
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() && holds(&entry.path(), &sockets) {
            let comm = fs::read(entry.path().join("comm")).unwrap_or_default();
            let comm = String::from_utf8_lossy(&comm);
            holders.push(format!("{} (pid {pid})", on_one_line(comm.trim())));
        }
    }
    holders
}

/// Inodes of the generic netlink sockets of this thread's namespace (`netlink_native_seq_show`).
fn generic_sockets() -> HashSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    let rows = table.lines().skip(1).map(str::split_whitespace);
    rows.filter_map(|mut row| {
        let (protocol, inode) = (row.nth(1)?, row.last()?);
        (protocol == GENERIC).then(|| inode.to_owned())
    })
    .collect()
}

/// Whether a process has one of the sockets, and a dmabuf.
fn holds(process: &Path, sockets: &HashSet<String>) -> bool {
    let (mut socket, mut dmabuf) = (false, false);
    for fd in fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(target) = fs::read_link(fd.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        socket |= inode.is_some_and(|inode| sockets.contains(inode));
        dmabuf |= target.starts_with("/dmabuf:");
    }
    socket && dmabuf
}
