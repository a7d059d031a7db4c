//! Rules that limit a host's forwarding to its guests.
//!
//! A device that forwards does so for all hosts on its link, to any destination that this host has
//! a route to. So where a lease switches forwarding on, rules come before all tables but the local
//! one: packets that come in by the NIC are forwarded only to a guest's address, packets that come
//! in by a host end only from its guest's. All others are dropped, as before.
//!
//! ```text
//! 10: to 192.0.2.9 iif eth1 goto 12
//! 10: from 192.0.2.9 iif nk0h goto 12
//! 11: iif eth1 blackhole
//! 11: iif nk0h blackhole
//! 12: nop
//! ```

use std::net::IpAddr;

use netdev::link::{Rule, RuleAction};
use netdev::shell_command;

const PASS_PRIORITY: u32 = 10;
const DROP_PRIORITY: u32 = 11;
const TARGET_PRIORITY: u32 = 12;

/// Whether each end forwards only for a lease. A device that forwarded before the lease is not
/// limited.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardsForLease {
    pub(super) nic: bool,
    pub(super) host: bool,
}

/// Policy routing rules for a guest's addresses of one family, those that let packets pass first.
pub(super) fn rules(
    nic: &str,
    host: &str,
    addresses: &[IpAddr],
    forwards: ForwardsForLease,
) -> Vec<Rule> {
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
    if forwards.nic || forwards.host {
        rules.push(rule(TARGET_PRIORITY, None, RuleAction::Nop));
    }
    let pass = RuleAction::Goto(TARGET_PRIORITY);
    for &addr in addresses {
        if forwards.nic {
            rules.push(Rule {
                dst: Some(addr),
                ..rule(PASS_PRIORITY, Some(nic), pass)
            });
        }
        if forwards.host {
            rules.push(Rule {
                src: Some(addr),
                ..rule(PASS_PRIORITY, Some(host), pass)
            });
        }
    }
    for (device, forwards) in [(nic, forwards.nic), (host, forwards.host)] {
        if forwards {
            rules.push(rule(DROP_PRIORITY, Some(device), RuleAction::Blackhole));
        }
    }
    rules
}

/// Sorts policy routing rules so that none drops a packet for which another, which is still to be
/// added, lets it pass.
pub(crate) fn sort(rules: &mut [Rule]) {
    rules.sort_by_key(|rule| match rule.action {
        RuleAction::Nop => 0,
        RuleAction::Goto(_) => 1,
        RuleAction::Blackhole => 2,
    });
}

/// Command that adds a policy routing rule, to be pasted into a shell.
pub(crate) fn command(rule: &Rule) -> String {
    let text = rule.to_string();
    let (family, rest) = match text.strip_prefix("-6 ") {
        Some(rest) => (Some("-6"), rest),
        None => (None, text.as_str()),
    };
    let words = ["ip"].into_iter().chain(family).chain(["rule", "add"]);
    shell_command(words.chain(rest.split_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_addresses_pass() {
        let addresses = ["192.0.2.9".parse().unwrap()];
        let told = |nic, host| {
            let forwards = ForwardsForLease { nic, host };
            let rules = rules("eth1", "nk0h", &addresses, forwards);
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

    #[test]
    fn commands_add_what_lets_pass_first() {
        let addresses = ["2001:db8::9".parse().unwrap()];
        let forwards = ForwardsForLease {
            nic: true,
            host: false,
        };
        let mut rules = rules("eth1", "nk0h", &addresses, forwards);
        rules.reverse();
        sort(&mut rules);
        let commands: Vec<String> = rules.iter().map(command).collect();
        assert_eq!(
            commands,
            [
                "ip -6 rule add pref 12 nop",
                "ip -6 rule add pref 10 to 2001:db8::9 iif eth1 goto 12",
                "ip -6 rule add pref 11 iif eth1 blackhole",
            ]
        );
    }
}
