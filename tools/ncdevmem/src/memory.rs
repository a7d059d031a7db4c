//! The dmabuf of both directions: as large as upstream's.

use std::num::NonZeroU32;

use anyhow::Result;
use udmabuf::{HugePage, Udmabuf};

/// Pages of the dmabuf, as upstream's NUM_PAGES.
const PAGES: u64 = 16_000;

/// Out of ordinary pages; out of hugepages of 2 MiB where the NIC is to fill larger pieces, which
/// want memory that is aligned to them.
pub(crate) fn dmabuf(rx_page_size: Option<NonZeroU32>) -> Result<Udmabuf> {
    let page = HugePage::None.bytes();
    let pages = match rx_page_size {
        Some(size) if u64::from(size.get()) > page => HugePage::Mb2,
        _ => HugePage::None,
    };
    let size = (PAGES * page).next_multiple_of(pages.bytes());
    Ok(Udmabuf::builder(size).hugepages(pages).build()?)
}
