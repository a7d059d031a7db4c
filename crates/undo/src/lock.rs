//! The lock of the runtime directory, and what may be done under it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::error::{LOCK_TIMEOUT, Result, failed};
use crate::{RunDir, RunDirError};

/// Name of the runtime directory's lock file, which is empty and stays.
pub(crate) const LOCK: &str = "lock";
/// Prefixes of the record files' names: NICs and leases.
const RECORD_PREFIXES: [&str; 2] = ["nic-", "lease-"];
/// Suffix of the name of a file that is written but not yet renamed.
const UNFINISHED_SUFFIX: &str = ".tmp";

impl RunDir {
    /// Locks the runtime directory until the returned value is dropped.
    ///
    /// # Errors
    /// [`RunDirError::Locked`] where that takes more than 30 s.
    pub fn lock(&self) -> Result<Locked> {
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            if let Some(lock) = self.try_lock()? {
                self.remove_stale_files();
                return Ok(Locked {
                    dir: self.clone(),
                    _lock: lock,
                });
            }
            if Instant::now() > end {
                let path = self.path().join(LOCK);
                return Err(RunDirError::Locked { path });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes the runtime directory's lock if no process holds it. Any process that can open the
    /// file can hold its lock, so the file is for its owner alone. A file that others could open,
    /// as earlier versions made it, is replaced by the first process that locks it: another user's
    /// lock on the old file then means nothing.
    fn try_lock(&self) -> Result<Option<Flock<File>>> {
        self.lock_opened(self.open_lock()?)
    }

    /// Opens the lock file, and takes its permissions from other users; returns also whether they
    /// had any.
    fn open_lock(&self) -> Result<OpenLockFile> {
        let path = self.path().join(LOCK);
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
        Ok(OpenLockFile {
            file,
            number,
            loose,
        })
    }

    /// Takes the lock of an open lock file, if no process holds it and the file still has its name.
    fn lock_opened(&self, opened: OpenLockFile) -> Result<Option<Flock<File>>> {
        let path = self.path().join(LOCK);
        let OpenLockFile {
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

    /// Removes from the runtime directory unfinished files of killed processes and lock files of
    /// ended ones, and nothing else.
    fn remove_stale_files(&self) {
        let unfinished = |name: &str| {
            let whole = name.strip_suffix(UNFINISHED_SUFFIX);
            whole.is_some_and(|it| {
                it.ends_with(".json") && RECORD_PREFIXES.iter().any(|p| it.starts_with(p))
            })
        };
        let is_let_go = |name: &str, path: &Path| {
            let free = || {
                let file = File::open(path).ok()?;
                Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
            };
            name.starts_with(RECORD_PREFIXES[0]) && name.ends_with(".lock") && free().is_some()
        };
        for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
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
}

/// A lock file that is open.
struct OpenLockFile {
    file: File,
    /// Device and inode of the lock file.
    number: (u64, u64),
    /// Whether other users could open the lock file.
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
    /// Replaces a file of the runtime directory as a whole.
    ///
    /// # Errors
    /// Those of the file system; the old file is kept then.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.path().join(name);
        let beside = self.path().join(format!("{name}{UNFINISHED_SUFFIX}"));
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

    /// Makes a file in the runtime directory that only its owner may open, and locks the file.
    ///
    /// # Errors
    /// Those of the file system, and of a file of that name that exists.
    pub fn hold(&self, name: &str) -> Result<Flock<File>> {
        let path = self.path().join(name);
        let made = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let file = made.map_err(|source| failed("open", &path, source))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        held.map_err(|(_, errno)| failed("flock", &path, errno.into()))
    }

    /// Renames a damaged record to `NAME.damaged`, and returns the new path.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_aside(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let aside = path.with_extension("damaged");
        let renamed = fs::rename(&path, &aside);
        renamed.map_err(|source| failed("rename", &path, source))?;
        Ok(aside)
    }

    /// Removes a file from the runtime directory, if it exists.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path().join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path, source))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::tests::Scratch;

    #[test]
    fn one_process_holds_the_lock_at_a_time() {
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
}
