//! Checks of a netkit to receive on: the lease behind it, and the route into it.

use std::fs;
use std::net::IpAddr;
use std::ops::ControlFlow;

use anyhow::Result;
use netdev::link::LinkInfo;
use netdev::{Link, NetNs, Netdev, QueueId, QueueType, shell_command, shell_word};
use receiver::{NicBehind, nic_behind};

use super::check::{Area, Check, Finding};
use super::machine::Machine;
use super::namespace::{Namespace, program};
use super::nic::{LeasedThrough, Nic, is_free};
use super::probe::{self, QueueApi};
use crate::below;
use crate::guest_route::firewall::{accept_commands, describe, dropping_chains};

/// State of a netkit, or of another virtual device, and of the NIC behind it.
#[derive(Debug)]
pub(super) struct Netkit {
    namespace: Namespace,
    link: LinkInfo,
    /// Leased queues to receive on.
    queues: Vec<QueueId>,
    /// NIC behind the leased queues, where it can be seen.
    behind: Option<(Namespace, LinkInfo, Vec<QueueId>)>,
    /// Other end of the netkit pair, where it can be seen.
    other: Option<(Namespace, LinkInfo)>,
    /// Command that leases a queue to the netkit.
    lease: Option<String>,
    /// Result of a binding that was tried, where the NIC can't be examined.
    trial: Option<QueueApi>,
}

impl Netkit {
    pub(super) fn look(
        machine: &Machine,
        namespace: Namespace,
        link: LinkInfo,
        asked: &[QueueId],
    ) -> Result<Self> {
        let mut all = Netdev::open_in(&namespace.netns)?.queues(Some(link.ifindex))?;
        all.retain(|queue| queue.kind == QueueType::Rx && queue.id.get() > 0);
        let mut queues: Vec<QueueId> = all.iter().map(|queue| queue.id).collect();
        if !link.up {
            // Queues of a device that is down are not listed, but stay leased.
            queues = (1..link.rx_queues).map(QueueId::new).collect();
        }
        queues.retain(|queue| asked.is_empty() || asked.contains(queue));
        let behind = match nic_behind(&namespace.netns, &link, &queues)? {
            Some(nic) => Some(nic_behind_lease(nic)?),
            None => None,
        };
        if !link.up && behind.is_none() {
            queues.clear();
        }
        let other = other_end(&namespace, &link)?;
        let lease = match (queues.is_empty(), is_lessee(&link)) {
            (true, true) => lease_command(machine, &namespace, &link, other.as_ref())?,
            _ => None,
        };
        let trial = match (queues.first(), &behind) {
            (Some(queue), None) => Some(probe::queue_api(machine, &namespace, &link, *queue)),
            _ => None,
        };
        Ok(Self {
            other,
            namespace,
            link,
            queues,
            behind,
            lease,
            trial,
        })
    }

    /// Reads the state of the NIC behind the netkit, where it can be seen.
    pub(super) fn nic(&self, machine: &Machine) -> Option<netdev::Result<Nic>> {
        let (namespace, link, queues) = self.behind.clone()?;
        let through = LeasedThrough {
            namespace: self.namespace.clone(),
            link: self.link.clone(),
            queue: *self.queues.first()?,
        };
        Some(Nic::look(machine, namespace, link, &queues, Some(&through)))
    }
}

fn nic_behind_lease(nic: NicBehind) -> Result<(Namespace, LinkInfo, Vec<QueueId>)> {
    let link = Link::open_in(&nic.netns)?.get(nic.ifindex)?;
    Ok((Namespace::new(nic.netns)?, link, nic.queues))
}

/// Whether a queue can be leased to the virtual device (`netkit_queue_create`).
fn is_lessee(link: &LinkInfo) -> bool {
    link.netkit
        .as_ref()
        .is_some_and(|netkit| netkit.can_lease())
}

/// Finds the other end of a netkit pair, in any visible namespace.
fn other_end(namespace: &Namespace, link: &LinkInfo) -> Result<Option<(Namespace, LinkInfo)>> {
    if link.netkit.is_none() {
        return Ok(None);
    }
    let here = &namespace.netns;
    let Some((netns, other)) = Link::open_in(here)?.other_end(here, link)? else {
        return Ok(None);
    };
    let other = Link::open_in(&netns).and_then(|mut links| links.get(other));
    match (other, link.link_netns_id) {
        (Ok(other), None) => Ok(Some((namespace.clone(), other))),
        (Ok(other), Some(_)) => Ok(Some((Namespace::new(netns)?, other))),
        (Err(error), None) => Err(error.into()),
        (Err(_), Some(_)) => Ok(None),
    }
}

/// Command that leases a free queue of a NIC in the current namespace to the netkit; `None` if
/// there is no such NIC.
fn lease_command(
    machine: &Machine,
    namespace: &Namespace,
    link: &LinkInfo,
    other: Option<&(Namespace, LinkInfo)>,
) -> Result<Option<String>> {
    let here = Namespace::new(NetNs::current()?)?;
    let mut command = None;
    let _first = each_nic(machine, &here, |nic| {
        let suits = !matches!(nic.queue_api, QueueApi::Missing | QueueApi::NoDma);
        let queue = nic.queues.iter().rfind(|queue| is_free(queue));
        let Some(queue) = queue.filter(|_| suits && nic.queues.len() > 1) else {
            return ControlFlow::Continue(());
        };
        command = Some(format!(
            "lease --phys {} --queue {} --netkit {}",
            shell_word(nic.name()),
            queue.id,
            shell_word(&link.name)
        ));
        ControlFlow::Break(())
    });
    let Some(mut command) = command else {
        return Ok(None);
    };
    if let Some(netns) = namespace.argument() {
        command += &format!(" --netns {}", shell_word(netns));
    }
    if link.rx_queues > 1 {
        return Ok(Some(here.own_command(&command)));
    }
    // The netkit has no room for a lease: it must be made again.
    let up = |namespace: &Namespace, name: &str| {
        namespace.command(&shell_command(["ip", "link", "set", "dev", name, "up"]))
    };
    let mut commands =
        vec![namespace.command(&shell_command(["ip", "link", "delete", &link.name]))];
    match other {
        Some((end, other)) if end.argument().is_none() => {
            commands.push(
                here.own_command(&format!("{command} --host-end {}", shell_word(&other.name))),
            );
            commands.push(up(end, &other.name));
        }
        _ => commands.push(here.own_command(&command)),
    }
    commands.push(up(namespace, &link.name));
    Ok(Some(commands.join(" && ")))
}

/// Passes every physical NIC of a namespace to `tell`, until `tell` breaks.
pub(super) fn each_nic(
    machine: &Machine,
    namespace: &Namespace,
    mut tell: impl FnMut(Nic) -> ControlFlow<()>,
) -> netdev::Result<()> {
    for link in Link::open_in(&namespace.netns)?.list()? {
        if link.is_virtual() {
            continue;
        }
        let nic = Nic::look(machine, namespace.clone(), link, &[], None)?;
        if tell(nic).is_break() {
            break;
        }
    }
    Ok(())
}

pub(super) const CHECKS: &[Check<Netkit>] = &[
    Check {
        id: "netkit.kind",
        areas: &[Area::Rx, Area::Tx, Area::Lease],
        what: "the device is a NIC, or the end of a netkit that leases",
        run: check_kind,
    },
    Check {
        id: "netkit.lease",
        areas: &[Area::Rx, Area::Tx],
        what: "the netkit leases a queue",
        run: check_lease,
    },
    Check {
        id: "netkit.nic",
        areas: &[Area::Rx],
        what: "the NIC behind the lease can take a binding",
        run: check_nic,
    },
    Check {
        id: "netkit.up",
        areas: &[Area::Rx, Area::Tx],
        what: "both ends are up",
        run: check_up,
    },
    Check {
        id: "netkit.forwarding",
        areas: &[Area::Rx],
        what: "the NIC's packets for the netkit are forwarded to it",
        run: check_forwarding,
    },
    Check {
        id: "netkit.firewall",
        areas: &[Area::Rx],
        what: "no firewall drops what is forwarded to the netkit",
        run: check_firewall,
    },
];

fn check_kind(netkit: &Netkit) -> Option<Finding> {
    let link = &netkit.link;
    Some(match (&link.netkit, is_lessee(link)) {
        (Some(_), true) => Finding::ok("a netkit that can lease"),
        (Some(_), false) => Finding::fail("the primary end of a pair, which cannot lease").remedy(
            match &netkit.other {
                Some((namespace, other)) => {
                    let mut words = vec!["doctor", &other.name];
                    words.extend(namespace.argument().iter().flat_map(|at| ["--netns", at]));
                    format!("{} {}", program(), shell_command(words))
                }
                None => "name its other end".to_owned(),
            },
        ),
        (None, _) => match below::refusal(&netkit.namespace.netns, link) {
            Ok(Some(refusal)) => Finding::fail(refusal.to_string()).remedy(refusal.remedy()),
            _ => Finding::fail(format!(
                "a virtual device of kind {}",
                link.kind.as_deref().unwrap_or("unknown")
            ))
            .remedy("receive on a NIC, or on a netkit that leases one's queue"),
        },
    })
}

fn check_lease(netkit: &Netkit) -> Option<Finding> {
    if !is_lessee(&netkit.link) {
        return None;
    }
    let finding = match netkit.queues[..] {
        [] => Finding::fail("no queue is leased"),
        _ => {
            let names: Vec<String> = netkit.queues.iter().map(QueueId::to_string).collect();
            return Some(Finding::ok(format!("rx {}", names.join(", "))));
        }
    };
    Some(match &netkit.lease {
        Some(command) => finding.remedy(command.clone()),
        None => finding.remedy("no NIC here has a queue to lease: `devmem-tcp doctor` lists them"),
    })
}

fn check_nic(netkit: &Netkit) -> Option<Finding> {
    if let Some((_, link, queues)) = &netkit.behind {
        let names: Vec<String> = queues.iter().map(QueueId::to_string).collect();
        return Some(Finding::ok(format!(
            "{} rx {}",
            link.name,
            names.join(", ")
        )));
    }
    let hidden = "it is in a namespace that cannot be seen from here";
    Some(match netkit.trial.as_ref()? {
        QueueApi::There | QueueApi::Likely(_) => {
            Finding::ok(format!("{hidden}; no reason against it is known"))
        }
        QueueApi::Missing | QueueApi::NoDma | QueueApi::NoDevmem => {
            Finding::fail(format!("{hidden}, and it refuses a binding"))
        }
        QueueApi::Unknown(why) => Finding::warn(format!("not known: {why}")),
    })
}

fn check_up(netkit: &Netkit) -> Option<Finding> {
    let ends = std::iter::once((&netkit.namespace, &netkit.link)).chain(
        netkit
            .other
            .as_ref()
            .map(|(namespace, link)| (namespace, link)),
    );
    let mut down = ends.filter(|(_, link)| !link.up);
    Some(match down.next() {
        None => Finding::ok("both ends are up"),
        Some((namespace, link)) => {
            let command = shell_command(["ip", "link", "set", "dev", &link.name, "up"]);
            Finding::fail(format!("{} is down", link.name)).remedy(namespace.command(&command))
        }
    })
}

/// Checks that the NIC forwards packets where routes lead over the other end: for IPv4 by its own
/// setting (`ip_route_input_slow`), for IPv6 by that or by the one for all (`ip6_forward`). A
/// program that redirects needs neither.
fn check_forwarding(netkit: &Netkit) -> Option<Finding> {
    let (namespace, other) = netkit.other.as_ref()?;
    let (_, nic, _) = netkit.behind.as_ref()?;
    let end = &other.name;
    let v4 = format!("net/ipv4/conf/{}/forwarding", nic.name);
    let v6 = format!("net/ipv6/conf/{}/force_forwarding", nic.name);
    let on = |setting: &str| {
        let value = fs::read_to_string(format!("/proc/sys/{setting}"));
        value.is_ok_and(|value| value.trim() != "0")
    };
    let lead = |table: &str, is: fn(&str, &str) -> bool| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        table.is_ok_and(|table| table.lines().any(|line| is(line, end)))
    };
    let looked = namespace.netns.run(|| {
        let v4 = lead("route", is_over).then(|| on(&v4));
        let all = || on("net/ipv6/conf/all/forwarding");
        let v6 = lead("ipv6_route", is_global_over).then(|| on(&v6) || all());
        (v4, v6)
    });
    let off = |version: &str, setting: &str| {
        let found = format!(
            "{version} routes lead over {end}, and {} does not forward",
            nic.name
        );
        Finding::fail(found)
            .remedy(namespace.command(&format!("sysctl -w {}=1", sysctl_name(setting))))
    };
    Some(match looked.ok()? {
        (Some(false), _) => off("IPv4", &v4),
        (_, Some(false)) => off("IPv6", &v6),
        (None, None) => Finding::ok(format!("no route leads over {end}")),
        _ => Finding::ok("the NIC forwards"),
    })
}

/// Checks whether the firewall's base chains drop forwarded packets.
fn check_firewall(netkit: &Netkit) -> Option<Finding> {
    let (namespace, other) = netkit.other.as_ref()?;
    let (_, nic, _) = netkit.behind.as_ref()?;
    let addresses = match global_addresses(netkit) {
        Ok(addresses) => addresses,
        Err(error) => return Some(Finding::warn(format!("not known: {error}"))),
    };
    Some(match dropping_chains(&namespace.netns, &addresses) {
        Ok(chains) if chains.is_empty() => Finding::ok("no chain drops by its policy"),
        Ok(chains) => {
            let accept = accept_commands(&chains, (&nic.name, &other.name)).into_iter();
            let accept: Vec<String> = accept.map(|command| namespace.command(&command)).collect();
            Finding::warn(describe(&chains)).remedy(accept.join(" && "))
        }
        // The kernel has no nftables.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return None,
        Err(error) => Finding::warn(format!("not known: {error}")),
    })
}

/// Addresses of the netkit that packets are forwarded to.
fn global_addresses(netkit: &Netkit) -> netdev::Result<Vec<IpAddr>> {
    let mut links = Link::open_in(&netkit.namespace.netns)?;
    let all = links.addresses(Some(netkit.link.ifindex))?.into_iter();
    let all = all.map(|one| one.prefix.addr);
    let of_the_link = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    Ok(all.filter(|address| !of_the_link(address)).collect())
}

/// Name of a sysctl for the `sysctl` command: with dots, unless a device's name has one.
fn sysctl_name(path: &str) -> String {
    let name = match path.contains('.') {
        true => path.to_owned(),
        false => path.replace('/', "."),
    };
    shell_word(&name).into_owned()
}

/// Whether a line of `/proc/net/route` is a route over this device.
fn is_over(line: &str, device: &str) -> bool {
    line.split_whitespace().next() == Some(device)
}

/// Whether a line of `/proc/net/ipv6_route` is a route of other than link-local scope over this
/// device.
fn is_global_over(line: &str, device: &str) -> bool {
    let mut columns = line.split_whitespace();
    let global = columns
        .next()
        .is_some_and(|dst| !dst.starts_with("fe80") && !dst.starts_with("ff"));
    global && columns.next_back() == Some(device)
}

#[cfg(test)]
mod tests {
    use super::{is_global_over, sysctl_name};

    #[test]
    fn a_dot_in_a_device_name_stays_in_the_sysctl_name() {
        assert_eq!(
            sysctl_name("net/ipv4/conf/eth1/forwarding"),
            "net.ipv4.conf.eth1.forwarding"
        );
        let vlan = "net/ipv4/conf/eth1.5/forwarding";
        assert_eq!(sysctl_name(vlan), vlan);
    }

    #[test]
    fn link_local_routes_do_not_count() {
        let line = |dst: &str| {
            format!(
                "{dst} 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001     nk0h"
            )
        };
        assert!(is_global_over(
            &line("20010db8000200000000000000000000"),
            "nk0h"
        ));
        assert!(!is_global_over(
            &line("20010db8000200000000000000000000"),
            "nk0"
        ));
        assert!(!is_global_over(
            &line("fe800000000000000000000000000000"),
            "nk0h"
        ));
        assert!(!is_global_over(
            &line("ff000000000000000000000000000000"),
            "nk0h"
        ));
    }
}
