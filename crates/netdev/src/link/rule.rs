//! Policy routing rules: the kinds that limit what a device forwards.

use std::fmt;
use std::net::IpAddr;

use netlink::{Attrs, MessageSpec, Request, Result};
use serde::{Deserialize, Serialize};

use super::Link;
use super::addr::{family_byte, octets, parse_ip};
use crate::ParseError;
use crate::parse::{Parsed, attributes};

attributes! {
    /// Attributes: `FRA_*`.
    mod fra {
        DST = 1, address("dst");
        SRC = 2, address("src");
        IIFNAME = 3, text("iif");
        GOTO = 4, number("goto");
        PRIORITY = 6, number("priority");
        SUPPRESS_PREFIXLEN = 14, number("suppress-prefixlen");
        TABLE = 15, number("table");
        PAD = 18, bytes("pad");
        PROTOCOL = 21, number("protocol");
    }
}

/// Netlink format of messages about policy routing rules.
pub(super) const MESSAGE: MessageSpec = MessageSpec {
    header: HEADER,
    attrs: fra::ALL,
};

/// Length of a `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// Action number of a rule that continues at another priority: `FR_ACT_GOTO`.
const GOTO: u8 = 2;
const NOP: u8 = 3;
const BLACKHOLE: u8 = 6;

/// `FIB_RULE_INVERT`: the rule is for all packets that do not match.
const INVERT: u32 = 2;

/// Message type for adding a policy routing rule: `RTM_NEWRULE`.
const NEW: u16 = libc::RTM_NEWRULE;
const DELETE: u16 = libc::RTM_DELRULE;

/// Action of a policy routing rule on the packets that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Continue with the rules from this priority on (`FR_ACT_GOTO`).
    Goto(u32),
    /// Do nothing with the packet (`FR_ACT_NOP`); a target for [`RuleAction::Goto`].
    Nop,
    /// Drop the packet silently (`FR_ACT_BLACKHOLE`).
    Blackhole,
}

/// Policy routing rule: `ip rule add pref 11 iif eth1 blackhole`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whether the rule is for IPv4; otherwise it is for IPv6.
    pub v4: bool,
    /// Priority of the rule: rules with lower numbers come first.
    pub priority: u32,
    /// Name of the device by which matching packets came in; `None` matches any.
    pub iif: Option<String>,
    /// Source address of matching packets; `None` matches any.
    pub src: Option<IpAddr>,
    /// Destination address of matching packets; `None` matches any.
    pub dst: Option<IpAddr>,
    /// Action of the rule on packets that match.
    pub action: RuleAction,
}

impl fmt::Display for Rule {
    /// Formats the rule in the syntax of `ip rule`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v4 { "" } else { "-6 " };
        write!(f, "{family}pref {}", self.priority)?;
        for (word, addr) in [("from", self.src), ("to", self.dst)] {
            if let Some(addr) = addr {
                write!(f, " {word} {addr}")?;
            }
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        match self.action {
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Nop => f.write_str(" nop"),
            RuleAction::Blackhole => f.write_str(" blackhole"),
        }
    }
}

impl Rule {
    /// Parses a policy routing rule; `None` for a rule that a [`Rule`] cannot describe: another
    /// action, a network, or a further condition.
    pub(super) fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Option<Self>> {
        // struct fib_rule_hdr: family, lengths of destination and source, tos, table, reserved,
        // action, flags.
        let &[
            family,
            dst_len,
            src_len,
            tos,
            _,
            _,
            _,
            action,
            f0,
            f1,
            f2,
            f3,
        ] = header
        else {
            return Err(ParseError::Header { left: header.len() });
        };
        let (v4, whole) = match libc::c_int::from(family) {
            libc::AF_INET => (true, 32),
            libc::AF_INET6 => (false, 128),
            _ => return Ok(None),
        };
        let inverted = u32::from_ne_bytes([f0, f1, f2, f3]) & INVERT != 0;
        let network = [dst_len, src_len]
            .iter()
            .any(|&len| len != 0 && len != whole);
        if inverted || network || tos != 0 {
            return Ok(None);
        }
        let mut rule = Self {
            v4,
            priority: 0,
            iif: None,
            src: None,
            dst: None,
            action: match action {
                GOTO => RuleAction::Goto(0),
                NOP => RuleAction::Nop,
                BLACKHOLE => RuleAction::Blackhole,
                _ => return Ok(None),
            },
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                fra::PRIORITY => rule.priority = attr.u32()?,
                fra::IIFNAME => rule.iif = Some(attr.lossy_str()?),
                fra::SRC => rule.src = Some(parse_ip(&attr)?),
                fra::DST => rule.dst = Some(parse_ip(&attr)?),
                fra::GOTO => rule.action = RuleAction::Goto(attr.u32()?),
                // The kernel sends these with each rule (`fib_nl_fill_rule`); none is a condition
                // of a rule without a lookup.
                fra::TABLE | fra::SUPPRESS_PREFIXLEN | fra::PROTOCOL | fra::PAD => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(rule))
    }
}

impl Link {
    /// Lists the IPv4 and IPv6 policy routing rules that a [`Rule`] can describe
    /// (`fib_nl_dumprule`); others are left out.
    ///
    /// # Errors
    /// Those of a dump.
    #[doc(alias = "RTM_GETRULE")]
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let request = Request::new(libc::RTM_GETRULE, &[0; HEADER], "rule-get", "");
        let rules = self.dump(&request, HEADER, Rule::parse)?;
        Ok(rules.into_iter().flatten().collect())
    }

    /// Adds a policy routing rule (`fib_newrule`).
    ///
    /// # Errors
    /// `EEXIST` where such a rule exists.
    #[doc(alias = "RTM_NEWRULE")]
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let request = request(NEW, "rule-add", rule).flags(flags);
        self.socket.tell(&request)
    }

    /// Deletes a policy routing rule (`fib_delrule`).
    ///
    /// # Errors
    /// `ENOENT` where no such rule exists.
    #[doc(alias = "RTM_DELRULE")]
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        self.socket.tell(&request(DELETE, "rule-delete", rule))
    }
}

fn request(kind: u16, op: &'static str, rule: &Rule) -> Request {
    let family = if rule.v4 {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let whole = |addr: Option<IpAddr>| match addr {
        None => 0,
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
    };
    let action = match rule.action {
        RuleAction::Goto(_) => GOTO,
        RuleAction::Nop => NOP,
        RuleAction::Blackhole => BLACKHOLE,
    };
    let mut header = [0; HEADER];
    header[..3].copy_from_slice(&[family_byte(family), whole(rule.dst), whole(rule.src)]);
    header[7] = action;
    let mut request = Request::new(kind, &header, op, rule.to_string());
    let attrs = request.attrs();
    attrs.u32(fra::PRIORITY, rule.priority);
    if let Some(iif) = &rule.iif {
        attrs.str(fra::IIFNAME, iif);
    }
    for (kind, addr) in [(fra::SRC, rule.src), (fra::DST, rule.dst)] {
        if let Some(addr) = addr {
            attrs.put(kind, &octets(addr));
        }
    }
    if let RuleAction::Goto(priority) = rule.action {
        attrs.u32(fra::GOTO, priority);
    }
    request
}
