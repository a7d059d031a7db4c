//! Detection that a network namespace was deleted: by its name, its path, or its process.
//!
//! A receiver holds sockets in the namespace that it receives in, so the kernel keeps the namespace
//! while the receiver runs. What ends is the name that the user gave: the file in `/run/netns` (`ip
//! netns delete` unmounts and unlinks it), a path that leads elsewhere, or a process that exits.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netdev::NetNs;

use crate::args::NetNsArg;

/// Directory in which `ip netns` keeps the names of namespaces.
const NAMED: &str = "/run/netns";

/// Name, path or process that stands for a network namespace, to be watched for its end.
#[derive(Debug)]
pub(super) enum NetnsEnd {
    /// File that stands for the namespace: path, device and inode numbers, and name for messages.
    File {
        path: PathBuf,
        identity: (u64, u64),
        name: String,
    },
    /// Process in the namespace, by its open /proc folder, which no later process of that pid gets.
    Process { folder: File, pid: u32 },
    /// Namespace of the current process, which has no name that could be deleted.
    Nothing,
}

impl NetnsEnd {
    pub(super) fn of(arg: Option<&NetNsArg>, netns: &NetNs) -> netdev::Result<Self> {
        let identity = netns.identity()?;
        let file = |path: PathBuf, name: String| Self::File {
            path,
            identity,
            name,
        };
        Ok(match arg {
            Some(NetNsArg::Name(name)) => file(Path::new(NAMED).join(name), name.clone()),
            Some(NetNsArg::Path(path)) => file(path.into(), path.clone()),
            Some(NetNsArg::Pid(pid)) => match File::open(format!("/proc/{pid}")) {
                Ok(folder) => Self::Process { folder, pid: *pid },
                Err(error) => {
                    return Err(netdev::Error::from_io("netns", netns.label(), &error));
                }
            },
            None => match name_of(identity) {
                Some(name) => file(Path::new(NAMED).join(&name), name),
                None => Self::Nothing,
            },
        })
    }

    /// Describes how the namespace ended; `None` while its name, path or process exists.
    pub(super) fn gone(&self) -> Option<String> {
        match self {
            Self::File {
                path,
                identity,
                name,
            } => match fs::metadata(path) {
                Ok(meta) if (meta.dev(), meta.ino()) == *identity => None,
                // Unmounted, not yet unlinked; or made anew under the same name.
                Ok(_) => Some(format!("namespace {name} was deleted")),
                Err(error) if is_gone(&error) => Some(format!("namespace {name} was deleted")),
                Err(_) => None,
            },
            Self::Process { folder, pid } => match fs::metadata(namespace_in(folder.as_raw_fd())) {
                Err(error) if is_gone(&error) => Some(format!(
                    "process {pid}, by which its namespace was named, has ended"
                )),
                _ => None,
            },
            Self::Nothing => None,
        }
    }
}

/// Path of a process's network namespace, by the open /proc folder of the process. The folder of a
/// process that has exited is empty, also before the process is reaped.
fn namespace_in(folder: RawFd) -> String {
    format!("/proc/self/fd/{folder}/ns/net")
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Finds the `ip netns` name of the namespace with this device and inode; `None` if it has no name.
fn name_of(identity: (u64, u64)) -> Option<String> {
    let mut entries = fs::read_dir(NAMED).ok()?.flatten();
    let found = entries.find(|entry| {
        let meta = fs::metadata(entry.path());
        meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == identity)
    });
    found.and_then(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_is_an_end() {
        let folder = std::env::temp_dir().join(format!("netns-end-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("name");
        std::os::unix::fs::symlink("/proc/self/ns/net", &path).unwrap();
        let here = NetNs::current().unwrap();
        let arg = NetNsArg::Path(path.display().to_string());
        let end = NetnsEnd::of(Some(&arg), &here).unwrap();
        assert_eq!(end.gone(), None);
        fs::remove_file(&path).unwrap();
        assert!(end.gone().unwrap().contains("was deleted"));
        File::create(&path).unwrap();
        assert!(end.gone().is_some());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_process_that_has_exited_is_an_end_before_it_is_reaped() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let here = NetNs::current().unwrap();
        let end = NetnsEnd::of(Some(&NetNsArg::Pid(child.id())), &here).unwrap();
        assert_eq!(end.gone(), None);
        drop(child.stdin.take());
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while end.gone().is_none() {
            assert!(std::time::Instant::now() < limit);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(end.gone().unwrap().contains("has ended"));
    }
}
