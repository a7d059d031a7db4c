//! Remedies for refusals of the kernel, for all tools.
//!
//! `IF` stands for the device; for a leased queue, the physical one.

use netdev::Error;

/// The kernel's internal error number `ENOTSUPP` (`include/linux/errno.h`), which many drivers
/// return although it is not for user space.
const ENOTSUPP: i32 = 524;

/// Parts of the texts of extended acks, each with its remedy. The first that matches is used.
const BY_TEXT: &[(&str, &str)] = &[
    // __netif_mp_open_rxq
    (
        "tcp-data-split is disabled",
        "switch it on, on the physical device: `devmem-tcp apply IF --header-split`",
    ),
    (
        "hds-thresh is not zero",
        "set it, on the physical device: `devmem-tcp apply IF --header-split`",
    ),
    (
        "XDP program attached",
        "detach it: `ip link set dev IF xdp off`",
    ),
    (
        "already memory provider bound",
        "another process has this queue: `devmem-tcp show` lists the bindings; choose another queue",
    ),
    (
        "already in use by AF_XDP",
        "an AF_XDP socket has this queue: choose another queue",
    ),
    (
        "rx_page_size",
        "leave the rx page size away, or choose one that the driver supports",
    ),
    // ethnl_set_rings
    (
        "setting TCP data split is not supported",
        "the driver has no header split that can be switched, which devmem needs: `devmem-tcp doctor` lists \
         the NICs that can",
    ),
    // netif_mp_open_rxq
    (
        "rx queue index out of range",
        "`devmem-tcp show IF` or `ethtool -l IF` count the device's queues",
    ),
    (
        "leased to a virtual netdev",
        "bind through the netkit device that leases it: `devmem-tcp show` names it",
    ),
    // netdev_queue_busy
    (
        "in use by",
        "`devmem-tcp show` lists who has it; choose another queue",
    ),
    (
        "leased",
        "`devmem-tcp show` lists the leases; one ends when its netkit is deleted",
    ),
    // netdev_can_lease_queue, netdev_can_create_queue, netkit_queue_create
    (
        "Lease device is a virtual device",
        "lease from a physical NIC, one with a bus device",
    ),
    (
        "does not support queue management operations",
        "the NIC's driver has no queue API: devmem needs one",
    ),
    (
        "netkit can only lease against the peer device",
        "name the other end of the pair",
    ),
    (
        "netkit maximum queue limit reached",
        "make the netkit with more rx queues, one more than it leases",
    ),
    (
        "Leasing queues from different devices",
        "use one netkit for each NIC",
    ),
    // netdev_nl_bind_tx_doit
    (
        "Driver does not support netmem TX",
        "this device cannot send from device memory: its driver lacks it",
    ),
    (
        "No DMA-capable device found",
        "a netkit sends through the NIC whose queue it leases: lease one first",
    ),
    // net_devmem_bind_dmabuf, netdev_nl_get_dma_dev
    (
        "Device doesn't support DMA",
        "a queue that is leased out is bound through the netkit that leases it, a netkit's own \
         queue 0 never: `devmem-tcp show` lists the leases",
    ),
    (
        "DMA device mismatch",
        "one of the queues may be leased out: `devmem-tcp show` lists the leases; choose others",
    ),
    (
        "must be PAGE_SIZE aligned",
        "use a dmabuf whose pieces are whole pages",
    ),
];

/// Returns a one-line remedy for a refusal of the kernel; `None` if none is known. Commands in
/// backticks begin with `within`, which enters the device's namespace and ends with a space; empty
/// for the current one.
pub fn of_kernel(error: &Error, within: &str) -> Option<String> {
    let remedy = in_this_namespace(error)?;
    Some(quoted_within(&remedy, within))
}

/// Inserts `within` in front of each command in backticks.
pub fn quoted_within(text: &str, within: &str) -> String {
    let parts = text.split('`').enumerate();
    let quoted = parts.map(|(at, part)| match at % 2 {
        0 => part.to_owned(),
        _ => format!("`{within}{part}`"),
    });
    quoted.collect()
}

fn in_this_namespace(error: &Error) -> Option<String> {
    if let Some(text) = error.message() {
        if let Some((_, remedy)) = BY_TEXT.iter().find(|(part, _)| text.contains(part)) {
            return Some((*remedy).to_owned());
        }
    }
    let remedy = match (error.op(), error.raw_os_error()?) {
        (_, libc::EPERM | libc::EACCES) => {
            "run it as root, or with CAP_NET_ADMIN (for a lease: in the initial user namespace)"
        }
        ("queue-create", libc::EOPNOTSUPP) => {
            return Some(kernel_too_old("7.1", "queue leases"));
        }
        ("queue-create", libc::ERANGE) | ("bind-rx", libc::EINVAL) => {
            "`devmem-tcp show IF` or `ethtool -l IF` count the device's queues"
        }
        ("bind-rx", libc::EOPNOTSUPP) => {
            "this device cannot receive into device memory: its driver has no queue API, or it \
             leases no queue"
        }
        ("bind-rx" | "bind-tx", libc::ENOMEM) => {
            "the memory could not be mapped for the NIC: take a smaller dmabuf; of a GPU no more can be \
             mapped than its BAR1 has free (nvidia-smi -q -d MEMORY), and Resizable BAR enlarges that"
        }
        ("bind-rx" | "bind-tx", ENOTSUPP) => {
            "the exporter finds no way between this NIC and its memory: take a NIC nearer to the device, or \
             another mapping of its memory"
        }
        ("bind-tx", libc::EOPNOTSUPP) => {
            "this device cannot send from device memory: its driver lacks netmem_tx, or it leases \
             no queue"
        }
        ("ntuple-insert", libc::EOPNOTSUPP) => {
            "the driver has no flow rules: steer the flow by other means"
        }
        ("ntuple-insert", libc::EEXIST) => {
            "a rule steers these packets already: `ethtool -n IF` lists the rules"
        }
        ("ntuple-insert", libc::EINVAL) => {
            "the driver takes no such rule: `ethtool -l IF` counts the device's queues, `ethtool \
             -k IF` says whether ntuple filters are on"
        }
        // bnxt says `ENOMEM` (`bnxt_insert_ntp_filter`).
        ("ntuple-insert", libc::ENOSPC | libc::ENOMEM) => {
            "the table of rules is full: `ethtool -n IF` lists them, `ethtool -N IF delete N` \
             deletes one"
        }
        ("netns", libc::ENOENT) => "`ip netns list` names the namespaces",
        (_, libc::ENODEV) => "`ip link` lists the devices of this namespace",
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// Formats a remedy that names the kernel version that has the feature, and the running one.
fn kernel_too_old(since: &str, what: &str) -> String {
    let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{what} need Linux {since} and CONFIG_NETKIT; this is {}",
        running.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_errno(op: &'static str, errno: i32) -> Option<String> {
        of_kernel(&Error::from_errno(op, "nk0", errno), "")
    }

    #[test]
    fn commands_are_for_the_namespace_of_the_device() {
        let gone = Error::from_errno("link-get", "nk0", libc::ENODEV);
        let remedy = of_kernel(&gone, "ip netns exec box ").unwrap();
        assert_eq!(
            remedy,
            "`ip netns exec box ip link` lists the devices of this namespace"
        );
    }

    /// Checks the remedy on a kernel before Linux 7.1, which does not know the operation
    /// (`genl_family_rcv_msg`).
    #[test]
    fn a_kernel_without_leases_is_named() {
        let remedy = of_errno("queue-create", libc::EOPNOTSUPP).unwrap();
        assert!(remedy.contains("Linux 7.1"), "{remedy}");
    }

    #[test]
    fn privilege_is_named_whatever_was_asked() {
        for op in ["bind-rx", "queue-create", "rings-set"] {
            assert!(of_errno(op, libc::EPERM).unwrap().contains("CAP_NET_ADMIN"));
        }
    }

    #[test]
    fn an_unknown_error_has_no_remedy() {
        assert_eq!(of_errno("queue-create", libc::ENOMEM), None);
        assert_eq!(of_errno("rss-get", libc::EOPNOTSUPP), None);
    }
}
