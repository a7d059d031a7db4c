//! Handles to network namespaces, and a way to run code in a namespace.

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

/// Folder in which `ip netns` keeps the named namespaces.
const NAMED: &str = "/run/netns";
/// Path of the calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as the handle.
#[derive(Debug, Clone)]
pub struct NetNs {
    file: Arc<File>,
    path: PathBuf,
    label: String,
}

impl NetNs {
    /// Opens the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of opening `/proc/thread-self/ns/net`.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OWN), "current".to_owned())
    }

    /// Opens the network namespace that `ip netns add NAME` made.
    ///
    /// # Errors
    /// `ENOENT` where no namespace has that name.
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

    /// Opens the network namespace that a file such as `/proc/1/ns/net` stands for.
    ///
    /// # Errors
    /// Those of opening the file, `EINVAL` for a file that is not a namespace. Whether it is a
    /// network namespace is checked only by use.
    pub fn by_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::open(path, path.display().to_string())
    }

    /// Opens the network namespace that the process `pid` is in.
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

    /// Description of the namespace that does not hold it open. The namespace can be opened again
    /// only while the path that it was opened by leads there.
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

    /// Name of the namespace for messages: how it was opened.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether both handles are of the same network namespace.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn is_same(&self, other: &Self) -> Result<bool> {
        Ok(self.identity()? == other.identity()?)
    }

    /// Identity of the namespace while it lives, whatever its names: device and inode of its file.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let meta = self.file.metadata();
        let meta = meta.map_err(|e| Error::from_io("netns", &self.label, &e))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Runs `f` in the network namespace: on this thread if it is in there already, otherwise on a
    /// new thread that ends with the call. Sockets that `f` opens stay in the namespace wherever
    /// they are used.
    ///
    /// A namespace is a property of a thread (`setns`), so that of the caller stays. Entering
    /// another namespace needs `CAP_SYS_ADMIN`, staying in the current one needs nothing.
    ///
    /// # Errors
    /// Those of `setns`: `EPERM` without the capability, `EINVAL` for a file that is not a network
    /// namespace; `EAGAIN` if no thread can be started.
    #[doc(alias = "setns")]
    #[doc(alias = "CLONE_NEWNET")]
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

/// Opens a file only if it stands for a namespace. Another user may have replaced it, as a process
/// can under its `fd/N`: opening a FIFO waits for its other end, and opening a device may have
/// effects.
fn open_namespace(path: &Path) -> io::Result<File> {
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    // All namespaces are in one file system (`nsfs`).
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

    /// A file that replaced a namespace's is neither waited for nor opened.
    #[test]
    fn a_file_that_is_not_a_namespace_is_refused_at_once() {
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
