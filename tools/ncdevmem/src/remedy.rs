//! What to do about an error, where that is known.

use anyhow::Error;
use devmem::listen::SocketError;
use devmem::send::PumpError;

use crate::args::UsageError;

/// Extended-ack texts of the kernel, and what helps.
const BY_TEXT: &[(&str, &str)] = &[
    // __netif_mp_open_rxq
    (
        "tcp-data-split is disabled",
        "switch it on, on the physical device: ethtool -G IF tcp-data-split on",
    ),
    (
        "hds-thresh is not zero",
        "set it, on the physical device: ethtool -G IF hds-thresh 0",
    ),
    (
        "XDP program attached",
        "detach it: ip link set dev IF xdp off",
    ),
    (
        "already memory provider bound",
        "another process has this queue: `devmem-tcp show` lists the bindings; name another, with \
         -t and -q",
    ),
    (
        "already in use by AF_XDP",
        "an AF_XDP socket has this queue: name another, with -t and -q",
    ),
    (
        "rx_page_size",
        "leave -b away, or choose one that the driver supports",
    ),
    (
        "rx queue index out of range",
        "`ethtool -l IF` counts the device's queues",
    ),
    (
        "leased to a virtual netdev",
        "bind through the netkit device that leases it: `devmem-tcp show` names it",
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
    // net_devmem_bind_dmabuf
    (
        "Device doesn't support DMA",
        "a queue that is leased out is bound through the netkit that leases it, a netkit's own \
         queue 0 never: `devmem-tcp show` lists the leases",
    ),
    (
        "DMA device mismatch",
        "one of the queues may be leased out: `devmem-tcp show` lists the leases; name others, with \
         -t and -q",
    ),
    (
        "Unknown attribute type",
        "this kernel does not know it: -b is of Linux 7.3",
    ),
];

/// A line that says what to try, if there is one.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<udmabuf::Error>() {
            return error.remedy();
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
            Some(_) => None,
            None => cause.downcast_ref::<netdev::Error>().and_then(of_kernel),
        }
    })
}

fn of_kernel(error: &netdev::Error) -> Option<String> {
    if let Some(text) = error.message() {
        if let Some((_, remedy)) = BY_TEXT.iter().find(|(part, _)| text.contains(part)) {
            return Some((*remedy).to_owned());
        }
    }
    let remedy = match (error.op(), error.raw_os_error()?) {
        (_, libc::EPERM | libc::EACCES) => "run it as root, or with CAP_NET_ADMIN",
        ("bind-rx", libc::EOPNOTSUPP) => {
            "this device cannot receive into device memory: its driver has no queue API, or it \
             leases no queue"
        }
        ("bind-tx", libc::EOPNOTSUPP) => "this device cannot send from device memory",
        ("rings-get" | "rings-set" | "channels-get" | "rss-get", libc::EOPNOTSUPP) => {
            "devmem needs a NIC with header split: name one with -f"
        }
        ("bind-rx", libc::EINVAL) => "`ethtool -l IF` counts the device's queues",
        ("ntuple-insert", libc::EEXIST) => {
            "a rule steers these packets already: `ethtool -n IF` lists the rules"
        }
        ("ntuple-insert", libc::EOPNOTSUPP | libc::EINVAL) => {
            "the driver takes no such rule (`ethtool -k IF` says whether ntuple filters are on): \
             steer the flow by other means and give -n"
        }
        (_, libc::ENODEV) => "`ip link` lists the devices of this namespace",
        _ => return None,
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
        assert_eq!(of_errno("bind-rx", libc::ENOMEM), None);
    }
}
