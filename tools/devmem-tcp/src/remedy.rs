//! What to do about an error, where that is known.

use anyhow::Error;
use devmem::send::PumpError;

/// Extended-ack texts of the kernel, and what helps.
const BY_TEXT: &[(&str, &str)] = &[
    // __netif_mp_open_rxq
    (
        "tcp-data-split is disabled",
        "switch it on, on the physical device: ethtool -G IF tcp-data-split on",
    ),
    (
        "hds-thresh is not zero",
        "set it, on the physical device: ethtool -G IF hds-thresh 0; `devmem-tcp recv` does both \
         by itself, without --no-config",
    ),
    (
        "XDP program attached",
        "detach it: ip link set dev IF xdp off",
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
        "leave --rx-page-size away, or choose one that the driver supports",
    ),
    // netif_mp_open_rxq
    (
        "rx queue index out of range",
        "`devmem-tcp show IF` lists the device's queues",
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
    // netdev_can_lease_queue, netdev_can_create_queue
    (
        "Lease device is a virtual device",
        "--phys names a physical NIC, one with a bus device",
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
        "make the netkit with more rx queues: --rx-queues, one more than it leases",
    ),
    (
        "Leasing queues from different devices",
        "use one netkit for each NIC",
    ),
    // net_devmem_bind_dmabuf
    (
        "Device doesn't support DMA",
        "a queue that is leased out is bound through the netkit that leases it, a netkit's own \
         queue 0 never: `devmem-tcp show` lists the leases",
    ),
    (
        "must be PAGE_SIZE aligned",
        "use a dmabuf whose pieces are whole pages",
    ),
];

/// A line that says what to try, if there is one.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<udmabuf::Error>() {
            return error.remedy();
        }
        if let Some(error) = cause.downcast_ref::<devmem::listen::SocketError>() {
            return error.remedy();
        }
        if let Some(PumpError::Send(error)) = cause.downcast_ref::<PumpError>() {
            return error.remedy();
        }
        if let Some(hint) = cause.downcast_ref::<Hint>() {
            return Some(hint.remedy.clone());
        }
        match cause.downcast_ref::<nic::Error>() {
            Some(nic::Error::Refused(error)) => of_kernel(error),
            Some(_) => None,
            None => cause.downcast_ref::<netdev::Error>().and_then(of_kernel),
        }
    })
}

/// An error of ours that knows its own remedy.
#[derive(Debug)]
pub(crate) struct Hint {
    text: String,
    remedy: String,
}

impl Hint {
    pub(crate) fn new(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Hint {}

fn of_kernel(error: &netdev::Error) -> Option<String> {
    if let Some(text) = error.message() {
        if let Some((_, remedy)) = BY_TEXT.iter().find(|(part, _)| text.contains(part)) {
            return Some((*remedy).to_owned());
        }
    }
    match (error.op(), error.raw_os_error()?) {
        (_, libc::EPERM | libc::EACCES) => Some(
            "run it as root, or with CAP_NET_ADMIN (for a lease: in the initial user namespace)"
                .to_owned(),
        ),
        ("queue-create", libc::EOPNOTSUPP) => Some(kernel_too_old("7.1", "queue leases")),
        ("queue-create", libc::ERANGE) => {
            Some("`devmem-tcp show IF` lists the physical device's queues".to_owned())
        }
        ("bind-rx", libc::EOPNOTSUPP) => Some(
            "this device cannot receive into device memory: its driver has no queue API, or it \
             leases no queue"
                .to_owned(),
        ),
        ("bind-rx", libc::EINVAL) => {
            Some("`devmem-tcp show IF` lists the device's queues".to_owned())
        }
        ("bind-tx", libc::EOPNOTSUPP) => Some(
            "this device cannot send from device memory: its driver lacks netmem_tx, or it leases \
             no queue"
                .to_owned(),
        ),
        ("ntuple-insert", libc::EOPNOTSUPP) => Some(
            "the driver has no flow rules: steer the flow by other means and give --no-config"
                .to_owned(),
        ),
        ("ntuple-insert", libc::EEXIST) => {
            Some("a rule steers these packets already: `ethtool -n IF` lists the rules".to_owned())
        }
        ("ntuple-insert", libc::EINVAL) => Some(
            "the driver takes no such rule: `devmem-tcp show IF` lists the device's queues, \
             `ethtool -k IF` says whether ntuple filters are on"
                .to_owned(),
        ),
        ("netns", libc::ENOENT) => Some("`ip netns list` names the namespaces".to_owned()),
        (_, libc::ENODEV) => Some("`ip link` lists the devices of this namespace".to_owned()),
        _ => None,
    }
}

/// The running kernel beside the one that has the feature.
fn kernel_too_old(since: &str, what: &str) -> String {
    let running = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{what} need Linux {since} and CONFIG_NETKIT; this is {running}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_errno(op: &'static str, errno: i32) -> Option<String> {
        remedy(&Error::from(netdev::Error::from_errno(op, "nk0", errno)))
    }

    /// Before Linux 7.1 the kernel does not know the operation at all (`genl_family_rcv_msg`).
    #[test]
    fn a_kernel_without_leases_is_named() {
        let remedy = of_errno("queue-create", libc::EOPNOTSUPP).unwrap();
        assert!(remedy.contains("Linux 7.1"), "{remedy}");
    }

    #[test]
    fn what_is_unknown_has_no_remedy() {
        assert_eq!(of_errno("queue-create", libc::ENOMEM), None);
        assert_eq!(remedy(&Error::msg("tcp-data-split is disabled")), None);
    }

    #[test]
    fn the_cause_counts_behind_a_context() {
        let error = Error::from(netdev::Error::from_errno("bind-rx", "eth0", libc::EPERM));
        assert!(
            remedy(&error.context("recv"))
                .unwrap()
                .contains("CAP_NET_ADMIN")
        );
    }
}
