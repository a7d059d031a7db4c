//! Addresses on the command line, and their form in flow rules.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use anyhow::Result;
use netdev::{Ifindex, Link, NetNs};

use crate::remedy::Hint;

/// An IP address and a port on the command line. A link-local address may name its device:
/// `[fe80::1%eth1]:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    ip: IpAddr,
    zone: Option<String>,
    port: u16,
}

impl Address {
    /// Splits an address on the command line into the IP address, its zone, and the text behind the
    /// last colon.
    fn split(text: &str) -> Result<(IpAddr, Option<String>, &str), String> {
        let wrong = || {
            format!(
                "{text:?} is not ADDR:PORT, such as 192.0.2.2:5000 or [2001:db8::2]:5000; [::]:5000 is any address"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let Some(inside) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        else {
            let ip = host.parse().map_err(|_| wrong())?;
            return Ok((IpAddr::V4(ip), None, port));
        };
        let (ip, zone) = match inside.split_once('%') {
            Some((ip, zone)) => (ip, Some(zone)),
            None => (inside, None),
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| wrong())?;
        if zone.is_some() && !ip.is_unicast_link_local() {
            return Err(format!(
                "{text:?}: only a link-local address is of one device"
            ));
        }
        match zone {
            Some("") => Err(wrong()),
            zone => Ok((IpAddr::V6(ip), zone.map(str::to_owned), port)),
        }
    }

    /// Socket address in the namespace of `device`. A link-local address that names no device is
    /// one of `device`.
    pub(crate) fn resolve(&self, netns: &NetNs, device: Ifindex) -> Result<SocketAddr> {
        let IpAddr::V6(ip) = self.ip else {
            return Ok((self.ip, self.port).into());
        };
        let scope = match &self.zone {
            _ if !ip.is_unicast_link_local() => 0,
            None => device.get(),
            // As getaddrinfo(3) does: a name, otherwise a number.
            Some(zone) => match (Link::open_in(netns)?.by_name(zone), zone.parse()) {
                (Ok(link), _) => link.ifindex.get(),
                (Err(_), Ok(number)) => number,
                (Err(error), Err(_)) => return Err(error.into()),
            },
        };
        Ok(SocketAddrV6::new(ip, self.port, 0, scope).into())
    }

    /// Socket address for a flow rule, without the device of a link-local address: packets don't
    /// carry it.
    pub(crate) fn on_the_wire(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }
}

/// Resolves the addresses to listen on for sockets, and refuses addresses that overlap.
pub(crate) fn resolve_all(
    addresses: &[Address],
    netns: &NetNs,
    device: Ifindex,
) -> Result<Vec<SocketAddr>> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        let at = address.resolve(netns, device)?;
        // `bind` does not refuse them: before they listen, sockets may have the same address
        // (`SO_REUSEADDR`).
        if let Some(other) = all.iter().find(|other| overlap(other, &at)) {
            return Err(Hint::new(
                format!("--listen {address}: {other} takes its connections already"),
                "leave one of the two out",
            )
            .into());
        }
        all.push(at);
    }
    Ok(all)
}

/// Whether one connection could be accepted at both addresses.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let covers = |one: &SocketAddr, other: &SocketAddr| match (one.ip(), other.ip().to_canonical())
    {
        // Sockets for IPv6 accept IPv4, too.
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) => true,
        (any, IpAddr::V4(_)) if any.to_canonical() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => true,
        (one, other) => one.to_canonical() == other,
    };
    let scope = |at: &SocketAddr| match at {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(at) => at.scope_id(),
    };
    let apart = one.ip() == other.ip() && scope(one) != scope(other);
    one.port() == other.port() && !apart && (covers(one, other) || covers(other, one))
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, zone, port) = Self::split(text)?;
        match port.parse() {
            Ok(0) => Err(
                "port 0 cannot be listened on: a rule for it would take all TCP, ssh included"
                    .into(),
            ),
            Ok(port) => Ok(Self { ip, zone, port }),
            Err(_) => Err(format!("{port:?} is not a port from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => write!(f, "[{ip}%{zone}]:{}", self.port),
            (ip, _) => SocketAddr::new(ip, self.port).fmt(f),
        }
    }
}

/// Destination of the packets that a rule matches: `ADDR:PORT`, or `ADDR:any` for all ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlowDestination(Address);

impl FlowDestination {
    /// Socket address for a flow rule: port 0 matches any port.
    pub(crate) fn on_the_wire(&self) -> SocketAddr {
        self.0.on_the_wire()
    }
}

impl FromStr for FlowDestination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, zone, port) = Address::split(text)?;
        let port = match port {
            "any" => 0,
            port => match port.parse() {
                Ok(0) => {
                    let all = text.strip_suffix(":0").unwrap_or(text);
                    return Err(format!(
                        "port 0 is not a port; {all}:any takes all TCP to the address, ssh included"
                    ));
                }
                Ok(port) => port,
                Err(_) => return Err(format!("{port:?} is not a port from 1 to 65535, or any")),
            },
        };
        Ok(Self(Address { ip, zone, port }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in [
            "192.0.2.1:5000",
            "[::]:1",
            "[2001:db8::1]:65535",
            "[fe80::1%eth1]:5000",
            "[fe80::1%3]:5000",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "5000",
            "192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:65536",
            "192.0.2.1:-1",
            "2001:db8::1:5000",
            "[192.0.2.1]:5000",
            "[fe80::1%]:5000",
            "[2001:db8::1%eth1]:5000",
            "[::1]5000",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_ports_are_named_by_a_word() {
        assert!(
            "192.0.2.1:0"
                .parse::<Address>()
                .unwrap_err()
                .contains("ssh")
        );
        assert!("[::]:00".parse::<Address>().is_err());
        let refused = "[::]:0".parse::<FlowDestination>().unwrap_err();
        assert!(refused.contains("[::]:any"), "{refused}");
        let all: FlowDestination = "192.0.2.1:any".parse().unwrap();
        assert_eq!(all.on_the_wire().port(), 0);
        assert!("192.0.2.1:any".parse::<Address>().is_err());
    }

    #[test]
    fn overlapping_addresses_are_refused() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(&one, &other), overlap(&other, &one));
            overlap(&one, &other)
        };
        for (one, other) in [
            ("1.2.3.4:5", "1.2.3.4:5"),
            ("0.0.0.0:5", "1.2.3.4:5"),
            ("[::]:5", "1.2.3.4:5"),
            ("[::]:5", "0.0.0.0:5"),
            ("[::]:5", "[fd00::1]:5"),
            ("[::ffff:1.2.3.4]:5", "1.2.3.4:5"),
            ("[::ffff:0.0.0.0]:5", "1.2.3.4:5"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("1.2.3.4:5", "1.2.3.4:6"),
            ("1.2.3.4:5", "1.2.3.5:5"),
            ("0.0.0.0:5", "[fd00::1]:5"),
            ("[fe80::1%1]:5", "[fe80::1%2]:5"),
        ] {
            assert!(!overlap(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_link_local_address_is_of_its_device_or_of_the_one_received_on() {
        let netns = NetNs::current().unwrap();
        let scope = |text: &str, device| {
            let address: Address = text.parse().unwrap();
            match address.resolve(&netns, Ifindex::new(device)) {
                Ok(SocketAddr::V6(at)) => Some(at.scope_id()),
                _ => None,
            }
        };
        assert_eq!(scope("[fe80::1]:5", 7), Some(7));
        assert_eq!(scope("[fe80::1%lo]:5", 7), Some(1));
        assert_eq!(scope("[fe80::1%9]:5", 7), Some(9));
        assert_eq!(scope("[2001:db8::1]:5", 7), Some(0));
        assert_eq!(scope("[fe80::1%nothing]:5", 7), None);
    }
}
