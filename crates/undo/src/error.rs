//! Errors of the runtime directory.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the runtime directory's lock: longer than setting any NIC up takes.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Error of the runtime directory or a file in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The file system refused an operation.
    #[error("{op} {}", path.display())]
    Io {
        /// Operation that failed.
        op: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// Other users may write to the directory, so that its contents can't be trusted.
    #[error("{}: others than its owner may write there, or it belongs to another user", path.display())]
    NotOurs {
        /// Path of the directory.
        path: PathBuf,
    },
    /// Another process has held the lock for too long.
    #[error("{}: locked by another process for {} s", path.display(), LOCK_TIMEOUT.as_secs())]
    Locked {
        /// Path of the lock file.
        path: PathBuf,
    },
    /// A file's contents are damaged, or of a later version.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file's contents.
        source: serde_json::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, RunDirError>;

/// Error of an operation that the file system refused.
pub(crate) fn failed(op: &'static str, path: &Path, source: io::Error) -> RunDirError {
    RunDirError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

/// Formats an error and its sources, with colons between, as `{:#}` of `anyhow` does.
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
