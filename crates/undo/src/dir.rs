//! The runtime directory: JSON files that outlive their process, changed under one lock.
//!
//! It is `/run/devmem-tcp`, or `$DEVMEM_TCP_RUNTIME_DIR`. A file is replaced as a whole (written
//! beside it, then renamed), so that a kill during the write leaves the old one.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::de::DeserializeOwned;

use crate::RunDirError;
use crate::error::{Result, failed};

/// Default path of the runtime directory, where records are kept.
const DEFAULT: &str = "/run/devmem-tcp";
/// Environment variable that sets another path of the runtime directory.
const VARIABLE: &str = "DEVMEM_TCP_RUNTIME_DIR";
/// The runtime directory, with a JSON file for each record of changes.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Opens the system's runtime directory, and makes the directory if it does not exist.
    ///
    /// # Errors
    /// [`RunDirError::Io`] where it cannot be made, [`RunDirError::NotOurs`].
    pub fn open() -> Result<Self> {
        Self::at(Self::configured_path())
    }

    /// Opens the system's runtime directory to read records, if the directory exists.
    ///
    /// # Errors
    /// As for [`RunDir::open`].
    pub fn existing() -> Result<Option<Self>> {
        let path = Self::configured_path();
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => Self::check(path).map(Some),
        }
    }

    /// Opens the runtime directory at this path, and makes the directory if it does not exist.
    ///
    /// # Errors
    /// As for [`RunDir::open`].
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.map_err(|source| failed("mkdir", &path, source))?;
        Self::check(path)
    }

    /// Path of the runtime directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file of the runtime directory without the lock; `None` if the file doesn't exist.
    ///
    /// # Errors
    /// [`RunDirError::Damaged`] where that is no `T`.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read(&self.path.join(name))
    }

    /// Names of the runtime directory's files that begin with `prefix` and end with `.json`,
    /// sorted.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        names(&self.path, prefix)
    }

    pub(crate) fn configured_path() -> PathBuf {
        std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
    }

    pub(crate) fn check(path: PathBuf) -> Result<Self> {
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
    fn a_relative_path_of_the_directory_is_made_absolute() {
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
        fn any_content_of_a_file_is_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let scratch = Scratch::new();
            fs::write(scratch.0.path().join("x.json"), bytes).unwrap();
            let _answer = scratch.0.read::<crate::Owner>("x.json");
        }
    }
}
