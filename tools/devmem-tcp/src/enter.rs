//! Commands that run in another network namespace, to be pasted.

use netdev::{NetNs, shell_command, shell_word};

/// Prefix of a command line that runs in the network namespace, and the value of `--netns` that
/// names it; `None` for the current namespace.
pub(crate) fn enter(netns: &NetNs) -> Option<(String, String)> {
    let here = NetNs::current().and_then(|here| here.is_same(netns));
    if matches!(here, Ok(true)) {
        return None;
    }
    let label = netns.label();
    let named = NetNs::by_name(label).and_then(|named| named.is_same(netns));
    if matches!(named, Ok(true)) {
        let command = shell_command(["ip", "netns", "exec", label]);
        return Some((format!("{command} "), label.to_owned()));
    }
    let pid = label
        .strip_prefix("of process ")
        .or(label.strip_prefix("pid:"));
    let path = match pid {
        Some(pid) => format!("/proc/{pid}/ns/net"),
        None if label.contains('/') => label.to_owned(),
        // Its name is gone: a word stands for the path.
        None => "NETNS".to_owned(),
    };
    let net = format!("--net={path}");
    Some((format!("nsenter {} ", shell_word(&net)), path))
}

/// Command line that runs in the network namespace, to be pasted into a shell in the current one.
pub(crate) fn within(netns: &NetNs, command: &str) -> String {
    let (enter, _) = enter(netns).unwrap_or_default();
    format!("{enter}{command}")
}
