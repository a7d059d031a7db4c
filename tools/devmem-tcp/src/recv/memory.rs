//! The dmabuf that is received into.

use anyhow::Result;
use udmabuf::{HugePage, Udmabuf};

use crate::args::{Pages, Size};

#[derive(clap::Args)]
pub(super) struct MemoryArgs {
    /// Size of the dmabuf
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(super) size: Size,
    /// Pages that the dmabuf is made of
    #[arg(long, value_enum, default_value_t = Pages::Auto)]
    pub(super) pages: Pages,
}

impl MemoryArgs {
    /// Makes the dmabuf.
    pub(super) fn make(&self) -> Result<Udmabuf> {
        let builder = Udmabuf::builder(self.size.0);
        let builder = match self.pages {
            Pages::Auto => builder,
            Pages::Small => builder.hugepages(HugePage::None),
            Pages::Huge => builder.hugepages(HugePage::Mb2),
        };
        Ok(builder.build()?)
    }
}
