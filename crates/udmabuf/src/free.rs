//! Hugepages that somebody reserved, and how many of them are free.

use std::fs;

use crate::HugePage;

/// Where the module keeps its limit on one buffer: 64 MiB up to 7.2, none from 7.3.
pub(crate) const SIZE_LIMIT_MB: &str = "/sys/module/udmabuf/parameters/size_limit_mb";

/// Where the kernel keeps the counts of one size.
pub(crate) fn directory(hugepages: HugePage) -> String {
    format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB",
        hugepages.bytes() >> 10
    )
}

/// Hugepages of one size.
pub(crate) struct Reserved {
    /// All that were reserved.
    pub(crate) all: u64,
    /// Those of them that hold nothing and were not promised to anybody.
    pub(crate) free: u64,
}

impl Reserved {
    /// Those of that size, if the machine has the size.
    pub(crate) fn of(hugepages: HugePage) -> Option<Self> {
        let directory = directory(hugepages);
        let count = |name| parameter(&format!("{directory}/{name}"));
        let (free, promised) = (count("free_hugepages"), count("resv_hugepages"));
        Some(Self {
            all: count("nr_hugepages")?,
            free: free.unwrap_or(0).saturating_sub(promised.unwrap_or(0)),
        })
    }
}

/// Can `len` bytes be made of the hugepages that are free?
pub(crate) fn suffice(hugepages: HugePage, len: u64) -> bool {
    len % hugepages.bytes() == 0
        && Reserved::of(hugepages).is_some_and(|reserved| reserved.free >= len / hugepages.bytes())
}

/// Bytes in the hugepages of that size that are free.
pub(crate) fn bytes(hugepages: HugePage) -> u64 {
    Reserved::of(hugepages).map_or(0, |reserved| reserved.free * hugepages.bytes())
}

/// The module's limit on one buffer, in bytes.
pub(crate) fn size_limit() -> Option<u64> {
    Some(parameter(SIZE_LIMIT_MB)?.saturating_mul(1 << 20))
}

/// A number out of sysfs. A limit below 0 never happens: `size_limit_mb` is an int above 0.
pub(crate) fn parameter(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
