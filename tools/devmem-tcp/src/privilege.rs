//! Privileges of this process, and its command line with `sudo`.

use std::fs;

use netdev::shell_command;

/// Bit of `CAP_NET_ADMIN` in a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// Whether the process has `CAP_NET_ADMIN`, in whichever user namespace this is; true if that is
/// not known.
pub(crate) fn has_net_admin() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_none_or(|set| set & NET_ADMIN != 0)
}

/// Whether the process is root, at least in its own user namespace: `sudo` would not help.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Command line of this process with `sudo` before it, to be pasted into a shell.
pub(crate) fn with_sudo() -> String {
    let mut words: Vec<String> = std::env::args().collect();
    // `sudo` looks for programs in folders of its own.
    if let (Some(first), Ok(path)) = (words.first_mut(), std::env::current_exe()) {
        *first = path.display().to_string();
    }
    format!("sudo {}", shell_command(words.iter().map(String::as_str)))
}
