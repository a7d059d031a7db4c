//! The dmabuf of both directions.

use std::fs;
use std::num::NonZeroU32;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use udmabuf::{Error, HugePage, Udmabuf};

use crate::say;

/// Number of pages in a dmabuf of ordinary pages, as upstream's NUM_PAGES.
const PAGES: u64 = 16_000;
/// Number of `rx-page-size` pieces in a dmabuf of hugepages, up to 64 MiB: fewer than upstream's,
/// because hugepages are few.
const PIECES: u64 = 2048;
/// Time to wait for hugepages that another process is about to give back.
const HUGEPAGES: Duration = Duration::from_secs(5);

/// Allocates the dmabuf: of ordinary pages, or of 2 MiB hugepages where the NIC is to fill larger
/// pieces, which need aligned memory.
pub(crate) fn dmabuf(rx_page_size: Option<NonZeroU32>) -> Result<Udmabuf> {
    let page = HugePage::None.bytes();
    match rx_page_size.map(|size| u64::from(size.get())) {
        Some(size) if size > page => {
            let size = (size * PIECES).min(PAGES * page);
            of_hugepages(size.next_multiple_of(HugePage::Mb2.bytes()))
        }
        _ => Ok(Udmabuf::builder(PAGES * page).build()?),
    }
}

/// Allocates a dmabuf of 2 MiB hugepages. Waits a moment if enough are reserved but in use, because
/// the kernel frees a closed binding late, with the last packet that used it
/// (`__net_devmem_dmabuf_binding_free`).
fn of_hugepages(size: u64) -> Result<Udmabuf> {
    let end = Instant::now() + HUGEPAGES;
    let mut said = false;
    loop {
        let error = match Udmabuf::builder(size).hugepages(HugePage::Mb2).build() {
            Ok(memory) => return Ok(memory),
            Err(error) => error,
        };
        let reserved = reserved() >= size / HugePage::Mb2.bytes();
        let short = matches!(error, Error::Memory { .. } | Error::Available { .. });
        if !short || !reserved || Instant::now() > end {
            return Err(error.into());
        }
        if !std::mem::replace(&mut said, true) {
            say("waiting for hugepages in use");
        }
        sleep(Duration::from_millis(20));
    }
}

/// Reads the number of 2 MiB hugepages that are reserved on this machine, free or in use.
fn reserved() -> u64 {
    let count = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    count.map_or(0, |count| count.trim().parse().unwrap_or(0))
}
