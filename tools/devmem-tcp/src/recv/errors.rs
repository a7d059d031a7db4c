//! Errors of the `receiver` library turned into errors that name this tool's options and a remedy.

use std::net::SocketAddr;

use anyhow::{Error, Result};
use devmem::listen::SocketError;
use netdev::link::LinkInfo;
use netdev::queues::Queue;
use netdev::{Link, NetNs, Netdev, QueueId, QueueType, queue_list, shell_command, shell_word};
use receiver::RxDevice;

use crate::enter::{enter, within};
use crate::remedy::{Hint, in_namespace};
use crate::{below, holder};

/// Adds a remedy to a receiver's error. The device is in `netns`, its NIC in `nic_netns`.
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
            wrong_queue((device, netns), queue.get(), &why)
        }
        NamedTwice { device, queue } => {
            wrong_queue((device, netns), queue.get(), "it is named twice")
        }
        NotLeased { device } => {
            let why = format!("a netkit's queue 0 is its own: {device} leases others");
            wrong_queue((device, netns), 0, &why)
        }
        NoFreeQueue { device } => {
            let more = shell_command(["ethtool", "-L", device, "combined", "N"]);
            Hint::new(
                format!("recv {device}: no rx queue is free for it"),
                format!("give it more queues: {}", within(netns, &more)),
            )
        }
        NoLease { device } => no_lease(device, &error, netns),
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
                    match leased_out(&error, netns) {
                        Some(remedy) => Hint::new(error.to_string(), remedy).into(),
                        None => in_namespace(with_holders(error, netns), at),
                    }
                }
                Nic(error) => in_namespace(*error, nic_netns),
                Socket(error) => match listeners(&error, netns) {
                    Some(by) => Hint::new(
                        format!("{}, by {by}", common::with_sources(&error)),
                        "end that process, or take another port or address",
                    )
                    .into(),
                    None => in_namespace(error, netns),
                },
                Engine(error) => Error::from(error).context("recv"),
                Map(error) => Error::from(error).context("mapping the dmabuf"),
                error => error.into(),
            };
        }
    };
    hint.into()
}

/// Adds a remedy to the error of a receiver on `device`.
pub(super) fn explained_of(error: receiver::Error, device: &RxDevice) -> Error {
    explained(error, &device.netns, nic_netns(device))
}

/// Adds a remedy to an error of restoring the NIC behind `device`.
pub(super) fn restored_of(restored: Result<(), nic::Error>, device: &RxDevice) -> Result<()> {
    restored.map_err(|error| in_namespace(error, nic_netns(device)))
}

/// Namespace of the NIC behind a device; the device's own namespace if the NIC is out of reach.
fn nic_netns(device: &RxDevice) -> &NetNs {
    device.nic.as_ref().map_or(&device.netns, |nic| &nic.netns)
}

/// Error of a virtual device that leases no queue. Remedy: another device, or a `lease` command.
fn no_lease(device: &str, error: &receiver::Error, netns: &NetNs) -> Hint {
    let link = Link::open_in(netns).and_then(|mut links| links.by_name(device));
    let netkit = link.as_ref().ok().and_then(|link| link.netkit.as_ref());
    let option = |netns: &NetNs| {
        enter(netns).map_or_else(String::new, |(_, argument)| {
            format!(" --netns {}", shell_word(&argument))
        })
    };
    let remedy = match (&link, netkit) {
        (Ok(link), Some(netkit)) if !netkit.can_lease() => match other_end(netns, link) {
            Some((netns, other)) => format!(
                "it is the host end of a pair: receive on the other one, --dev {}{}",
                shell_word(&other.name),
                option(&netns)
            ),
            None => "it is the host end of a pair: receive on the other one".to_owned(),
        },
        (Ok(_), None) => {
            "receive on a NIC, or on a netkit that leases one's queue: `devmem-tcp doctor` lists the \
             NICs"
                .to_owned()
        }
        _ => format!(
            "lease one: devmem-tcp lease --phys IF --queue N --netkit {}{}",
            shell_word(device),
            option(netns)
        ),
    };
    Hint::new(format!("recv {error}"), remedy)
}

/// Finds the other end of a netkit pair, and its namespace; `None` if it can't be seen.
fn other_end(netns: &NetNs, link: &LinkInfo) -> Option<(NetNs, LinkInfo)> {
    let (there, ifindex) = Link::open_in(netns).ok()?.other_end(netns, link).ok()??;
    let other = Link::open_in(&there).ok()?.get(ifindex).ok()?;
    Some((there, other))
}

fn wrong_queue((device, netns): (&str, &NetNs), queue: u32, why: &str) -> Hint {
    let show = shell_command(["devmem-tcp", "show", device, "--all"]);
    Hint::new(
        format!("recv {device}: --queue {queue}: {why}"),
        format!("`{}` lists the queues: name another", within(netns, &show)),
    )
}

/// Adds the processes that hold bindings to the error of a queue that is bound already.
fn with_holders(error: netdev::Error, netns: &NetNs) -> netdev::Error {
    let text = error.message().unwrap_or_default();
    if !text.contains("already memory provider bound") {
        return error;
    }
    let object = format!("{}{}", error.object(), holders(netns));
    error.about(object)
}

/// Lists the processes that hold bindings in a namespace, as `, by A or B`; empty if none is seen.
fn holders(netns: &NetNs) -> String {
    match &holder::find(Some(netns))[..] {
        [] => String::new(),
        holders => format!(", by {}", holders.join(" or ")),
    }
}

/// Remedy for a queue that can't be bound because it is leased out (`netdev_nl_get_dma_dev`).
/// `None` for any other error.
fn leased_out(error: &netdev::Error, netns: &NetNs) -> Option<String> {
    if !error.message()?.contains("Device doesn't support DMA") {
        return None;
    }
    // "eth1 queue 3"
    let (device, queues) = error.object().split_once(" queue")?;
    let device = Link::open_in(netns).ok()?.by_name(device).ok()?;
    let mut queues = queues
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|id| id.parse().ok());
    let all = Netdev::open_in(netns)
        .ok()?
        .queues(Some(device.ifindex))
        .ok()?;
    let (queue, lease) = queues.find_map(|id| {
        let named = |queue: &&Queue| queue.kind == QueueType::Rx && queue.id == QueueId::new(id);
        Some((id, all.iter().find(named)?.lease?))
    })?;
    let guest = match lease.netns_id {
        None => netns.clone(),
        Some(id) => {
            let visible = NetNs::visible().ok()?.namespaces;
            Link::open_in(netns)
                .ok()?
                .find_namespace(id, &visible)
                .ok()??
        }
    };
    let netkit = Link::open_in(&guest).ok()?.get(lease.ifindex).ok()?.name;
    let at = enter(&guest).map_or_else(String::new, |(_, argument)| {
        format!(" --netns {}", shell_word(&argument))
    });
    Some(format!(
        "queue {queue} is leased to {netkit}: receive there, --dev {}{at}; or name another queue",
        shell_word(&netkit)
    ))
}

/// Lists the processes that listen at the address of a bind error, if that is `EADDRINUSE`.
fn listeners(error: &SocketError, netns: &NetNs) -> Option<String> {
    if error.raw_os_error() != Some(libc::EADDRINUSE) {
        return None;
    }
    let at: SocketAddr = error.object().parse().ok()?;
    match &holder::listening(netns, at)[..] {
        [] => None,
        processes => Some(processes.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
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
