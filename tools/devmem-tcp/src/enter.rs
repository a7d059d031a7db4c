//! How a command that is shown to be pasted gets into a network namespace.

use netdev::{NetNs, shell_command, shell_word};

/// What a command line begins with that runs in this namespace, and what `--netns` takes for it;
/// `None` where that is the present one.
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
    let path = match label.contains('/') {
        true => label.to_owned(),
        false => {
            let digits: String = label.chars().filter(char::is_ascii_digit).collect();
            format!("/proc/{digits}/ns/net")
        }
    };
    let net = format!("--net={path}");
    Some((format!("nsenter {} ", shell_word(&net)), path))
}

/// A command line, to be pasted here, that runs in this namespace.
pub(crate) fn within(netns: &NetNs, command: &str) -> String {
    let (enter, _) = enter(netns).unwrap_or_default();
    format!("{enter}{command}")
}
