//! Processes that may have a binding, or listen at a port.
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
    processes(|process| holds(process, &sockets))
}

/// Lists the processes that listen at a TCP port in this namespace, as [`find`] does.
pub(crate) fn listening(netns: &NetNs, port: u16) -> Vec<String> {
    let sockets = netns.run(|| tcp_listeners(port)).unwrap_or_default();
    if sockets.is_empty() {
        return Vec::new();
    }
    processes(|process| targets(process).any(|target| is_one_of(&target, &sockets)))
}

/// Names and numbers of the other processes that suit.
fn processes(suits: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() && suits(&entry.path()) {
            let comm = fs::read(entry.path().join("comm")).unwrap_or_default();
            let comm = String::from_utf8_lossy(&comm);
            found.push(format!("{} (pid {pid})", on_one_line(comm.trim())));
        }
    }
    found
}

/// Inodes of the sockets that listen at this port in this thread's namespace (`tcp4_seq_show`).
fn tcp_listeners(port: u16) -> HashSet<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let mut inodes = HashSet::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        for row in table.unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = row.split_whitespace().collect();
            if let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = columns[..] {
                if local.ends_with(&suffix) {
                    inodes.insert(inode.to_owned());
                }
            }
        }
    }
    inodes
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
    for target in targets(process) {
        socket |= is_one_of(&target, sockets);
        dmabuf |= target.starts_with("/dmabuf:");
    }
    socket && dmabuf
}

/// What a process has open, by the names that the kernel gives.
fn targets(process: &Path) -> impl Iterator<Item = String> + use<> {
    let fds = fs::read_dir(process.join("fd")).into_iter().flatten();
    let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.map(|target| target.to_string_lossy().into_owned())
}

/// Whether an open file is a socket with one of these inodes.
fn is_one_of(target: &str, sockets: &HashSet<String>) -> bool {
    let inode = target.strip_prefix("socket:[");
    let inode = inode.and_then(|rest| rest.strip_suffix(']'));
    inode.is_some_and(|inode| sockets.contains(inode))
}
