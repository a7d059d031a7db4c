//! Remedies for errors, where they are known.

use anyhow::Error;
use common::remedy::{of_cause, of_socket};
use netdev::shell_command;

use crate::args::UsageError;

/// Remedy for an error in a line, where it is known.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if cause.is::<UsageError>() {
            return Some("see ncdevmem --help".to_owned());
        }
        match cause.downcast_ref::<receiver::Error>() {
            Some(error) => of_receiver(error),
            None => of_cause(cause, "", of_kernel),
        }
    })
}

fn of_receiver(error: &receiver::Error) -> Option<String> {
    use receiver::Error::{
        Down, InUse, Kernel, NamedTwice, Nic, NoLease, NoSuchQueue, NotLeased, NotRestored, Socket,
        Stacked,
    };
    Some(match error {
        Kernel(error) => return of_kernel(error, ""),
        Nic(error) => return of_cause(error.as_ref(), "", of_kernel),
        Socket(error) => return of_socket(error, ""),
        NotRestored { error, .. } => return of_receiver(error),
        Down { device } => {
            let up = shell_command(["ip", "link", "set", "dev", device, "up"]);
            format!("set it up: {up}")
        }
        Stacked { nics, .. } => format!("name the NIC itself: -f {}", nics.first()?),
        InUse { .. } => QUEUE_IN_USE_REMEDY.to_owned(),
        NoSuchQueue { .. } | NamedTwice { .. } | NotLeased { .. } => {
            "`devmem-tcp show IF --all` lists the queues: name others, with -t and -q".to_owned()
        }
        NoLease { .. } => "lease a queue to it: see devmem-tcp lease --help".to_owned(),
        _ => return None,
    })
}

/// Remedy for a queue that another receiver has.
const QUEUE_IN_USE_REMEDY: &str =
    "another has this queue: `devmem-tcp show` lists who; name another, with -t and -q";

/// Remedy for a refusal of the kernel, with the option of this tool where it has one.
fn of_kernel(error: &netdev::Error, within: &str) -> Option<String> {
    let text = error.message().unwrap_or_default();
    let remedy = match (error.op(), error.raw_os_error()?) {
        ("bind-rx", _) if text.contains("Unknown attribute type") => {
            "this kernel does not know it: -b is of Linux 7.3"
        }
        ("bind-rx", libc::EEXIST | libc::EBUSY) if !text.contains("XDP program") => {
            QUEUE_IN_USE_REMEDY
        }
        ("rings-get" | "rings-set" | "channels-get" | "rss-get", libc::EOPNOTSUPP) => {
            "devmem needs a NIC with header split: name one with -f"
        }
        ("ntuple-insert", libc::EOPNOTSUPP | libc::EINVAL) => {
            "the driver takes no such rule (`ethtool -k IF` says whether ntuple filters are on): \
             steer the flow by other means and give -n"
        }
        _ => return common::remedy::of_kernel(error, within),
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

    #[test]
    fn a_receivers_error_has_the_remedy_of_what_it_is_about() {
        let of = |error: receiver::Error| remedy(&Error::from(error)).unwrap();
        let kernel = |errno| netdev::Error::from_errno("bind-rx", "eth0 queue 3", errno);
        assert!(of(kernel(libc::EEXIST).into()).contains("-t and -q"));
        let refused = nic::Error::Refused(kernel(libc::EPERM));
        assert!(of(refused.into()).contains("CAP_NET_ADMIN"));
        let down = || receiver::Error::Down {
            device: "eth0".to_owned(),
        };
        assert!(of(down()).contains("ip link set dev eth0 up"));
        let gone = nic::Error::Gone {
            device: "eth0".to_owned(),
        };
        assert!(of(down().and(Err(gone))).contains("ip link set dev eth0 up"));
    }
}
