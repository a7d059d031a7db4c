//! Complaints in the kernel log while a case runs.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

/// Texts in kernel messages that a healthy kernel never logs.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection",
    "kernel BUG",
    "refcount_t:",
    "page_pool_release_retry() stalled",
    "unregister_netdevice: waiting",
    "INFO: task",
    "rcu: INFO",
];

/// The kernel log (`/dev/kmsg`), read on from where the last reading ended.
#[derive(Debug)]
pub(super) struct Kmsg {
    file: File,
}

impl Kmsg {
    /// Opens the kernel log at its present end.
    pub(super) fn open() -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// Returns the kernel's complaints since the last call, one per line; empty if there were none.
    pub(super) fn complaints(&mut self) -> io::Result<String> {
        let mut found = String::new();
        let mut record = [0; 8192]; // one read gives one record, at most CONSOLE_EXT_LOG_MAX bytes
        loop {
            match self.file.read(&mut record) {
                Ok(0) => return Ok(found),
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    let message = message.lines().next().unwrap_or("");
                    if COMPLAINTS.iter().any(|start| message.contains(start)) {
                        found.push_str("kernel: ");
                        found.push_str(message);
                        found.push('\n');
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                // EPIPE: records were overwritten before they were read; go on with the oldest left.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
