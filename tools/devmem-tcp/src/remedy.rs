//! Remedies for errors.

use anyhow::Error;
pub(crate) use common::Hint;
use common::remedy::{of_cause, quoted_within};
use netdev::{NetNs, shell_word};

use crate::elsewhere::namespaces_of;
use crate::enter::enter;
use crate::privilege::{is_root, with_sudo};

/// Remedies, in terms of this tool's options, by parts of the kernel's texts.
const REMEDIES_BY_TEXT: &[(&str, &str)] = &[
    (
        "tcp-data-split is disabled",
        "`devmem-tcp recv` switches it on by itself, without --no-config; or, on the physical device: \
         `devmem-tcp apply IF --header-split`",
    ),
    (
        "hds-thresh is not zero",
        "`devmem-tcp recv` sets it by itself, without --no-config; or, on the physical device: \
         `devmem-tcp apply IF --header-split`",
    ),
    (
        "netkit maximum queue limit reached",
        "make the netkit with more rx queues: --rx-queues, one more than it leases",
    ),
];

/// Remedy for an error in a line, where it is known.
pub(crate) fn remedy(error: &Error) -> Option<String> {
    remedy_within(error, "")
}

/// Remedy for an error like [`remedy`], with commands that begin with `within`.
fn remedy_within(error: &Error, within: &str) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<dmabuf::Error>() {
            return of_mapping(error);
        }
        of_cause(cause, within, of_kernel)
    })
}

/// Error of something in a network namespace, with a remedy whose commands can be pasted into a
/// shell in the current one.
pub(crate) fn in_namespace(error: impl Into<Error>, netns: &NetNs) -> Error {
    let error = error.into();
    let Some((within, _)) = enter(netns) else {
        return error;
    };
    match remedy_within(&error, &within) {
        Some(remedy) if !error.is::<Hint>() => Hint::new(format!("{error:#}"), remedy).into(),
        _ => error,
    }
}

/// Remedy for memory that the CPU can't map. An exporter without `mmap` returns `EINVAL`
/// (`dma_buf_mmap_internal`), others an error of their driver.
fn of_mapping(error: &dmabuf::Error) -> Option<String> {
    let dmabuf::Error::Map { source, .. } = error else {
        return None;
    };
    let remedy = match source.raw_os_error()? {
        libc::EACCES => "that fd is for reading or for writing only: have one opened for both",
        libc::ENOMEM => "there is no room to map it: take a smaller dmabuf, or raise ulimit -v",
        _ => {
            "the processor cannot reach it there: take --memory of another kind, or, to receive, leave \
             --validate, --checksum and --output out"
        }
    };
    Some(remedy.to_owned())
}

/// Remedy for a NIC that can't be set up, with commands that begin with `within`.
pub(crate) fn of_nic(error: &nic::Error, within: &str) -> Option<String> {
    of_cause(error, within, of_kernel)
}

/// Remedy for a refusal of the kernel, with the option of this tool where it has one.
fn of_kernel(error: &netdev::Error, within: &str) -> Option<String> {
    let text = error.message().unwrap_or_default();
    if let Some((_, remedy)) = REMEDIES_BY_TEXT
        .iter()
        .find(|(part, _)| text.contains(part))
    {
        return Some(quoted_within(remedy, within));
    }
    match (error.op(), error.raw_os_error()?) {
        ("", libc::ENODEV) => missing_device_remedy(error.object()),
        (_, libc::EPERM) if !is_root() => Some(format!(
            "it takes root, or CAP_NET_ADMIN (for a lease in the initial user namespace): {}",
            with_sudo()
        )),
        ("ntuple-insert", libc::EOPNOTSUPP) => Some(
            "the driver has no flow rules: steer the flow by other means and give --no-config"
                .to_owned(),
        ),
        _ => None,
    }
    .or_else(|| common::remedy::of_kernel(error, within))
}

/// Remedy for a device that is not in the namespace where it was looked for.
fn missing_device_remedy(device: &str) -> Option<String> {
    let namespaces = namespaces_of(device);
    if namespaces.is_empty() {
        return None;
    }
    let named: Vec<String> = namespaces
        .iter()
        .map(|one| format!("--netns {}", shell_word(one)))
        .collect();
    Some(format!(
        "there is one in another namespace: {}",
        named.join(" or ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_alone_have_no_remedy() {
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

    #[test]
    fn memory_that_the_processor_cannot_reach_is_left_there() {
        let map = |errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            let error = dmabuf::Error::Map { len: 4096, source };
            remedy(&Error::from(error).context("mapping the dmabuf")).unwrap()
        };
        assert!(map(libc::EINVAL).contains("--validate"));
        assert!(map(libc::EACCES).contains("opened for both"));
        let odd = memory::heap::Error::Allocate {
            heap: "system".parse().unwrap(),
            len: 4096,
            source: std::io::Error::from_raw_os_error(libc::ENOMEM),
        };
        let odd = Error::from(memory::Error::from(odd)).context("recv");
        assert!(remedy(&odd).unwrap().contains("another heap"));
    }

    #[test]
    fn an_option_of_this_tool_is_named() {
        let error = netdev::Error::from_errno("ntuple-insert", "eth0", libc::EOPNOTSUPP);
        assert!(remedy(&error.into()).unwrap().contains("--no-config"));
    }
}
