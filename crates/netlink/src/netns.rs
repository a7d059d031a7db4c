//! Network namespaces: named handles, and a way to run code inside of one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::{Error, Result, SeenNetNs};

/// Where `ip netns` keeps the names.
const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as this handle.
#[derive(Debug, Clone)]
pub struct NetNs {
    file: Arc<File>,
    path: PathBuf,
    label: String,
}

impl NetNs {
    /// The calling thread's.
    ///
    /// # Errors
    /// Those of opening `/proc/thread-self/ns/net`.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OWN), "current".to_owned())
    }

    /// The one that `ip netns add NAME` made.
    ///
    /// # Errors
    /// `ENOENT` where there is none of that name.
    pub fn by_name(name: &str) -> Result<Self> {
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(Error::invalid(
                "netns",
                name,
                "not the name of a network namespace",
            ));
        }
        Self::open(&Path::new(NAMED).join(name), name.to_owned())
    }

    /// The one that a file such as `/proc/1/ns/net` stands for.
    ///
    /// # Errors
    /// Those of opening the file, `EINVAL` for one that is no namespace. That it is one of another kind
    /// shows only when it is used.
    pub fn by_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::open(path, path.display().to_string())
    }

    /// The one that the process `pid` is in.
    ///
    /// # Errors
    /// `ENOENT` without such a process, `EACCES` where it is another user's.
    pub fn by_pid(pid: u32) -> Result<Self> {
        Self::open(
            Path::new(&format!("/proc/{pid}/ns/net")),
            format!("of process {pid}"),
        )
    }

    pub(crate) fn open(path: &Path, label: String) -> Result<Self> {
        match open_namespace(path) {
            Ok(file) => Ok(Self {
                file: Arc::new(file),
                path: path.to_owned(),
                label,
            }),
            Err(e) => Err(Error::from_io("netns", label, &e)),
        }
    }

    /// What is known of it without holding it open. It may be that it is not found again by that, as
    /// when it was opened by a path that is gone.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn seen(&self) -> Result<SeenNetNs> {
        Ok(SeenNetNs::new(
            self.identity()?,
            self.label.clone(),
            self.path.clone(),
        ))
    }

    /// What it was opened by, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether both are the same namespace.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn is_same(&self, other: &Self) -> Result<bool> {
        Ok(self.identity()? == other.identity()?)
    }

    /// What it is known by while it lives, whatever names it has: device and inode of its file.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let meta = self.file.metadata();
        let meta = meta.map_err(|e| Error::from_io("netns", &self.label, &e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Runs `f` inside: on this thread, if that is in this namespace, else on one of its own that ends
    /// with it. Sockets made there stay in this namespace wherever they are used.
    ///
    /// A namespace is a property of a thread (`setns`): the caller's is left alone. Entering
    /// another one needs `CAP_SYS_ADMIN`, staying in the current one needs nothing.
    ///
    /// # Errors
    /// Those of `setns`: `EPERM` without the capability, `EINVAL` for a file that is no network
    /// namespace; `EAGAIN` if no thread can be had.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let failed =
            |errno: nix::Error| Error::from_errno("enter netns", &self.label, errno as i32);
        if self.is_same(&Self::current()?)? {
            return Ok(f());
        }
        thread::scope(|scope| {
            let inside = || {
                setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(failed)?;
                Ok(f())
            };
            let thread = thread::Builder::new().name("netns".to_owned());
            let thread = thread.spawn_scoped(scope, inside);
            let thread = thread.map_err(|e| Error::from_io("enter netns", &self.label, &e))?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// Opens a file only if it is a namespace's. Another user may have put anything under the path meanwhile, as a
/// process can under its `fd/N`: opening a FIFO waits for its other end, and opening a device may do
/// something.
fn open_namespace(path: &Path) -> io::Result<File> {
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    // All of them are in one file system (`nsfs`).
    if found.metadata()?.dev() != fs::metadata(OWN)?.dev() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// What was put under a namespace's path meanwhile is neither waited for nor opened.
    #[test]
    fn what_is_no_namespace_is_refused_at_once() {
        let fifo = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let seen = SeenNetNs::new((1, 2), "box".to_owned(), fifo.clone());
        for open in [
            Box::new({
                let fifo = fifo.clone();
                move || NetNs::by_path(fifo)
            }) as Box<dyn FnOnce() -> Result<NetNs> + Send>,
            Box::new(move || seen.open()),
            Box::new(|| NetNs::by_path("/dev/null")),
        ] {
            let (done, opened) = mpsc::channel();
            thread::spawn(move || done.send(open()));
            let opened = opened.recv_timeout(Duration::from_secs(10));
            let error = opened.expect("it waits").unwrap_err();
            assert!(error.raw_os_error().is_some(), "{error}");
        }
        fs::remove_file(&fifo).unwrap();
    }
}
