//! Owner of a claim, and whether its process still lives.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{Locked, RunDirError};

/// A process, identified by more than its id, which may be reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Process id of the owner.
    pub pid: u32,
    /// PID namespace of the process id.
    pid_namespace: u64,
    /// Start time in ticks since the boot (`proc_pid_stat(5)`, field 22).
    start: u64,
    /// Name of the owner's process.
    pub command: String,
    /// Name of the file on which the process holds a lock while it lives, in whatever namespaces;
    /// journals of earlier versions have none.
    #[serde(default)]
    lock: Option<String>,
    /// Directory of the lock file.
    #[serde(skip)]
    dir: PathBuf,
}

/// Lock that shows that a process lives: the kernel releases it when the process ends.
#[derive(Debug)]
pub struct Life {
    _lock: Flock<File>,
}

impl Owner {
    /// Describes the calling process as an owner.
    ///
    /// # Errors
    /// Those of reading `/proc/self`.
    pub fn current() -> io::Result<Self> {
        let stat = Stat::read("self")?;
        Ok(Self {
            pid: std::process::id(),
            pid_namespace: pid_namespace()?,
            start: stat.start,
            command: stat.command,
            lock: None,
            dir: PathBuf::new(),
        })
    }

    /// Takes the lock that shows that the process lives, on a new file of this name.
    ///
    /// # Errors
    /// Those of making and locking the file.
    pub fn live(&mut self, dir: &Locked, name: String) -> Result<Life, RunDirError> {
        dir.remove(&name)?;
        let life = Life {
            _lock: dir.hold(&name)?,
        };
        (self.lock, self.dir) = (Some(name), dir.path().to_owned());
        Ok(life)
    }

    /// Name of the file on which the owner holds a lock while it lives.
    pub fn lock(&self) -> Option<&str> {
        self.lock.as_deref()
    }

    /// Sets the directory of the owner's lock file, where the journal that names the owner was
    /// found.
    pub fn found_in(&mut self, dir: &Path) {
        self.dir = dir.to_owned();
    }

    /// Whether the owner's process holds its lock; `None` if that is unknown.
    fn holds(&self) -> Option<bool> {
        // A program that can write such a journal could do worse.
        let path = self.dir.join(self.lock.as_ref()?);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(false),
            Err(_) => return None,
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Some(false),
            Err((_, Errno::EAGAIN)) => Some(true),
            Err(_) => None,
        }
    }

    /// Whether the owner's process holds its lock for sure.
    pub fn holds_lock(&self) -> bool {
        self.holds() == Some(true)
    }

    /// Whether the owner's process still runs: whether its lock is held. An owner of an earlier
    /// version has no lock and is looked for by its process id; in another PID namespace it can't
    /// be seen, and counts as running.
    pub fn is_alive(&self) -> bool {
        if let Some(holds) = self.holds() {
            return holds;
        }
        if pid_namespace().ok() != Some(self.pid_namespace) {
            return true;
        }
        match Stat::read(&self.pid.to_string()) {
            // The kernel closes a killed process's files when its last thread has ended.
            Ok(stat) => {
                stat.start == self.start && (stat.threads > 1 || !matches!(stat.state, 'Z' | 'X'))
            }
            Err(_) => false,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Fields of `/proc/PID/stat`.
struct Stat {
    command: String,
    state: char,
    threads: u32,
    start: u64,
}

impl Stat {
    fn read(pid: &str) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Parses a line of `/proc/PID/stat`; the name in parentheses may itself contain parentheses
    /// and blanks.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, command) = before.split_once('(')?;
        let mut fields = after.split_whitespace();
        Some(Self {
            command: command.to_owned(),
            state: fields.next()?.chars().next()?,
            threads: fields.nth(16)?.parse().ok()?,
            start: fields.nth(1)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::tests::Scratch;

    #[test]
    fn a_process_name_with_brackets_is_parsed() {
        let text = "7 (a) b)) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4242 8 9";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.command.as_str(), stat.state), ("a) b)", 'S'));
        assert_eq!((stat.threads, stat.start), (1, 4242));
        assert!(Stat::parse("7 (a").is_none());
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn this_process_lives_and_its_pid_alone_does_not_count() {
        let mut owner = Owner::current().unwrap();
        assert!(owner.is_alive());
        owner.start += 1;
        assert!(!owner.is_alive());
    }

    #[test]
    fn a_process_that_holds_its_lock_lives_whatever_its_pid() {
        let scratch = Scratch::new();
        let locked = scratch.0.lock().unwrap();
        let mut owner = Owner::current().unwrap();
        let life = owner.live(&locked, "nic-1-2-1.lock".to_owned()).unwrap();
        let path = scratch.0.path().join("nic-1-2-1.lock");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // As in a PID namespace that is gone, or never was.
        (owner.pid_namespace, owner.start, owner.pid) = (1, 0, 1);
        assert!(owner.is_alive());
        drop((locked, life));
        assert!(!owner.is_alive());
        // Its file goes with the next one that changes something.
        drop(scratch.0.lock().unwrap());
        assert!(!path.exists() && !owner.is_alive());
    }
}
