//! Check that memory for dmabufs is available, before a page is allocated.

use anyhow::Result;
use memory::{Available, Choice, check_available};
use udmabuf::HugePage;

use crate::args::Size;
use crate::remedy::Hint;

/// Refuses `count` dmabufs of `len` bytes for which no memory is available. `flag` formats the
/// option for a size.
pub(crate) fn check(
    choice: &Choice,
    len: Option<u64>,
    count: usize,
    pages: Option<HugePage>,
    command: &str,
    flag: impl FnOnce(Size) -> String,
) -> Result<()> {
    let count = count as u64;
    let Err(error) = check_available(choice, len, count, pages) else {
        return Ok(());
    };
    let Some(available) = error.available() else {
        return Err(error.into());
    };
    let of = match count {
        1 => String::new(),
        count => format!(", {count} dmabufs"),
    };
    let text = format!("{command}{of}: {error}");
    let advice = flag(Size(advice(available, count, choice)));
    Err(Hint::new(text, format!("take less: {advice}")).into())
}

/// Recommended length in bytes of each of `count` dmabufs, within all limits.
pub(crate) fn advice(available: &Available, count: u64, choice: &Choice) -> u64 {
    let limit = match choice {
        Choice::Udmabuf => udmabuf::size_limit(),
        _ => None,
    };
    available.advice(count).min(limit.unwrap_or(u64::MAX))
}
