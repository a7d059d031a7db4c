//! Command line that would make a device's lease again, after the lease has ended.

use netdev::link::LinkInfo;
use netdev::{Link, NetNs, queue_list, shell_command, shell_word};
use receiver::{NicBehind, RxDevice};

use crate::ending_lease::{EndingLease, GuestLocation};
use crate::enter::{enter, within};
use crate::guest_route::lease_journal::{LeaseJournal, LeaseRecord};

/// Command line that would make the device's present lease again, with the same options. Can be
/// pasted in the current namespace. A placeholder stands for an unknown NIC or unknown queues.
pub(super) fn lease_again(device: &RxDevice) -> String {
    let RxDevice {
        netns, link, nic, ..
    } = device;
    let phys = nic.as_ref().map_or("IF", |nic| &nic.device);
    let queues = nic.as_ref().and_then(|nic| queues(nic, netns, link));
    let queues = queues.unwrap_or_else(|| "N".to_owned());
    let mut words = vec!["devmem-tcp", "lease", "--phys", phys, "--queues", &queues];
    words.extend(["--netkit", &link.name]);
    let host_end = host_end(netns, link);
    let host_name = host_end.as_ref().map(|(_, host)| host.name.as_str());
    match host_name {
        _ if link.link.is_none() => words.extend(["--kind", "single"]),
        Some(name) if name != format!("{}h", link.name) => words.extend(["--host-end", name]),
        _ => {}
    }
    let record = host_end
        .as_ref()
        .and_then(|(netns, host)| record(netns, host));
    let record = record.as_ref();
    let addresses = record.into_iter().flat_map(|it| &it.addresses);
    words.extend(addresses.flat_map(|address| ["--address", address]));
    let routes = record.into_iter().flat_map(|it| &it.routes);
    words.extend(routes.flat_map(|route| ["--route", route]));
    let command = shell_command(words);
    let nic_netns = nic.as_ref().map(|nic| &nic.netns);
    let together = nic_netns.is_some_and(|it| it.is_same(netns).unwrap_or(false));
    let target = match enter(netns) {
        _ if together => String::new(),
        Some((_, argument)) => format!(" --netns {}", shell_word(&argument)),
        // The namespace of the shell that it is pasted in.
        None => " --netns pid:$$".to_owned(),
    };
    let command = format!("{command}{target}");
    nic_netns.map_or_else(|| command.clone(), |netns| within(netns, &command))
}

/// Lists the NIC's queues that the device leases; `None` if they are not known.
fn queues(nic: &NicBehind, netns: &NetNs, link: &LinkInfo) -> Option<String> {
    let location = GuestLocation::Entered(netns.clone());
    let leases = EndingLease::of(&nic.netns, link.ifindex, &location).ok()?;
    let queues: Vec<_> = leases.iter().map(|lease| lease.phys_queue).collect();
    (!queues.is_empty()).then(|| queue_list(&queues))
}

/// Finds the host end of a netkit pair, and its namespace; `None` if it can't be seen.
fn host_end(netns: &NetNs, link: &LinkInfo) -> Option<(NetNs, LinkInfo)> {
    let (host, ifindex) = Link::open_in(netns).ok()?.other_end(netns, link).ok()??;
    let end = Link::open_in(&host).ok()?.get(ifindex).ok()?;
    Some((host, end))
}

/// Reads a lease's record from the lease journal; `None` if it is missing or can't be read.
fn record(netns: &NetNs, host_end: &LinkInfo) -> Option<LeaseRecord> {
    let journal = LeaseJournal::open(true).ok()?;
    journal.record_of(netns, host_end).ok()?.cloned()
}
