//! Errors of making a udmabuf.

use std::io;

use crate::HugePage;
use crate::available::Available;
use crate::reserved;

/// Error of making a udmabuf. The kernel's words are the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The requested length is 0 (`udmabuf_create`: `EINVAL`).
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
        /// Kind of the requested pages.
        hugepages: HugePage,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The requested length is above the udmabuf module's limit on one buffer, its parameter
    /// `size_limit_mb`.
    #[error("udmabuf of {len} bytes: over the size_limit_mb of {limit_mb}")]
    TooLarge {
        /// Requested length in bytes.
        len: u64,
        /// The module's limit on one buffer, in MiB.
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

    /// Error of `UDMABUF_CREATE`, from what the kernel returned. `udmabuf_create` fails with
    /// `EINVAL` for a buffer above the limit; `memfd_pin_folios` fails for lack of pages with
    /// `ENOMEM`, or with `EINVAL` if not even the first page could be allocated.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_missing_device_is_named() {
        let missing = Error::open(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(missing.to_string(), "open /dev/udmabuf");
        assert!(
            missing
                .source()
                .unwrap()
                .to_string()
                .contains("No such file")
        );
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
        assert_eq!(
            error(HugePage::None).to_string(),
            "udmabuf of 1073741824 bytes"
        );
    }
}
