//! Errors of making a udmabuf, and their remedies.

use std::io;

use crate::HugePage;
use crate::available::Available;
use crate::reserved::{self, ReservedHugepages, SIZE_LIMIT_MB};

/// Error of making a udmabuf. The kernel's words are the source; [`Error::remedy`] is the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A length of 0 (`udmabuf_create`: `EINVAL`).
    #[error("udmabuf of 0 bytes")]
    Empty,
    /// The length is not a multiple of the page size (`udmabuf_create`: `EINVAL`).
    #[error("udmabuf of {len} bytes: not a multiple of the {page} byte page")]
    Unaligned {
        /// Requested length in bytes.
        len: u64,
        /// Size in bytes of the requested pages.
        page: u64,
    },
    /// `/dev/udmabuf` could not be opened.
    #[error("open /dev/udmabuf")]
    Open {
        /// Error of `open`.
        #[source]
        source: io::Error,
    },
    /// Less memory is available than requested. The kernel would kill processes to find it, so
    /// nothing was allocated.
    #[error("{len} bytes of memory, of which {available}")]
    Available {
        /// Requested length in bytes.
        len: u64,
        /// Available memory.
        available: Available,
    },
    /// The kernel has not enough memory, or not enough hugepages.
    #[error("udmabuf of {len} bytes{}", of_pages(*.hugepages))]
    Memory {
        /// Requested length in bytes.
        len: u64,
        /// Requested pages.
        hugepages: HugePage,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The length is above the module's limit on one buffer, its parameter `size_limit_mb`.
    #[error("udmabuf of {len} bytes: over the size_limit_mb of {limit_mb}")]
    TooLarge {
        /// Requested length in bytes.
        len: u64,
        /// Limit in MiB.
        limit_mb: u64,
        /// Error of `UDMABUF_CREATE`: `EINVAL`.
        #[source]
        source: io::Error,
    },
    /// `UDMABUF_CREATE` failed for another reason.
    #[error("UDMABUF_CREATE of {len} bytes")]
    Create {
        /// Requested length in bytes.
        len: u64,
        /// Error of the ioctl.
        #[source]
        source: io::Error,
    },
    /// The length of the new buffer could not be read.
    #[error(transparent)]
    Dmabuf(#[from] dmabuf::Error),
}

fn of_pages(hugepages: HugePage) -> &'static str {
    match hugepages {
        HugePage::None | HugePage::Transparent => "",
        HugePage::Mb2 => " of 2 MiB hugepages",
        HugePage::Gb1 => " of 1 GiB hugepages",
    }
}

impl Error {
    pub(crate) fn open(source: io::Error) -> Self {
        Error::Open { source }
    }

    pub(crate) fn memory(len: u64, hugepages: HugePage, source: io::Error) -> Self {
        Error::Memory {
            len,
            hugepages,
            source,
        }
    }

    /// Error of `UDMABUF_CREATE`. `udmabuf_create` fails with `EINVAL` for a buffer above the
    /// limit; `memfd_pin_folios` fails for lack of pages with `ENOMEM`, or with `EINVAL` if not
    /// even the first page could be allocated.
    pub(crate) fn create(len: u64, hugepages: HugePage, source: io::Error) -> Self {
        let limit = reserved::size_limit().filter(|limit| len > *limit);
        match (source.raw_os_error(), limit) {
            (Some(libc::EINVAL), Some(limit)) => Error::TooLarge {
                len,
                limit_mb: limit >> 20,
                source,
            },
            (Some(libc::ENOMEM), _) => Error::Memory {
                len,
                hugepages,
                source,
            },
            (Some(libc::EINVAL), None) if matches!(hugepages, HugePage::Mb2 | HugePage::Gb1) => {
                Error::Memory {
                    len,
                    hugepages,
                    source,
                }
            }
            _ => Error::Create { len, source },
        }
    }

    /// Remedy in one line, where it is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Empty => Some("ask for at least one page".to_owned()),
            Error::Unaligned { len, page } => {
                let up = len.checked_next_multiple_of(*page)?;
                Some(format!("take {up} bytes"))
            }
            Error::Open { source } => open_remedy(source),
            Error::Available { available, .. } => {
                let most = available.advice(1) >> 20;
                Some(format!("ask for {most} MiB or less"))
            }
            Error::Memory {
                len,
                hugepages,
                source,
            } => memory_remedy(*len, *hugepages, source),
            Error::TooLarge { len, .. } => {
                let mb = len.div_ceil(1 << 20);
                Some(format!(
                    "ask for less, or allow more: echo {mb} > {SIZE_LIMIT_MB}"
                ))
            }
            Error::Create { .. } | Error::Dmabuf(_) => None,
        }
    }
}

fn open_remedy(source: &io::Error) -> Option<String> {
    let remedy = match source.raw_os_error()? {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            "in a container, pass /dev/udmabuf into it; else load the driver (CONFIG_UDMABUF): modprobe udmabuf"
        }
        libc::EACCES | libc::EPERM => "run as root, or as a member of group kvm",
        _ => return None,
    };
    Some(remedy.to_owned())
}

fn memory_remedy(len: u64, hugepages: HugePage, source: &io::Error) -> Option<String> {
    if matches!(hugepages, HugePage::None | HugePage::Transparent) {
        let short = matches!(source.raw_os_error(), Some(libc::ENOMEM));
        return short.then(|| "ask for less memory".to_owned());
    }
    let want = len / hugepages.bytes();
    let Some(pages) = ReservedHugepages::of(hugepages) else {
        return Some(
            "this machine has no hugepages of that size: take the other, or none".to_owned(),
        );
    };
    let (free, reserved) = (pages.free, pages.all);
    let total = reserved + want.saturating_sub(free);
    let how = match hugepages {
        HugePage::Mb2 => format!("sysctl vm.nr_hugepages={total}"),
        _ => format!(
            "echo {total} > {}/nr_hugepages",
            reserved::directory(hugepages)
        ),
    };
    Some(format!(
        "{free} of {reserved} reserved hugepages are free, {want} needed: {how}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_missing_device_and_a_closed_one_have_remedies() {
        let missing = Error::open(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(missing.to_string(), "open /dev/udmabuf");
        assert!(
            missing
                .source()
                .unwrap()
                .to_string()
                .contains("No such file")
        );
        assert!(missing.remedy().unwrap().contains("modprobe udmabuf"));
        let closed = Error::open(io::Error::from_raw_os_error(libc::EACCES));
        assert!(closed.remedy().unwrap().contains("group kvm"));
    }

    #[test]
    fn a_lack_of_hugepages_differs_from_a_lack_of_memory() {
        let error = |hugepages| {
            Error::create(
                1 << 30,
                hugepages,
                io::Error::from_raw_os_error(libc::ENOMEM),
            )
        };
        assert_eq!(
            error(HugePage::Mb2).to_string(),
            "udmabuf of 1073741824 bytes of 2 MiB hugepages"
        );
        assert!(error(HugePage::Mb2).remedy().is_some());
        assert_eq!(
            error(HugePage::None).remedy().unwrap(),
            "ask for less memory"
        );
    }
}
