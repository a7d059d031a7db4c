//! Who changed a NIC, and whether he is still there.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// A process, known by more than its number, which another one may get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// The PID namespace that the number is of.
    pid_namespace: u64,
    /// When it began, in ticks since the boot (`proc_pid_stat(5)`, field 22).
    start: u64,
    /// Its name.
    pub command: String,
}

impl Owner {
    /// The calling process.
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
        })
    }

    /// Whether it still runs. One of another PID namespace can't be seen and counts as running.
    pub fn is_alive(&self) -> bool {
        if pid_namespace().ok() != Some(self.pid_namespace) {
            return true;
        }
        match Stat::read(&self.pid.to_string()) {
            // The files of one that was killed are closed when its last thread has ended.
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

/// What is wanted of `/proc/PID/stat`.
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

    /// The name stands in brackets and may itself hold brackets and blanks.
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

    #[test]
    fn a_name_with_brackets() {
        let text = "7 (a) b)) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4242 8 9";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.command.as_str(), stat.state), ("a) b)", 'S'));
        assert_eq!((stat.threads, stat.start), (1, 4242));
        assert!(Stat::parse("7 (a").is_none());
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn this_process_lives_and_its_number_alone_does_not() {
        let mut owner = Owner::current().unwrap();
        assert!(owner.is_alive());
        owner.start += 1;
        assert!(!owner.is_alive());
    }
}
