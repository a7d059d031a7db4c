//! Plan of a guest's route, made before anything is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use netdev::link::{Address, LinkInfo, RouteInfo, Rule};
use netdev::{Ethtool, Ifindex, Link, Prefix, shell_word};

use super::forward_filter::{self, ForwardsForLease};
use super::lease_journal::{Device, LRO, LeaseJournal};
use super::sysctl::{Switch, Sysctl};
use crate::remedy::Hint;

/// Protocol of routes from a router's advertisement (`RTPROT_RA`).
const BY_ADVERTISEMENT: u8 = 9;
/// Number of the routing table of the host's own addresses: `RT_TABLE_LOCAL`.
const LOCAL: u32 = 255;

/// Changes that a guest's route needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuestRoute {
    /// Addresses of the guest.
    pub(crate) addresses: Vec<Prefix>,
    /// Destinations of the guest's routes.
    pub(crate) routes: Vec<Prefix>,
    /// Destinations of the guest's routes that the user named.
    pub(crate) named_routes: Vec<Prefix>,
    pub(crate) switches: Vec<Switch>,
    /// Rules that limit this host's forwarding to the guest.
    pub(crate) rules: Vec<Rule>,
    /// Addresses that the NIC must answer for, and does not yet.
    pub(crate) proxies: Vec<IpAddr>,
    /// Whether the NIC had large receive offload before it forwarded for a lease.
    pub(crate) lro: bool,
    /// Whether the NIC has large receive offload now.
    pub(crate) loses_lro: bool,
}

impl GuestRoute {
    /// Plans the route to the guest's addresses. `host` is the host end of the pair, in this
    /// namespace like the NIC.
    pub(crate) fn plan(
        (addresses, routes): (&[Prefix], &[Prefix]),
        phys: &LinkInfo,
        host: &Device,
        journal: &LeaseJournal,
    ) -> Result<Self> {
        let mut links = Link::open()?;
        let own = links.addresses(None)?;
        let mut guest_route = Self {
            addresses: addresses.to_vec(),
            routes: guest_routes(addresses, routes)?,
            named_routes: routes.to_vec(),
            ..Self::default()
        };
        let known = links.proxies()?;
        let mut keys = Vec::new();
        for &address in addresses {
            if let Some(taken) = own.iter().find(|own| own.prefix.addr == address.addr) {
                return Err(taken_here(&mut links, taken).into());
            }
            let v4 = address.addr.is_ipv4();
            keys.push(if v4 {
                Sysctl::Forward4
            } else {
                Sysctl::Forward6
            });
            if !in_subnet_of(address.addr, phys.ifindex, &own) {
                continue;
            }
            let known = known
                .iter()
                .any(|entry| entry.ifindex == phys.ifindex && entry.addr == address.addr);
            if !known {
                guest_route.proxies.push(address.addr);
            }
            if !v4 {
                keep_advertised_routes(&mut links)?;
                keys.extend([Sysctl::Router6, Sysctl::ProxyNdp]);
            }
        }
        let mut seen = Vec::new();
        for key in keys {
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let nic = Device {
                name: phys.name.clone(),
                ifindex: Some(phys.ifindex),
            };
            guest_route.switch(&nic, key, journal)?;
            if matches!(key, Sysctl::Forward4 | Sysctl::Forward6) {
                guest_route.switch(host, key, journal)?;
            }
        }
        guest_route.rules = guest_route.forward_filter(phys, host)?;
        let forwards = guest_route
            .switches
            .iter()
            .any(|switch| switch.device == phys.name && switch.note.is_some());
        if forwards {
            let features = Ethtool::open()?.features(phys.ifindex)?;
            guest_route.loses_lro = features.active.contains(LRO);
            guest_route.lro = guest_route.loses_lro || journal.noted_lro(phys.ifindex)?;
        }
        Ok(guest_route)
    }

    /// Policy routing rules for devices that forward for a lease, and did not before.
    fn forward_filter(&self, phys: &LinkInfo, host: &Device) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for v4 in [true, false] {
            let addresses = self.addresses.iter().map(|it| it.addr);
            let addresses: Vec<IpAddr> = addresses.filter(|it| it.is_ipv4() == v4).collect();
            let key = if v4 {
                Sysctl::Forward4
            } else {
                Sysctl::Forward6
            };
            let ours = |device: &str, made: bool| {
                let mut its = self.switches.iter().filter(|it| it.device == device);
                its.any(|it| it.key == key && (made || it.note.is_some()))
            };
            // A host that forwards on all devices is a router already (`ip6_forward`).
            if v4 || Sysctl::Router6.read("all")? == "0" {
                let forwards = ForwardsForLease {
                    nic: ours(&phys.name, false),
                    host: ours(&host.name, host.ifindex.is_none()),
                };
                rules.extend(forward_filter::rules(
                    &phys.name, &host.name, &addresses, forwards,
                ));
            }
        }
        Ok(rules)
    }

    /// Whether the plan has no route, because the guest has no addresses.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn switch(&mut self, device: &Device, key: Sysctl, journal: &LeaseJournal) -> Result<()> {
        let earlier = journal.noted(device.ifindex, key)?;
        let switch = Switch::plan(&device.name, device.ifindex, key, earlier)?;
        self.switches.push(switch);
        Ok(())
    }
}

/// Destinations of the guest's routes: the named ones, otherwise a default route for each family.
fn guest_routes(addresses: &[Prefix], named: &[Prefix]) -> Result<Vec<Prefix>> {
    let has = |v4: bool| addresses.iter().any(|it| it.addr.is_ipv4() == v4);
    for route in named {
        if !has(route.addr.is_ipv4()) {
            let text = format!("lease: --route {route}: no --address of its family");
            return Err(Hint::new(text, "name an address for the guest, too").into());
        }
    }
    let mut routes = named.to_vec();
    let defaults = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    for addr in defaults {
        let v4 = addr.is_ipv4();
        if has(v4) && !named.iter().any(|route| route.addr.is_ipv4() == v4) {
            routes.push(Prefix { addr, len: 0 });
        }
    }
    Ok(routes)
}

fn taken_here(links: &mut Link, taken: &Address) -> Hint {
    let addr = taken.prefix.addr;
    let device = links
        .get(taken.ifindex)
        .map_or_else(|_| format!("ifindex {}", taken.ifindex), |link| link.name);
    Hint::new(
        format!("lease: {addr} is an address of this host, on {device}"),
        "give the guest an address of its own",
    )
}

/// Whether hosts on the device's link look for the address on that link.
fn in_subnet_of(addr: IpAddr, device: Ifindex, own: &[Address]) -> bool {
    own.iter()
        .filter(|own| own.ifindex == device && own.scope < libc::RT_SCOPE_LINK)
        .any(|own| contains(own.prefix, addr))
}

/// Whether an address is in a network.
fn contains(network: Prefix, addr: IpAddr) -> bool {
    let (network_bits, bits, width) = match (network.addr, addr) {
        (IpAddr::V4(network), IpAddr::V4(addr)) => {
            (u32::from(network).into(), u32::from(addr).into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(addr)) => (u128::from(network), u128::from(addr), 128),
        _ => return false,
    };
    let free = width - u32::from(network.len).min(width);
    (network_bits ^ bits).checked_shr(free).unwrap_or(0) == 0
}

/// Refuses to make a router of a host that has its default route from a router's advertisement: the
/// kernel would drop the route at that moment (`rt6_purge_dflt_routers`), permanently.
fn keep_advertised_routes(links: &mut Link) -> Result<()> {
    let by_router = |route: &RouteInfo| {
        route.dst.len == 0 && route.protocol == BY_ADVERTISEMENT && route.table != LOCAL
    };
    for route in links.routes()?.iter().filter(|route| by_router(route)) {
        let Some(ifindex) = route.oif else { continue };
        let device = links.get(ifindex)?.name;
        let key = "accept_ra";
        let path = format!("/proc/sys/net/ipv6/conf/{device}/{key}");
        if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "2") {
            continue;
        }
        return Err(Hint::new(
            format!(
                "lease: for an IPv6 address in the NIC's own subnet the NIC must become a router, \
                 and the default route of {device} would go with that"
            ),
            format!(
                "take another subnet, or keep that route: sysctl -w {}=2",
                shell_word(&format!("net/ipv6/conf/{device}/{key}"))
            ),
        )
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_in_its_network() {
        let holds =
            |network: &str, addr: &str| contains(network.parse().unwrap(), addr.parse().unwrap());
        assert!(holds("192.0.2.1/24", "192.0.2.255"));
        assert!(!holds("192.0.2.1/24", "192.0.3.1"));
        assert!(holds("192.0.2.1/32", "192.0.2.1"));
        assert!(!holds("192.0.2.1/32", "192.0.2.0"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("2001:db8::1/64", "2001:db8::ffff"));
        assert!(!holds("2001:db8::1/64", "2001:db8:0:1::1"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::/0", "192.0.2.1"));
    }

    #[test]
    fn a_family_without_a_route_gets_the_default_one() {
        let both = prefixes(&["192.0.2.9", "2001:db8::9"]);
        assert_eq!(
            guest_routes(&both, &[]).unwrap(),
            prefixes(&["0.0.0.0/0", "::/0"])
        );
        let named = prefixes(&["198.51.100.0/24"]);
        assert_eq!(
            guest_routes(&both, &named).unwrap(),
            prefixes(&["198.51.100.0/24", "::/0"])
        );
        assert!(guest_routes(&both[1..], &named).is_err());
    }
}
