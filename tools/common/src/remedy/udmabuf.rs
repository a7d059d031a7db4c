//! Remedies for making udmabufs.

use std::io;

use udmabuf::{Error, HugePage, ReservedHugepages, SIZE_LIMIT_MB};

/// Returns a one-line remedy for an error of a udmabuf; `None` if none is known.
pub fn of_udmabuf(error: &Error) -> Option<String> {
    match error {
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
        _ => None,
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
            ReservedHugepages::directory(hugepages)
        ),
    };
    Some(format!(
        "{free} of {reserved} reserved hugepages are free, {want} needed: {how}"
    ))
}
