//! Steps of a lease, each of which can be described, executed and undone.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netdev::link::{AddressOptions, NetkitPair, NetkitSingle, Route, Rule};
use netdev::queues::Lease;
use netdev::{Error, Ethtool, Ifindex, NetNs, Netdev, Prefix, QueueId};

use super::site::{LeasedQueue, Site};
use crate::enter::{enter, within};
use crate::guest_route::lease_journal::LRO;
use crate::guest_route::sysctl::Switch;
use crate::remedy::Hint;

/// End of a netkit pair. A single netkit has only the guest end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetkitEnd {
    Host,
    Guest,
}

/// Step of a lease, which can be described, executed and undone.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Make the netkit with this number of rx queues.
    Make { rx_queues: u32 },
    /// Lease an rx queue of the NIC to the netkit.
    Lease(QueueId),
    /// Set the MTU of both ends of the netkit to this value, the NIC's MTU.
    Mtu(u32),
    /// Set an end of the netkit up.
    Up(NetkitEnd),
    /// Announce that the next steps make the kernel switch the NIC's large receive offload off.
    LosesLro,
    /// Add a policy routing rule.
    Rule {
        rule: Rule,
        /// Whether an earlier lease needs the rule, which then stays if the present lease fails.
        is_needed: bool,
    },
    /// Switch a sysctl on.
    Switch(Switch),
    /// Add an address to the guest end.
    Address(Prefix),
    /// Add a route through the guest end, in the guest's namespace.
    RouteInGuest(Prefix),
    /// Add a route to the guest's address through the host end.
    RouteToGuest(Prefix),
    /// Add a proxy entry to the NIC, which then answers ARP or neighbour discovery for the guest.
    Proxy(IpAddr),
}

impl Site {
    /// Executes a step of the lease.
    pub(super) fn execute(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Make { rx_queues } => self.make(*rx_queues)?,
            Step::Lease(queue) => self.lease(*queue)?,
            Step::Mtu(mtu) => {
                let (host, guest) = (self.host()?, self.guest()?);
                self.links.set_mtu(host, *mtu)?;
                self.guest_links.set_mtu(guest, *mtu)?;
            }
            Step::Up(NetkitEnd::Host) => self.links.set_up(self.host()?)?,
            Step::Up(NetkitEnd::Guest) => self.guest_links.set_up(self.guest()?)?,
            Step::LosesLro => {}
            Step::Rule { rule, is_needed } => match self.links.add_rule(rule) {
                // Another program added it since the kernel was asked.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                added => {
                    added?;
                    if !is_needed {
                        self.added_rules.push(rule.clone());
                    }
                }
            },
            Step::Switch(switch) => switch.set()?,
            Step::Address(address) => {
                // No other host on this link can have the address, so duplicate address detection
                // would only delay.
                let options = AddressOptions { nodad: true };
                let guest = self.guest()?;
                self.guest_links.add_address(guest, *address, options)?;
            }
            Step::RouteInGuest(to) => {
                let route = Route::on_link(*to, self.guest()?);
                let added = self.guest_links.add_route(&route);
                added.map_err(|error| taken(error, &self.guest_netns, "--route"))?;
            }
            Step::RouteToGuest(address) => {
                let route = self.route_to_guest(*address)?;
                let added = self.links.add_route(&route);
                added.map_err(|error| taken(error, &self.here, "--address"))?;
            }
            Step::Proxy(addr) => self.links.add_proxy(self.phys.ifindex, *addr)?,
        }
        Ok(())
    }

    /// Undoes a step of the lease. Changes inside a new netkit are deleted with the netkit.
    pub(super) fn undo(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Make { .. } => self.guest_links.delete(self.guest()?)?,
            Step::Switch(switch) => switch.undo()?,
            Step::Rule { rule, .. } => {
                if self.added_rules.contains(rule) {
                    self.links.delete_rule(rule)?;
                }
            }
            Step::LosesLro => Ethtool::open()?.set_feature(self.phys.ifindex, LRO, true)?,
            Step::Proxy(addr) => self.links.delete_proxy(self.phys.ifindex, *addr)?,
            _ if self.is_made() => {}
            Step::Up(NetkitEnd::Host) => self.links.set_down(self.host()?)?,
            Step::Up(NetkitEnd::Guest) => self.guest_links.set_down(self.guest()?)?,
            Step::Address(address) => {
                let guest = self.guest()?;
                self.guest_links.delete_address(guest, *address)?;
            }
            Step::RouteInGuest(to) => {
                let route = Route::on_link(*to, self.guest()?);
                self.guest_links.delete_route(&route)?;
            }
            Step::RouteToGuest(address) => {
                self.links.delete_route(&self.route_to_guest(*address)?)?;
            }
            // The kernel has no operation that ends a lease; the error says so.
            Step::Lease(_) => {}
            // Only done for a new netkit.
            Step::Mtu(_) => {}
        }
        Ok(())
    }

    /// Describes a step of the lease, for a dry run or the report.
    pub(super) fn describe(&self, step: &Step) -> String {
        let (phys, netkit) = (&self.phys.name, &self.netkit);
        let netns = self.guest_netns.label();
        let host = self.host_end.as_deref().unwrap_or("its host end");
        match step {
            Step::Make { rx_queues } => {
                let what = match &self.host_end {
                    Some(host) => format!("pair {host} (here) and {netkit}"),
                    None => format!("single {netkit}"),
                };
                format!("make netkit {what} (namespace {netns}, {rx_queues} rx queues)")
            }
            Step::Lease(queue) => format!("lease {phys} rx {queue} to {netkit}"),
            Step::Mtu(mtu) => format!("set the mtu of {host} and {netkit} to {mtu}"),
            Step::Up(NetkitEnd::Host) => format!("set {host} up"),
            Step::Up(NetkitEnd::Guest) => format!("set {netkit} up"),
            Step::LosesLro => format!("let the kernel switch {LRO} of {phys} off, as for a router"),
            Step::Rule { rule, .. } => format!("add rule {rule}"),
            Step::Switch(switch) => format!("set {switch}"),
            Step::Address(address) => format!("add address {address} to {netkit}"),
            Step::RouteInGuest(to) => {
                format!("add route {to} through {netkit} in namespace {netns}")
            }
            Step::RouteToGuest(to) => format!("add route {} through {host}", Prefix::host(to.addr)),
            Step::Proxy(addr) => format!("answer for {addr} on {phys}"),
        }
    }

    fn make(&mut self, rx_queues: u32) -> Result<()> {
        match self.host_end.clone() {
            None => {
                let mut single = NetkitSingle::new(self.netkit.clone());
                single.rx_queues = Some(rx_queues);
                self.guest = Some(self.guest_links.create_netkit_single(&single)?);
            }
            Some(host_end) => {
                let mut pair = NetkitPair::new(host_end, self.netkit.clone());
                pair.rx_queues = Some(rx_queues);
                pair.peer_netns = Some(self.guest_netns.clone());
                let ends = self.links.create_netkit(&pair)?;
                self.host = Some(ends.primary);
                self.guest = Some(ends.peer);
            }
        }
        Ok(())
    }

    /// Leases a queue of the NIC, by a request in the netkit's namespace, where the kernel looks
    /// for the netkit.
    fn lease(&mut self, phys_queue: QueueId) -> Result<()> {
        let netns_id = match self.here.is_same(&self.guest_netns)? {
            true => None,
            false => Some(self.guest_links.nsid_or_assign(&self.here)?),
        };
        let lease = Lease {
            of: self.phys.ifindex,
            queue: phys_queue,
            netns_id,
        };
        let object = format!("{} from {} rx {phys_queue}", self.netkit, self.phys.name);
        let queue = Netdev::open_in(&self.guest_netns)?
            .lease(self.guest()?, lease)
            .map_err(|error| error.about(object))?;
        self.leases.push(LeasedQueue {
            phys_queue,
            queue: Some(queue),
        });
        Ok(())
    }

    fn route_to_guest(&self, address: Prefix) -> Result<Route> {
        Ok(Route::on_link(Prefix::host(address.addr), self.host()?))
    }

    fn host(&self) -> Result<Ifindex> {
        self.host.context("the netkit has no host end here")
    }

    fn guest(&self) -> Result<Ifindex> {
        self.guest.context("the netkit is not there")
    }
}

/// Adds a remedy to the error of a route that exists already and leads elsewhere.
fn taken(error: Error, netns: &NetNs, option: &str) -> anyhow::Error {
    if error.raw_os_error() != Some(libc::EEXIST) {
        return error.into();
    }
    let place = match enter(netns) {
        None => "on this host".to_owned(),
        Some(_) => format!("in namespace {}", netns.label()),
    };
    let ip = within(netns, "ip route show");
    let text = format!("{error}, {place}");
    Hint::new(
        text,
        format!("`{ip}` says where it leads; choose another {option}"),
    )
    .into()
}
