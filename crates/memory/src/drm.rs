//! Memory of a DRM device: a dumb buffer (`drivers/gpu/drm/drm_dumb_buffers.c`), exported as a
//! dmabuf by PRIME (`drivers/gpu/drm/drm_prime.c`).
//!
//! Every display driver has dumb buffers, in memory that the device reads by itself: for a GPU with
//! memory of its own that is its memory or the machine's. They are made on the primary node
//! (`/dev/dri/cardN`); a render node refuses them (`drm_ioctl_permit`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dmabuf::{Dmabuf, DmabufFd};

use crate::len::{BadLen, check_len};
use crate::sys::{self, CreateDumb};

/// Folder of the DRM devices' nodes.
const DIRECTORY: &str = "/dev/dri";

/// Error of making a dumb buffer of a DRM device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The length can't be that of a dumb buffer.
    #[error("drm:{}", .node.display())]
    Len {
        /// Path of the device's node.
        node: PathBuf,
        /// What is wrong with the requested length.
        #[source]
        source: BadLen,
    },
    /// The length does not fit the 32 bits that dumb buffers have for it.
    #[error("drm:{}: {len} bytes: a dumb buffer has less than 4 GiB", .node.display())]
    TooLarge {
        /// Path of the device's node.
        node: PathBuf,
        /// Requested length in bytes.
        len: u64,
    },
    /// The node could not be opened.
    #[error("open {}", .node.display())]
    Open {
        /// Path of the device's node.
        node: PathBuf,
        /// Error of `open`.
        #[source]
        source: io::Error,
    },
    /// The node is a render node, which makes no dumb buffers.
    #[error("{} is a render node, which makes no dumb buffers", .node.display())]
    Render {
        /// Path of the render node.
        node: PathBuf,
        /// Path of the device's primary node, where sysfs knows it.
        primary: Option<PathBuf>,
    },
    /// The driver makes no dumb buffers.
    #[error("{}: driver {driver} makes no dumb buffers", .node.display())]
    NoDumb {
        /// Path of the device's node.
        node: PathBuf,
        /// Name of the driver.
        driver: String,
        /// Error of `DRM_IOCTL_MODE_CREATE_DUMB`.
        #[source]
        source: io::Error,
    },
    /// `DRM_IOCTL_MODE_CREATE_DUMB` failed.
    #[error("DRM_IOCTL_MODE_CREATE_DUMB of {len} bytes on {}", .node.display())]
    Create {
        /// Path of the device's node.
        node: PathBuf,
        /// Requested length in bytes.
        len: u64,
        /// Error of the ioctl.
        #[source]
        source: io::Error,
    },
    /// `DRM_IOCTL_PRIME_HANDLE_TO_FD` failed: the driver does not export its buffers.
    #[error("DRM_IOCTL_PRIME_HANDLE_TO_FD on {}", .node.display())]
    Export {
        /// Path of the device's node.
        node: PathBuf,
        /// Error of the ioctl.
        #[source]
        source: io::Error,
    },
    /// The length of the new buffer could not be read.
    #[error(transparent)]
    Dmabuf(#[from] dmabuf::Error),
}

/// Paths of the DRM primary nodes of this machine, sorted by name.
pub fn primary_nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let primary = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with("card"))
    };
    let mut nodes: Vec<PathBuf> = entries.filter(primary).map(|entry| entry.path()).collect();
    nodes.sort();
    nodes
}

/// Reads the name of the DRM driver behind a node (`DRM_IOCTL_VERSION`).
///
/// # Errors
/// [`Error::Open`].
#[doc(alias = "DRM_IOCTL_VERSION")]
pub fn driver(node: &Path) -> Result<String, Error> {
    Ok(name_of(open(node)?.as_fd()))
}

fn open(node: &Path) -> Result<OwnedFd, Error> {
    sys::open(node).map_err(|source| Error::Open {
        node: node.to_owned(),
        source,
    })
}

fn name_of(device: BorrowedFd<'_>) -> String {
    sys::drm_driver(device).unwrap_or_else(|_| "unknown".to_owned())
}

/// A dmabuf of a DRM device's dumb buffer. The device's node need not stay open: the dmabuf keeps
/// the buffer (`drm_gem_dmabuf_export`), and both are freed together.
#[derive(Debug)]
pub struct Dumb {
    fd: DmabufFd,
}

impl Dumb {
    /// Makes a dumb buffer of at least `len` bytes: not 0, a multiple of the page size, less than 4
    /// GiB. The buffer is longer where the driver's lines are longer than 4 KiB.
    ///
    /// # Errors
    /// [`Error`] names the step.
    #[doc(alias = "DRM_IOCTL_MODE_CREATE_DUMB")]
    #[doc(alias = "DRM_IOCTL_PRIME_HANDLE_TO_FD")]
    pub fn create(node: &Path, len: u64) -> Result<Self, Error> {
        let at = || node.to_owned();
        check_len(len).map_err(|source| Error::Len { node: at(), source })?;
        let shape = CreateDumb::of(len).ok_or_else(|| Error::TooLarge { node: at(), len })?;
        let device = open(node)?;
        let device = device.as_fd();
        let handle =
            sys::create_dumb(device, shape).map_err(|source| refused(node, device, len, source))?;
        let fd =
            sys::export(device, handle).map_err(|source| Error::Export { node: at(), source })?;
        // Closing the node closes the handle, and only the dmabuf is left.
        let fd = DmabufFd::new(fd)?;
        Ok(Self { fd })
    }
}

/// Error of a dumb buffer that the kernel refused: `drm_ioctl_permit` returns `EACCES` for a render
/// node, `drm_mode_create_dumb` returns `ENOSYS` where the driver makes none.
fn refused(node: &Path, device: BorrowedFd<'_>, len: u64, source: io::Error) -> Error {
    let at = || node.to_owned();
    match source.raw_os_error() {
        Some(libc::EACCES) => Error::Render {
            node: at(),
            primary: primary_of(device),
        },
        Some(libc::ENOSYS | libc::EOPNOTSUPP) => Error::NoDumb {
            node: at(),
            driver: name_of(device),
            source,
        },
        _ => Error::Create {
            node: at(),
            len,
            source,
        },
    }
}

/// Primary node of the DRM device that a render node belongs to: its neighbour in sysfs.
fn primary_of(device: BorrowedFd<'_>) -> Option<PathBuf> {
    let (major, minor) = sys::device_number(device)?;
    let nodes = fs::read_dir(format!("/sys/dev/char/{major}:{minor}/device/drm")).ok()?;
    let name = |entry: fs::DirEntry| entry.file_name().to_str().map(str::to_owned);
    let names = nodes.flatten().filter_map(name);
    let card = names.into_iter().find(|name| name.starts_with("card"))?;
    Some(Path::new(DIRECTORY).join(card))
}

impl AsFd for Dumb {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dmabuf for Dumb {
    fn len(&self) -> u64 {
        self.fd.len()
    }
}

impl From<Dumb> for OwnedFd {
    fn from(buffer: Dumb) -> Self {
        buffer.fd.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_before_anything_is_opened() {
        let node = Path::new("/dev/null");
        let refused = |len| Dumb::create(node, len).unwrap_err();
        assert_eq!(refused(0).to_string(), "drm:/dev/null");
        assert!(matches!(refused(100), Error::Len { .. }));
        assert!(refused(1 << 32).to_string().contains("less than 4 GiB"));
    }

    #[test]
    fn a_path_that_is_no_drm_node_is_refused() {
        let error = Dumb::create(Path::new("/dev/null"), 4096).unwrap_err();
        assert!(matches!(error, Error::Create { .. }), "{error}");
        let error = Dumb::create(Path::new("/dev/dri/no-such-card"), 4096).unwrap_err();
        assert_eq!(error.to_string(), "open /dev/dri/no-such-card");
    }

    #[test]
    fn a_dumb_buffer_has_the_requested_length() {
        for len in [4096, 8192, 64 << 20, (1 << 32) - 4096] {
            let shape = CreateDumb::of(len).unwrap();
            let bytes = u64::from(shape.width) * u64::from(shape.bpp / 8) * u64::from(shape.height);
            assert_eq!(bytes, len);
        }
    }
}
