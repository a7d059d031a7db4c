//! The runtime directory: JSON files that outlive their process, changed under one lock.
//!
//! It is `/run/devmem-tcp`, or `$DEVMEM_TCP_RUNTIME_DIR`. A file is replaced as a whole (written
//! beside it, then renamed), so that a kill during the write leaves the old one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::AccessFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Default path of the runtime directory.
const DEFAULT: &str = "/run/devmem-tcp";
/// Environment variable with another path.
const VARIABLE: &str = "DEVMEM_TCP_RUNTIME_DIR";
/// Name of the lock file, which is empty and stays.
const LOCK: &str = "lock";
/// The id of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Prefixes of our files: NICs and leases.
const WRITTEN: [&str; 2] = ["nic-", "lease-"];
/// Suffix of a file that is not yet renamed.
const BESIDE: &str = ".tmp";
/// Limit of waiting for the lock: longer than setting any NIC up takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Error of the runtime directory or a file in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The file system refused.
    #[error("{op} {}", path.display())]
    Io {
        /// Operation.
        op: &'static str,
        /// File.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// Other users may write there, so that its contents can't be trusted.
    #[error("{}: others than its owner may write there, or it belongs to another user", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// A process has held the lock for too long.
    #[error("{}: locked by another process for {} s", path.display(), PATIENCE.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// A file's contents are damaged, or of a later version.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

type Result<T> = std::result::Result<T, RunDirError>;

/// The runtime directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Opens the system's runtime directory, and makes it if it does not exist.
    ///
    /// # Errors
    /// [`RunDirError::Io`] where it cannot be made, [`RunDirError::NotOurs`].
    pub fn open() -> Result<Self> {
        Self::at(Self::place())
    }

    /// Opens the system's runtime directory, if it exists, to read.
    ///
    /// # Errors
    /// As for [`RunDir::open`].
    pub fn existing() -> Result<Option<Self>> {
        let path = Self::place();
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => Self::check(path).map(Some),
        }
    }

    /// Opens this directory, and makes it if it does not exist.
    ///
    /// # Errors
    /// As for [`RunDir::open`].
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.map_err(|source| failed("mkdir", &path, source))?;
        Self::check(path)
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the directory until the returned value is dropped.
    ///
    /// # Errors
    /// [`RunDirError::Locked`] where that takes more than 30 s.
    pub fn lock(&self) -> Result<Locked> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = self.try_lock()? {
                self.sweep();
                return Ok(Locked {
                    dir: self.clone(),
                    _lock: lock,
                });
            }
            if Instant::now() > end {
                let path = self.path.join(LOCK);
                return Err(RunDirError::Locked { path });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes the lock if it is free. Any process that can open the file can hold its lock, so the file
    /// is for its owner alone. A file that others could open, as earlier versions made it, is replaced by the
    /// first process that locks it: another user's lock on the old file then means nothing.
    fn try_lock(&self) -> Result<Option<Flock<File>>> {
        self.lock_opened(self.open_lock()?)
    }

    /// Opens the lock file, and takes it from other users; whether it was theirs to open before.
    fn open_lock(&self) -> Result<Opened> {
        let path = self.path.join(LOCK);
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let file = opened.map_err(|source| failed("open", &path, source))?;
        let meta = file.metadata();
        let meta = meta.map_err(|source| failed("stat", &path, source))?;
        let loose = meta.permissions().mode() & 0o077 != 0;
        if loose {
            // From now on no other user can open the file.
            let mended = file.set_permissions(fs::Permissions::from_mode(0o600));
            mended.map_err(|source| failed("chmod", &path, source))?;
        }
        let number = (meta.dev(), meta.ino());
        Ok(Opened {
            file,
            number,
            loose,
        })
    }

    /// Takes the lock of this file, if it is free and the file still has its name.
    fn lock_opened(&self, opened: Opened) -> Result<Option<Flock<File>>> {
        let path = self.path.join(LOCK);
        let Opened {
            file,
            number,
            loose,
        } = opened;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EAGAIN | Errno::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(failed("flock", &path, errno.into())),
        };
        let there = path.symlink_metadata().ok();
        if there.map(|it| (it.dev(), it.ino())) != Some(number) {
            // Another process has replaced it meanwhile: the lock is that of the new file.
            return Ok(None);
        }
        if loose {
            // A process that waits for the old file's lock finds another file under that name.
            fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            return Ok(None);
        }
        Ok(Some(lock))
    }

    /// Removes unfinished files of killed processes and lock files of ended ones, and nothing else.
    fn sweep(&self) {
        let unfinished = |name: &str| {
            let whole = name.strip_suffix(BESIDE);
            whole.is_some_and(|it| {
                it.ends_with(".json") && WRITTEN.iter().any(|p| it.starts_with(p))
            })
        };
        let is_let_go = |name: &str, path: &Path| {
            let free = || {
                let file = File::open(path).ok()?;
                Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
            };
            name.starts_with(WRITTEN[0]) && name.ends_with(".lock") && free().is_some()
        };
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            if !unfinished(name) && !is_let_go(name, &path) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!("{}: {error}", path.display());
            }
        }
    }

    /// Fails as [`RunDir::open`] and [`Locked::write`] would, for who only looks: what it makes to find
    /// out, it removes at once.
    ///
    /// # Errors
    /// As for [`RunDir::open`]; [`RunDirError::Io`] where nothing can be written.
    pub fn check_writable() -> Result<PathBuf> {
        let place = Self::place();
        let path = std::path::absolute(&place).map_err(|source| failed("find", &place, source))?;
        let probe = format!(".devmem-tcp-{}", std::process::id());
        if path.symlink_metadata().is_ok() && !path.is_file() {
            let path = Self::check(path)?.path;
            let lock = path.join(LOCK);
            match nix::unistd::access(&lock, AccessFlags::W_OK) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed("open", &lock, errno.into())),
            }
            let probe = path.join(probe);
            let written = fs::write(&probe, [b'\n'; 4096]);
            let _never_made = fs::remove_file(&probe);
            written.map_err(|source| failed("write", &probe, source))?;
            return Ok(path);
        }
        let there = path.ancestors().find(|it| it.symlink_metadata().is_ok());
        let probe = there.unwrap_or(Path::new("/")).join(probe);
        let made = DirBuilder::new().mode(0o700).create(&probe);
        let written = made.and_then(|()| fs::write(probe.join(LOCK), [b'\n'; 4096]));
        let _never_made = fs::remove_dir_all(&probe);
        written.map_err(|source| failed("mkdir", &path, source))?;
        Ok(path)
    }

    /// Reads a file without the lock; `None` if it doesn't exist.
    ///
    /// # Errors
    /// [`RunDirError::Damaged`] where that is no `T`.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read(&self.path.join(name))
    }

    /// Names of the files that begin with `prefix` and end with `.json`, sorted.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        names(&self.path, prefix)
    }

    fn place() -> PathBuf {
        std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
    }

    fn check(path: PathBuf) -> Result<Self> {
        let meta = fs::metadata(&path).map_err(|source| failed("stat", &path, source))?;
        if !meta.is_dir() {
            return Err(failed("open", &path, Errno::ENOTDIR.into()));
        }
        let owner = nix::unistd::geteuid().as_raw();
        if meta.permissions().mode() & 0o022 != 0 || (meta.uid() != owner && meta.uid() != 0) {
            return Err(RunDirError::NotOurs { path });
        }
        // A guardian has another working directory.
        let path = fs::canonicalize(&path).map_err(|source| failed("find", &path, source))?;
        Ok(Self { path })
    }
}

/// A lock file that is open.
struct Opened {
    file: File,
    /// Device and inode.
    number: (u64, u64),
    /// Whether other users could open it.
    loose: bool,
}

/// The runtime directory under its lock.
#[derive(Debug)]
pub struct Locked {
    dir: RunDir,
    _lock: Flock<File>,
}

impl Deref for Locked {
    type Target = RunDir;

    fn deref(&self) -> &RunDir {
        &self.dir
    }
}

impl Locked {
    /// Replaces a file as a whole.
    ///
    /// # Errors
    /// Those of the file system; the old file is kept then.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.dir.path.join(name);
        let beside = self.dir.path.join(format!("{name}{BESIDE}"));
        let written = || -> io::Result<()> {
            let mut text = serde_json::to_vec(value)?;
            text.push(b'\n');
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o644)
                .open(&beside)?;
            file.write_all(&text)?;
            // No effect on a tmpfs; elsewhere it survives a crash of the machine.
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        written().map_err(|source| failed("write", &path, source))
    }

    /// Makes a file that only its owner may open, and locks it.
    ///
    /// # Errors
    /// Those of the file system, and of a file of that name that exists.
    pub fn hold(&self, name: &str) -> Result<Flock<File>> {
        let path = self.dir.path.join(name);
        let made = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let file = made.map_err(|source| failed("open", &path, source))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        held.map_err(|(_, errno)| failed("flock", &path, errno.into()))
    }

    /// Removes a file, if it exists.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.path.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path, source))
            }
            _ => Ok(()),
        }
    }
}

/// The kernel's id of this boot: journals of another boot are outdated.
///
/// # Errors
/// Those of reading the file.
pub fn boot_id() -> Result<String> {
    let path = Path::new(BOOT_ID);
    let text = fs::read_to_string(path).map_err(|source| failed("read", path, source))?;
    Ok(text.trim().to_owned())
}

/// Whether the id of the boot is another file than the kernel's, mounted over that: a container's, random at each
/// of its starts.
///
/// # Errors
/// Those of looking at both files.
pub fn is_boot_id_masked() -> Result<bool> {
    let device = |path: &str| {
        let path = Path::new(path);
        let meta = fs::metadata(path).map_err(|source| failed("stat", path, source))?;
        Ok(meta.dev())
    };
    Ok(device("/proc")? != device(BOOT_ID)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| RunDirError::Damaged {
                    path: path.to_owned(),
                    source,
                })
        }
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

fn names(dir: &Path, prefix: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(|source| failed("read", dir, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| failed("read", dir, source))?;
        names.extend(entry.file_name().into_string());
    }
    names.retain(|name| name.starts_with(prefix) && name.ends_with(".json"));
    names.sort_unstable();
    Ok(names)
}

fn failed(op: &'static str, path: &Path, source: io::Error) -> RunDirError {
    RunDirError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A runtime directory for one test, removed with it.
    pub(crate) struct Scratch(pub(crate) RunDir, #[expect(dead_code)] tempfile::TempDir);

    impl Scratch {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self(RunDir::at(dir.path()).unwrap(), dir)
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let scratch = Scratch::new();
        let locked = scratch.0.lock().unwrap();
        assert_eq!(locked.read::<Vec<u32>>("a.json").unwrap(), None);
        locked.write("a.json", &vec![1, 2, 3]).unwrap();
        // Whoever was killed while he wrote left this.
        fs::write(scratch.0.path().join("a.json.tmp"), "[4").unwrap();
        assert_eq!(locked.read("a.json").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(locked.names("a").unwrap(), ["a.json"]);
        locked.write("a.json", &vec![4]).unwrap();
        assert_eq!(locked.read("a.json").unwrap(), Some(vec![4]));
        let place = |name: &str| scratch.0.path().join(name);
        let names = [
            "nic-1-2.json.tmp",
            "lease-1-nk0.json.tmp",
            "b.json.tmp",
            "nic.tmp",
        ];
        for name in names {
            fs::write(place(name), "[").unwrap();
        }
        drop(locked);
        let locked = scratch.0.lock().unwrap();
        let left: Vec<bool> = names.iter().map(|name| place(name).exists()).collect();
        assert_eq!(left, [false, false, true, true]);
        locked.remove("a.json").unwrap();
        locked.remove("a.json").unwrap();
        assert!(locked.names("a").unwrap().is_empty());
    }

    #[test]
    fn one_at_a_time() {
        let scratch = Scratch::new();
        let locked = scratch.0.lock().unwrap();
        let (dir, waiting) = (scratch.0.clone(), thread::current());
        let other = thread::spawn(move || {
            let locked = dir.lock().unwrap();
            waiting.unpark();
            locked.read::<u32>("n.json").unwrap()
        });
        thread::sleep(Duration::from_millis(30));
        locked.write("n.json", &7).unwrap();
        drop(locked);
        assert_eq!(other.join().unwrap(), Some(7));
    }

    #[test]
    fn a_lock_is_for_its_owner_alone() {
        let scratch = Scratch::new();
        let path = scratch.0.path().join(LOCK);
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        drop(scratch.0.lock().unwrap());
        assert_eq!(mode(), 0o600);
        // As earlier versions made it, with another user's hand on it.
        fs::remove_file(&path).unwrap();
        let loose = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o644)
            .open(&path)
            .unwrap();
        let another = File::open(&path).unwrap();
        drop(scratch.0.lock().unwrap());
        assert_eq!(mode(), 0o600);
        let held = Flock::lock(another, FlockArg::LockExclusiveNonblock).unwrap();
        drop(scratch.0.lock().unwrap());
        drop((held, loose));
    }

    #[test]
    fn a_lock_that_was_replaced_meanwhile_is_not_replaced_again() {
        let scratch = Scratch::new();
        let path = scratch.0.path().join(LOCK);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let late = scratch.0.open_lock().unwrap();
        // Both have looked at the file before either made it root's alone.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let held = scratch.0.lock().unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(late.loose && late.number.1 != inode);
        assert!(scratch.0.lock_opened(late).unwrap().is_none());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(scratch.0.try_lock().unwrap().is_none(), "two have the lock");
        drop(held);
    }

    #[test]
    fn a_relative_directory_is_one_place() {
        let scratch = Scratch::new();
        let here = std::env::current_dir().unwrap();
        let up = "../".repeat(here.components().count());
        let relative = format!("{up}{}", scratch.0.path().display());
        let relative = RunDir::at(relative).unwrap();
        assert!(relative.path().is_absolute());
        assert_eq!(relative.path(), fs::canonicalize(scratch.0.path()).unwrap());
    }

    #[test]
    fn a_directory_that_others_write_to_is_not_trusted() {
        let scratch = Scratch::new();
        let path = scratch.0.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = RunDir::at(path);
        assert!(matches!(refused, Err(RunDirError::NotOurs { .. })));
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_file_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let scratch = Scratch::new();
            fs::write(scratch.0.path().join("x.json"), bytes).unwrap();
            let _answer = scratch.0.read::<crate::Owner>("x.json");
        }
    }
}
