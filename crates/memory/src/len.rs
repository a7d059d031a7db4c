//! Check of the length of a dmabuf.

use crate::sys;

/// Why a dmabuf can't have a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLen {
    /// The length is 0.
    #[error("a dmabuf of 0 bytes")]
    Empty,
    /// The length is not a multiple of the page size.
    #[error("{len} bytes: not a multiple of the {page} byte page")]
    Unaligned {
        /// Requested length in bytes.
        len: u64,
        /// Page size in bytes.
        page: u64,
    },
}

/// Checks that a dmabuf can have a length of `len` bytes. Exporters round up silently
/// (`PAGE_ALIGN`), so the buffer would have another length than the caller thinks.
///
/// # Errors
/// [`BadLen`].
pub fn check_len(len: u64) -> Result<(), BadLen> {
    let page = sys::page_size();
    match len {
        0 => Err(BadLen::Empty),
        _ if len % page != 0 => Err(BadLen::Unaligned { len, page }),
        _ => Ok(()),
    }
}
