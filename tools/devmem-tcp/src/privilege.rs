//! What this process may do, and how it may do more.

use std::fs;

use netdev::shell_command;

/// `CAP_NET_ADMIN`, as a bit of a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// Whether `CAP_NET_ADMIN` is in effect, in whichever user namespace this is; true if that is not known.
pub(crate) fn has_net_admin() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_none_or(|set| set & NET_ADMIN != 0)
}

/// This process's command line with `sudo`, to be pasted.
pub(crate) fn with_sudo() -> String {
    let words: Vec<String> = std::env::args().collect();
    format!("sudo {}", shell_command(words.iter().map(String::as_str)))
}
