//! Check whether the runtime directory can be written.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::AccessFlags;

use crate::RunDir;
use crate::error::{Result, failed};
use crate::lock::LOCK;

impl RunDir {
    /// Checks whether [`RunDir::open`] and [`Locked::write`](crate::Locked::write) would succeed. What is made to find
    /// that out is removed at once.
    ///
    /// # Errors
    /// As for [`RunDir::open`]; [`RunDirError::Io`](crate::RunDirError::Io) where nothing can be written.
    pub fn check_writable() -> Result<PathBuf> {
        let place = Self::configured_path();
        let path = std::path::absolute(&place).map_err(|source| failed("find", &place, source))?;
        let probe = format!(".devmem-tcp-{}", std::process::id());
        if path.symlink_metadata().is_ok() && !path.is_file() {
            let path = Self::check(path)?.path().to_owned();
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
}
