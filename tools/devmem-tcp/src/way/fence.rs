//! What keeps a host from becoming a router for more than its guests.
//!
//! A device that forwards does so for everybody on its link, to wherever this host has a route. So where a
//! lease puts that on, rules go before all tables but the local one: what comes in by the NIC goes on only
//! to a guest's address, what comes in by a host end only from its guest's; all else is dropped, as it was
//! before.
//!
//! ```text
//! 10: to 192.0.2.9 iif eth1 goto 12
//! 10: from 192.0.2.9 iif nk0h goto 12
//! 11: iif eth1 blackhole
//! 11: iif nk0h blackhole
//! 12: nop
//! ```

use std::net::IpAddr;

use netdev::{Rule, RuleAction};

const PASS: u32 = 10;
const BAR: u32 = 11;
const LAND: u32 = 12;

/// Whether each end forwards for a lease alone: what forwarded before is not fenced in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fenced {
    pub(super) nic: bool,
    pub(super) host: bool,
}

/// The rules for a guest's addresses of one family, those first that let pass.
pub(super) fn rules(nic: &str, host: &str, addresses: &[IpAddr], fenced: Fenced) -> Vec<Rule> {
    let Some(v4) = addresses.first().map(IpAddr::is_ipv4) else {
        return Vec::new();
    };
    let rule = |priority, iif: Option<&str>, action| Rule {
        v4,
        priority,
        iif: iif.map(str::to_owned),
        src: None,
        dst: None,
        action,
    };
    let mut rules = Vec::new();
    if fenced.nic || fenced.host {
        rules.push(rule(LAND, None, RuleAction::Nop));
    }
    let pass = RuleAction::Goto(LAND);
    for &addr in addresses {
        if fenced.nic {
            rules.push(Rule {
                dst: Some(addr),
                ..rule(PASS, Some(nic), pass)
            });
        }
        if fenced.host {
            rules.push(Rule {
                src: Some(addr),
                ..rule(PASS, Some(host), pass)
            });
        }
    }
    for (device, fenced) in [(nic, fenced.nic), (host, fenced.host)] {
        if fenced {
            rules.push(rule(BAR, Some(device), RuleAction::Blackhole));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_addresses_pass() {
        let addresses = ["192.0.2.9".parse().unwrap()];
        let told = |nic, host| {
            let fenced = Fenced { nic, host };
            let rules = rules("eth1", "nk0h", &addresses, fenced);
            rules.iter().map(Rule::to_string).collect::<Vec<_>>()
        };
        let both = [
            "pref 12 nop",
            "pref 10 to 192.0.2.9 iif eth1 goto 12",
            "pref 10 from 192.0.2.9 iif nk0h goto 12",
            "pref 11 iif eth1 blackhole",
            "pref 11 iif nk0h blackhole",
        ];
        assert_eq!(told(true, true), both);
        assert_eq!(told(false, true), [both[0], both[2], both[4]]);
        assert!(told(false, false).is_empty());
    }
}
