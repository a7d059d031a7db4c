//! The errors of a receiver, in the options of this tool and with what to do about them.

use anyhow::Error;
use netdev::{NetNs, queue_list, shell_command, shell_word};

use crate::enter::{enter, within};
use crate::remedy::{Hint, in_namespace};
use crate::{below, holder};

/// The error of a receiver in the namespace `netns`, whose NIC is in `nic_netns`.
pub(super) fn explained(error: receiver::Error, netns: &NetNs, nic_netns: &NetNs) -> Error {
    use receiver::Error::{
        Down, Engine, InUse, Kernel, Map, NamedTwice, Nic, NoFreeQueue, NoLease, NoSuchQueue,
        NotLeased, NothingFrom, Socket, Stacked,
    };
    let hint = match &error {
        Down { device } => {
            let up = shell_command(["ip", "link", "set", "dev", device, "up"]);
            Hint::new(
                format!("recv {error}"),
                format!("set it up: {}", within(netns, &up)),
            )
        }
        Stacked { device, kind, nics } => below::stacked(device, kind, nics),
        NoSuchQueue {
            device,
            queue,
            there,
        } => {
            let why = format!("{device} has rx queues {}", queue_list(there));
            wrong_queue(device, queue.get(), &why)
        }
        NamedTwice { device, queue } => wrong_queue(device, queue.get(), "it is named twice"),
        NotLeased { device } => {
            let why = format!("a netkit's queue 0 is its own: {device} leases others");
            wrong_queue(device, 0, &why)
        }
        NoFreeQueue { device } => {
            let more = shell_command(["ethtool", "-L", device, "combined", "N"]);
            Hint::new(
                format!("recv {device}: no rx queue is free for it"),
                format!("give it more queues: {}", within(netns, &more)),
            )
        }
        NoLease { device } => {
            let at = enter(netns).map_or_else(String::new, |(_, argument)| {
                format!(" --netns {}", shell_word(&argument))
            });
            Hint::new(
                format!("recv {error}"),
                format!(
                    "lease one: devmem-tcp lease --phys IF --queue N --netkit {}{at}",
                    shell_word(device)
                ),
            )
        }
        InUse { .. } => Hint::new(
            format!("recv {error}{}", holders(netns)),
            "end that receiver, or choose another queue: `devmem-tcp show` lists the bindings",
        ),
        NothingFrom { from, address } => Hint::new(
            format!("--from {from}: nothing from there can come to {address}"),
            "give two addresses of one family",
        ),
        // The kernel's errors have remedies of their own.
        _ => {
            return match error {
                Kernel(error) => {
                    // A device that is not there, or else what the NIC refuses.
                    let at = match error.raw_os_error() {
                        Some(libc::ENODEV | libc::ENOENT) => netns,
                        _ => nic_netns,
                    };
                    in_namespace(with_holders(error, netns), at)
                }
                Nic(error) => in_namespace(*error, nic_netns),
                Socket(error) => in_namespace(error, netns),
                Engine(error) => Error::from(error).context("recv"),
                Map(error) => Error::from(error).context("mapping the dmabuf"),
                error => error.into(),
            };
        }
    };
    hint.into()
}

fn wrong_queue(device: &str, queue: u32, why: &str) -> Hint {
    Hint::new(
        format!("recv {device}: --queue {queue}: {why}"),
        "`devmem-tcp show IF --all` lists the queues: name another",
    )
}

/// Names who has the queue, where that is what the kernel refused a binding for.
fn with_holders(error: netdev::Error, netns: &NetNs) -> netdev::Error {
    let text = error.message().unwrap_or_default();
    if !text.contains("already memory provider bound") {
        return error;
    }
    let object = format!("{}{}", error.object(), holders(netns));
    error.about(object)
}

/// Who has a binding in this namespace, behind a comma; nothing where nobody can be seen.
fn holders(netns: &NetNs) -> String {
    match &holder::find(Some(netns))[..] {
        [] => String::new(),
        holders => format!(", by {}", holders.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use netdev::QueueId;

    use super::*;

    fn told(error: receiver::Error) -> (String, String) {
        let here = NetNs::current().unwrap();
        let error = explained(error, &here, &here);
        let hint = error.downcast_ref::<Hint>().unwrap();
        (hint.to_string(), hint.remedy().to_owned())
    }

    #[test]
    fn an_option_of_this_tool_is_named() {
        let (text, _) = told(receiver::Error::NoSuchQueue {
            device: "eth1".to_owned(),
            queue: QueueId::new(99),
            there: (0..4).map(QueueId::new).collect(),
        });
        assert_eq!(text, "recv eth1: --queue 99: eth1 has rx queues 0-3");
        let (text, _) = told(receiver::Error::NothingFrom {
            from: "2001:db8::9".parse().unwrap(),
            address: "192.0.2.1:5000".parse().unwrap(),
        });
        assert_eq!(
            text,
            "--from 2001:db8::9: nothing from there can come to 192.0.2.1:5000"
        );
    }

    #[test]
    fn remedies_can_be_pasted() {
        let (text, remedy) = told(receiver::Error::Down {
            device: "eth1".to_owned(),
        });
        assert_eq!(text, "recv eth1: the device is down");
        assert_eq!(remedy, "set it up: ip link set dev eth1 up");
    }

    #[test]
    fn what_has_a_remedy_of_its_own_keeps_it() {
        let here = NetNs::current().unwrap();
        let error = netdev::Error::from_errno("bind-rx", "eth1 queue 3", 1);
        let error = explained(error.into(), &here, &here);
        assert!(error.downcast_ref::<netdev::Error>().is_some());
        let error = nic::Error::Gone {
            device: "eth1".to_owned(),
        };
        let error = explained(error.into(), &here, &here);
        assert!(error.downcast_ref::<nic::Error>().is_some());
    }
}
