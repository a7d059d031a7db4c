//! Search for the network namespaces that this process can see.
//!
//! A namespace lives while a process is in it, a mount or a descriptor keeps it, or a socket
//! belongs to it. The first three can be found in `/proc`: see [`NetNs::visible`]. No namespace
//! that is found is held open.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, NetNs, Result};

/// Folder in which `ip netns` keeps the named namespaces.
const NAMED: &str = "/run/netns";
/// Number of paths to a namespace that are kept: some may be gone by the time it is opened.
const MAX_PATHS: usize = 4;

/// A network namespace that a search found: its identity and the paths to it. It is not held open,
/// so it may end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenNetNs {
    identity: (u64, u64),
    label: String,
    paths: Vec<PathBuf>,
}

impl SeenNetNs {
    pub(crate) fn new(identity: (u64, u64), label: String, path: PathBuf) -> Self {
        Self {
            identity,
            label,
            paths: vec![path],
        }
    }

    /// Name of the namespace for messages: `current`, the name of `ip netns`, `pid:PID`, or the
    /// path of a mount or of a descriptor.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Device and inode of the namespace's file: see [`NetNs::identity`].
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Opens the network namespace.
    ///
    /// # Errors
    /// `ENOENT` if no path leads to the namespace any more: it has ended or is out of sight. Those
    /// of opening the file.
    pub fn open(&self) -> Result<NetNs> {
        let mut failed = None;
        for path in &self.paths {
            match NetNs::open(path, self.label.clone()) {
                Ok(netns) if netns.identity()? == self.identity => return Ok(netns),
                Ok(_) => {}
                // Nothing is there any more, or something else.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::from_errno("netns", &self.label, libc::ENOENT)))
    }
}

/// Network namespaces that this process can see.
#[derive(Debug)]
pub struct VisibleNetNs {
    /// Namespaces that were found, each once, the current one first.
    pub namespaces: Vec<SeenNetNs>,
    /// Error of a process that could not be looked into, so that there may be more namespaces.
    pub hidden: Option<Error>,
}

impl NetNs {
    /// Finds the namespaces that this process can see: the current namespace, namespaces with a
    /// name, namespaces of processes, and namespaces that a mount keeps in the mount namespace of
    /// any process, as container engines make them. Without privilege the namespaces of other
    /// users' processes are hidden.
    ///
    /// # Errors
    /// Those of [`NetNs::current`], and of reading `/proc`. Namespaces that end meanwhile are left
    /// out.
    pub fn visible() -> Result<VisibleNetNs> {
        NetNsSearch::new()?.run(false)
    }

    /// Finds the namespaces of [`NetNs::visible`], and namespaces that a process holds open. It
    /// takes longer: every descriptor of every process is looked at.
    ///
    /// # Errors
    /// As for [`NetNs::visible`].
    pub fn visible_or_held() -> Result<VisibleNetNs> {
        NetNsSearch::new()?.run(true)
    }
}

/// State of a search for network namespaces.
struct NetNsSearch {
    /// Device number of the file system of namespaces (nsfs).
    device: u64,
    found: BTreeMap<u64, usize>,
    namespaces: Vec<SeenNetNs>,
    mounts: HashSet<u64>,
    hidden: Option<Error>,
}

impl NetNsSearch {
    fn new() -> Result<Self> {
        let here = NetNs::current()?;
        let identity = here.identity()?;
        let mut search = Self {
            device: identity.0,
            found: BTreeMap::new(),
            namespaces: Vec::new(),
            mounts: HashSet::new(),
            hidden: None,
        };
        let path = PathBuf::from("/proc/thread-self/ns/net");
        search.add(identity.1, path, here.label());
        Ok(search)
    }

    fn run(mut self, descriptors: bool) -> Result<VisibleNetNs> {
        for name in file_names(Path::new(NAMED)).unwrap_or_default() {
            let path = Path::new(NAMED).join(&name);
            // A name without a namespace mounted on it is a file of another device.
            if let Ok(meta) = fs::metadata(&path) {
                if meta.dev() == self.device {
                    self.add(meta.ino(), path, &name.to_string_lossy());
                }
            }
        }
        let names = file_names(Path::new("/proc"));
        let names = names.map_err(|e| Error::from_io("list", "/proc", &e))?;
        let numbers = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        let mut pids: Vec<u32> = numbers.collect();
        pids.sort_unstable();
        for &pid in &pids {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let ino = fs::metadata(&path).map(|meta| meta.ino());
            if let Some(ino) = self.note_if_hidden(pid, ino) {
                self.add(ino, path, &format!("pid:{pid}"));
            }
        }
        self.add_mounted("self", "");
        for &pid in &pids {
            let of = pid.to_string();
            self.add_mounted(&of, &format!("/proc/{pid}/root"));
        }
        if descriptors {
            for &pid in &pids {
                self.add_held_open(pid);
            }
        }
        Ok(VisibleNetNs {
            namespaces: self.namespaces,
            hidden: self.hidden,
        })
    }

    /// Adds the namespaces that are mounted in the mount namespace of a process, whose root is at
    /// `root`.
    fn add_mounted(&mut self, process: &str, root: &str) {
        let namespace = fs::metadata(format!("/proc/{process}/ns/mnt"));
        // A hidden process has been noted before.
        let Ok(namespace) = namespace else { return };
        if !self.mounts.insert(namespace.ino()) {
            return;
        }
        let Ok(table) = fs::read(format!("/proc/{process}/mountinfo")) else {
            return;
        };
        for line in table.split(|byte| *byte == b'\n') {
            if let Some((ino, mount_point)) = parse_mountinfo_line(line) {
                let mut path = OsString::from(root);
                path.push(&mount_point);
                let path = PathBuf::from(path);
                let label = path.to_string_lossy().into_owned();
                self.add(ino, path, &label);
            }
        }
    }

    /// Adds the namespaces that a process has a descriptor of.
    fn add_held_open(&mut self, pid: u32) {
        let folder = PathBuf::from(format!("/proc/{pid}/fd"));
        let Some(names) = self.note_if_hidden(pid, file_names(&folder)) else {
            return;
        };
        for name in names {
            let path = folder.join(name);
            let target = fs::read_link(&path);
            if let Some(ino) = target.ok().and_then(|it| inode_of(it.as_os_str())) {
                let label = path.to_string_lossy().into_owned();
                self.add(ino, path, &label);
            }
        }
    }

    /// Remembers the first process that could not be looked into. A process that has ended hides no
    /// namespace.
    fn note_if_hidden<T>(&mut self, pid: u32, answer: std::io::Result<T>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let ended =
            error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
        if !ended && self.hidden.is_none() {
            let object = format!("of process {pid}");
            self.hidden = Some(Error::from_io("netns", object, &error));
        }
        None
    }

    fn add(&mut self, ino: u64, path: PathBuf, label: &str) {
        if let Some(known) = self
            .found
            .get(&ino)
            .and_then(|at| self.namespaces.get_mut(*at))
        {
            if known.paths.len() < MAX_PATHS && !known.paths.contains(&path) {
                known.paths.push(path);
            }
            return;
        }
        self.found.insert(ino, self.namespaces.len());
        self.namespaces.push(SeenNetNs {
            identity: (self.device, ino),
            label: label.to_owned(),
            paths: vec![path],
        });
    }
}

/// File names in a folder, sorted.
fn file_names(folder: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

/// Parses a line of `mountinfo` to the inode and the mount point of a network namespace
/// (`show_mountinfo`, `ns_dname`): `42 29 0:4 net:[4026532281] /run/netns/box rw - nsfs nsfs rw`.
fn parse_mountinfo_line(line: &[u8]) -> Option<(u64, OsString)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let mount_point = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-");
    if rest.nth(1)? != b"nsfs" {
        return None;
    }
    Some((inode_of(OsStr::from_bytes(root))?, unescape(mount_point)))
}

/// Parses the inode in `net:[4026532281]`.
fn inode_of(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?.strip_prefix("net:[")?;
    text.strip_suffix(']')?.parse().ok()
}

/// Replaces the kernel's escapes in a path (`mangle_path`): `\040` is a blank.
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let code = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        let (byte, after) = match code {
            Some(code) => (code, after.get(3..).unwrap_or_default()),
            None => (byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_parsed() {
        let line = br"42 29 0:4 net:[4026532281] /run/a\040b\134 rw shared:7 - nsfs nsfs rw";
        let found = parse_mountinfo_line(line);
        assert_eq!(found, Some((4_026_532_281, OsString::from("/run/a b\\"))));
        for other in [
            &br"42 29 0:4 mnt:[4026532281] /run/x rw - nsfs nsfs rw"[..],
            br"42 29 0:4 net:[4026532281] /run/x rw - tmpfs tmpfs rw",
            b"42 29 0:4",
            b"",
        ] {
            assert_eq!(parse_mountinfo_line(other), None);
        }
        assert_eq!(unescape(br"\04"), OsString::from(r"\04"));
        assert_eq!(unescape(br"\777"), OsString::from(r"\777"));
    }

    #[test]
    fn the_current_namespace_is_first_and_listed_once() {
        let here = NetNs::current().unwrap().identity().unwrap();
        let seen = NetNs::visible_or_held().unwrap().namespaces;
        assert_eq!(seen[0].identity(), here);
        assert_eq!(seen[0].label(), "current");
        assert!(seen.iter().skip(1).all(|other| other.identity() != here));
        assert!(
            seen[0]
                .open()
                .unwrap()
                .is_same(&NetNs::current().unwrap())
                .unwrap()
        );
    }
}
