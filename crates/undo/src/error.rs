//! Errors of the runtime directory.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Limit of waiting for the lock: longer than setting any NIC up takes.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("{}: locked by another process for {} s", path.display(), LOCK_TIMEOUT.as_secs())]
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

pub(crate) type Result<T> = std::result::Result<T, RunDirError>;

/// A refusal of the file system.
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
