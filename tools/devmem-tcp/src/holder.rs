//! Processes that may have a binding, or listen at a port.
//!
//! A binding belongs to the netlink socket that made it, and the kernel names neither socket nor
//! process. Visible are processes that have a generic netlink socket of the netkit's namespace, and
//! a dmabuf.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use common::text::on_one_line;
use netdev::NetNs;

/// Number of the protocol `NETLINK_GENERIC`, as in `/proc/net/netlink`.
const GENERIC: &str = "16";

/// Lists the processes that may have a binding in a namespace: `devmem-tcp (pid 123)`.
pub(crate) fn find(netns: Option<&NetNs>) -> Vec<String> {
    let sockets = netns.and_then(|netns| netns.run(generic_sockets).ok());
    let Some(sockets) = sockets.filter(|sockets| !sockets.is_empty()) else {
        return Vec::new();
    };
    processes(|process| has_socket_and_dmabuf(process, &sockets))
}

/// Lists the processes that listen at an address, or at one that overlaps with it, in a namespace,
/// as [`find`] does.
pub(crate) fn listening(netns: &NetNs, at: SocketAddr) -> Vec<String> {
    let sockets = netns.run(|| tcp_listeners(at)).unwrap_or_default();
    if sockets.is_empty() {
        return Vec::new();
    }
    processes(|process| {
        names_of_open_files(process).any(|target| is_socket_among(&target, &sockets))
    })
}

/// Names and pids of the other processes for which `suits` is true.
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

/// Inodes of the sockets that listen at this address, or at any address if one of the two addresses
/// is unspecified, in this thread's namespace (`tcp4_seq_show`, `tcp6_seq_show`).
fn tcp_listeners(at: SocketAddr) -> HashSet<String> {
    const LISTEN: &str = "0A";
    let ip = at.ip().to_canonical();
    let mut inodes = HashSet::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        for row in table.unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = columns[..] else {
                continue;
            };
            let Some((other, port)) = parse_address(local) else {
                continue;
            };
            let overlap = other == ip || other.is_unspecified() || ip.is_unspecified();
            if overlap && port == at.port() {
                inodes.insert(inode.to_owned());
            }
        }
    }
    inodes
}

/// Parses an address in `/proc/net/tcp` and `tcp6`: words of 32 bits in the processor's byte order,
/// and the port.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(words.get(at..at + 8)?, 16).ok();
    let ip = match words.len() {
        8 => IpAddr::from(word(0)?.to_ne_bytes()),
        32 => {
            let mut bytes = [0; 16];
            for (to, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                to.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
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

/// Whether a process has open one of the sockets, and a dmabuf.
fn has_socket_and_dmabuf(process: &Path, sockets: &HashSet<String>) -> bool {
    let (mut socket, mut dmabuf) = (false, false);
    for target in names_of_open_files(process) {
        socket |= is_socket_among(&target, sockets);
        dmabuf |= target.starts_with("/dmabuf:");
    }
    socket && dmabuf
}

/// Names that the kernel gives to a process's open files.
fn names_of_open_files(process: &Path) -> impl Iterator<Item = String> + use<> {
    let fds = fs::read_dir(process.join("fd")).into_iter().flatten();
    let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.map(|target| target.to_string_lossy().into_owned())
}

/// Whether an open file is a socket with one of these inodes.
fn is_socket_among(target: &str, sockets: &HashSet<String>) -> bool {
    let inode = target.strip_prefix("socket:[");
    let inode = inode.and_then(|rest| rest.strip_suffix(']'));
    inode.is_some_and(|inode| sockets.contains(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_kernels_tables() {
        let is = |text: &str, at: &str| {
            let at: SocketAddr = at.parse().unwrap();
            assert_eq!(parse_address(text), Some((at.ip(), at.port())), "{text}");
        };
        if cfg!(target_endian = "little") {
            is("020200C0:1388", "192.0.2.2:5000");
            is("0000000000000000FFFF0000020200C0:1388", "192.0.2.2:5000");
            is("B80D0120000000000000000002000000:0016", "[2001:db8::2]:22");
        }
        is("00000000:0001", "0.0.0.0:1");
        for odd in [
            "",
            ":",
            "0",
            "00000000",
            "0000000g:1388",
            "00000000:12345",
            "é0000000:1",
        ] {
            assert_eq!(parse_address(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_listener_is_found_by_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(tcp_listeners(at).len(), 1);
        let other = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
        assert!(tcp_listeners(other).is_empty());
        let any = SocketAddr::new("::".parse().unwrap(), at.port());
        assert_eq!(tcp_listeners(any).len(), 1);
    }
}
