//! Reserved hugepages, and the module's limit on one buffer.

use std::fs;

use crate::HugePage;

/// Parameter file with the udmabuf module's limit on one buffer: 64 MiB up to Linux 7.2, none from
/// 7.3 on.
pub const SIZE_LIMIT_MB: &str = "/sys/module/udmabuf/parameters/size_limit_mb";

/// Numbers of reserved hugepages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReservedHugepages {
    /// Number of hugepages that were reserved.
    pub all: u64,
    /// Number of reserved hugepages that are neither used nor promised.
    pub free: u64,
}

impl ReservedHugepages {
    /// Folder in sysfs with the numbers of hugepages of one size.
    pub fn directory(hugepages: HugePage) -> String {
        format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB",
            hugepages.bytes() >> 10
        )
    }

    /// Reads the numbers of reserved hugepages of one size; `None` if the machine does not have the
    /// size.
    pub fn of(hugepages: HugePage) -> Option<Self> {
        let directory = Self::directory(hugepages);
        let count = |name| read_parameter(&format!("{directory}/{name}"));
        let (free, promised) = (count("free_hugepages"), count("resv_hugepages"));
        Some(Self {
            all: count("nr_hugepages")?,
            free: free.unwrap_or(0).saturating_sub(promised.unwrap_or(0)),
        })
    }
}

/// Whether the free reserved hugepages hold `len` bytes.
pub(crate) fn suffice(hugepages: HugePage, len: u64) -> bool {
    len % hugepages.bytes() == 0
        && ReservedHugepages::of(hugepages)
            .is_some_and(|reserved| reserved.free >= len / hugepages.bytes())
}

/// Total size in bytes of the free reserved hugepages of one size.
pub(crate) fn bytes(hugepages: HugePage) -> u64 {
    ReservedHugepages::of(hugepages).map_or(0, |reserved| reserved.free * hugepages.bytes())
}

/// The udmabuf module's limit on one buffer in bytes.
pub(crate) fn size_limit() -> Option<u64> {
    Some(read_parameter(SIZE_LIMIT_MB)?.saturating_mul(1 << 20))
}

/// Reads a number from sysfs. Negative values don't occur: `size_limit_mb` is positive.
pub(crate) fn read_parameter(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
