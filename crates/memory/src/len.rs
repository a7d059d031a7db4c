//! Lengths that a dmabuf can have.

use crate::sys;

/// A length that no dmabuf has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLen {
    /// None at all.
    #[error("a dmabuf of 0 bytes")]
    Empty,
    /// Parts of a page.
    #[error("{len} bytes: not a multiple of the {page} byte page")]
    Unaligned {
        /// Bytes asked for.
        len: u64,
        /// Bytes in a page.
        page: u64,
    },
}

impl BadLen {
    /// What would do, in one line.
    pub fn remedy(&self) -> Option<String> {
        match self {
            BadLen::Empty => Some("ask for at least one page".to_owned()),
            BadLen::Unaligned { len, page } => {
                let up = len.checked_next_multiple_of(*page)?;
                Some(format!("take {up} bytes"))
            }
        }
    }
}

/// Whether a dmabuf can have so many bytes. Exporters round up by themselves (`PAGE_ALIGN`): who asked
/// would have another length than he thinks.
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
