//! Remedies for a NIC that can't be set up or restored.

use std::io;

use netdev::shell_word;
use nic::{Error, RunDirError};

/// Returns a one-line remedy for an error of a NIC's set-up, where more is known than the kernel's
/// words. Its commands begin with `within`, which enters the NIC's namespace and ends with a space;
/// empty for the current one.
pub fn of_nic(error: &Error, within: &str) -> Option<String> {
    Some(match error {
        Error::QueueTaken { device, .. } => {
            format!(
                "`{within}devmem-tcp show {}` lists the queues: choose another one",
                shell_word(device)
            )
        }
        Error::OtherRunDir { .. } => {
            "use the same one, DEVMEM_TCP_RUNTIME_DIR=DIR, in a mount namespace that has it; or end \
             that process first"
                .to_owned()
        }
        Error::FlowTaken {
            device,
            place,
            owner,
            ..
        } => match owner {
            Some(Some(_)) => "end that receiver, or take another address or port".to_owned(),
            Some(None) => format!(
                "`{within}devmem-tcp restore {}` ends what was applied; or take another address or port",
                shell_word(device)
            ),
            None => format!(
                "take another address or port; if no other program needs that rule: {within}ethtool -N {} delete {place}",
                shell_word(device)
            ),
        },
        Error::NotRestored { device, .. } => {
            format!("`{within}devmem-tcp restore {}` tries again", shell_word(device))
        }
        Error::Hidden { device, .. } => format!(
            "run it where the NIC can be seen, as root of the host; `devmem-tcp restore --force {}` \
             forgets what is noted",
            shell_word(device)
        ),
        Error::UnknownBoot { device } => format!(
            "`{within}devmem-tcp restore {}` where it was noted puts the NIC back; so does \
             `{within}devmem-tcp restore --force {}`, if the machine was not booted since",
            shell_word(device),
            shell_word(device)
        ),
        Error::TableIsSet {
            device,
            needed: false,
            ..
        } => format!("go back to the driver's own table: {within}ethtool -X {} default", shell_word(device)),
        Error::TableIsSet { device, .. } => format!(
            "end what has queues of it, which `{within}devmem-tcp show {}` lists, and set the channels first",
            shell_word(device)
        ),
        Error::NotKept { .. } => "see the driver's log: dmesg".to_owned(),
        Error::NoOtherQueue { device } => {
            format!(
                "give it more queues: {within}ethtool -L {} combined N",
                shell_word(device)
            )
        }
        Error::NoSuchQueue { device, .. } => format!(
            "name another; `{within}ethtool -l {}` says how many there can be",
            shell_word(device)
        ),
        Error::NoContexts { .. } => {
            "take one queue, or an address for each queue: --listen again, with another port"
                .to_owned()
        }
        Error::RunDir(RunDirError::Locked { path }) => format!(
            "see who holds it: lslocks -u -o PID,COMMAND,PATH | grep {}; then wait for it, or end it",
            shell_word(&path.to_string_lossy())
        ),
        Error::RunDir(RunDirError::Damaged { path, .. }) => format!(
            "it said what was changed on a NIC: put that right (ethtool -g, -l, -x, -n IF), then \
             rm {}",
            shell_word(&path.to_string_lossy())
        ),
        Error::RunDir(RunDirError::Io { path, source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS)
            ) =>
        {
            format!(
                "make room: df {}; what is noted there still counts, and `devmem-tcp restore` puts it right",
                shell_word(&path.parent().unwrap_or(path).to_string_lossy())
            )
        }
        Error::RunDir(RunDirError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            "run it as root, or name a runtime directory of your own: \
             DEVMEM_TCP_RUNTIME_DIR=DIR"
                .to_owned()
        }
        Error::RunDir(RunDirError::Io { .. } | RunDirError::NotOurs { .. }) => {
            "name another runtime directory: DEVMEM_TCP_RUNTIME_DIR=DIR".to_owned()
        }
        _ => return None,
    })
}
