//! What to do about an error, where that is known.

use anyhow::Error;
use common::Hint;
use devmem::listen::SocketError;
use devmem::send::PumpError;

use crate::args::UsageError;

/// A line that says what to try, if there is one.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<udmabuf::Error>() {
            return error.remedy();
        }
        if let Some(hint) = cause.downcast_ref::<Hint>() {
            return Some(hint.remedy().to_owned());
        }
        if cause.is::<UsageError>() {
            return Some("see ncdevmem --help".to_owned());
        }
        if let Some(error) = cause.downcast_ref::<SocketError>() {
            return error.remedy();
        }
        if let Some(PumpError::Send(error)) = cause.downcast_ref::<PumpError>() {
            return error.remedy();
        }
        match cause.downcast_ref::<nic::Error>() {
            Some(nic::Error::Refused(error)) => of_kernel(error),
            Some(error) => error.remedy(),
            None => cause.downcast_ref::<netdev::Error>().and_then(of_kernel),
        }
    })
}

/// The netdev crate's, unless this tool has an option to name.
fn of_kernel(error: &netdev::Error) -> Option<String> {
    let text = error.message().unwrap_or_default();
    let remedy = match (error.op(), error.raw_os_error()?) {
        ("bind-rx", _) if text.contains("Unknown attribute type") => {
            "this kernel does not know it: -b is of Linux 7.3"
        }
        ("bind-rx", libc::EEXIST | libc::EBUSY) if !text.contains("XDP program") => {
            "another has this queue: `devmem-tcp show` lists who; name another, with -t and -q"
        }
        ("rings-get" | "rings-set" | "channels-get" | "rss-get", libc::EOPNOTSUPP) => {
            "devmem needs a NIC with header split: name one with -f"
        }
        ("ntuple-insert", libc::EOPNOTSUPP | libc::EINVAL) => {
            "the driver takes no such rule (`ethtool -k IF` says whether ntuple filters are on): \
             steer the flow by other means and give -n"
        }
        _ => return netdev::remedy(error),
    };
    Some(remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_errno(op: &'static str, errno: i32) -> Option<String> {
        remedy(&Error::from(netdev::Error::from_errno(op, "eth0", errno)).context("the probe"))
    }

    #[test]
    fn the_cause_counts_behind_a_context() {
        assert!(
            of_errno("bind-rx", libc::EPERM)
                .unwrap()
                .contains("CAP_NET_ADMIN")
        );
        assert!(
            of_errno("rings-get", libc::EOPNOTSUPP)
                .unwrap()
                .contains("-f")
        );
        assert_eq!(of_errno("bind-rx", libc::EIO), None);
    }
}
