//! nftables, as far as it decides what becomes of forwarded packets.

use netlink::{Attrs, NetNs, Request, Result, Socket};

use crate::ParseError;
use crate::parse::{Parsed, required};

/// Message type of a request for chains: `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;

/// Length of a `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// Attributes of a chain: `NFTA_CHAIN_*`, and of its hook: `NFTA_HOOK_*`.
mod nfta {
    pub(super) const TABLE: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const HOOK: u16 = 4;
    pub(super) const POLICY: u16 = 5;

    pub(super) const HOOKNUM: u16 = 1;
}

/// Number of the hook that forwarded packets pass: `NF_INET_FORWARD`.
const FORWARD: u32 = 2;

/// Number of the verdict that drops a packet: `NF_DROP`.
const DROP: u32 = 0;

/// Family of an nftables table: which packets the table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableFamily {
    /// IPv4 and IPv6 packets (`NFPROTO_INET`).
    Inet,
    /// IPv4 packets (`NFPROTO_IPV4`).
    Ip,
    /// IPv6 packets (`NFPROTO_IPV6`).
    Ip6,
}

impl TableFamily {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Inet,
            2 => Self::Ip,
            10 => Self::Ip6,
            _ => return None,
        })
    }

    /// Name of the family in the syntax of `nft`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// Whether a table of this family sees IPv4 packets, or else IPv6 packets.
    pub fn sees(self, v4: bool) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip => v4,
            Self::Ip6 => !v4,
        }
    }
}

/// An nftables base chain that forwarded packets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForwardChain {
    /// Family of the chain's table.
    pub family: TableFamily,
    /// Name of the chain's table.
    pub table: String,
    /// Name of the chain.
    pub name: String,
    /// Whether the chain's policy drops packets that none of its rules decides on.
    pub drops: bool,
}

impl ForwardChain {
    /// Parses a base chain of the forward hook; `None` for a chain of another hook or family.
    fn parse(header: &[u8], attrs: Attrs<'_>) -> Parsed<Option<Self>> {
        let &[family, ..] = header else {
            return Err(ParseError::Header { left: header.len() });
        };
        let (mut table, mut name, mut policy, mut hook) = (None, None, None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.kind() {
                nfta::TABLE => table = Some(attr.lossy_str()?),
                nfta::NAME => name = Some(attr.lossy_str()?),
                nfta::POLICY => policy = Some(u32::from_be_bytes(attr.array()?)),
                nfta::HOOK => {
                    for attr in attr.nested() {
                        let attr = attr?;
                        if attr.kind() == nfta::HOOKNUM {
                            hook = Some(u32::from_be_bytes(attr.array()?));
                        }
                    }
                }
                _ => {}
            }
        }
        let (Some(family), Some(FORWARD)) = (TableFamily::of(family), hook) else {
            return Ok(None);
        };
        Ok(Some(Self {
            family,
            table: required(table, nfta::TABLE)?,
            name: required(name, nfta::NAME)?,
            drops: policy == Some(DROP),
        }))
    }
}

/// Handle to nftables, for reading alone.
///
/// It sees what `nft` and `iptables-nft` set up in its network namespace. The tables of
/// `iptables-legacy` are others (`ip_tables`), which netlink does not show.
#[derive(Debug)]
pub struct Netfilter {
    socket: Socket,
}

impl Netfilter {
    /// Opens a handle to nftables in the network namespace `ns`.
    ///
    /// # Errors
    /// Those of [`Socket::netfilter`] and [`NetNs::run`].
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        let socket = ns.run(Socket::netfilter)??;
        Ok(Self { socket })
    }

    /// Lists the base chains that forwarded packets pass (`nf_tables_dump_chains`).
    ///
    /// # Errors
    /// Those of a dump: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` where the kernel has no nftables.
    pub fn forward_chains(&mut self) -> Result<Vec<ForwardChain>> {
        // A family of 0 stands for all.
        let request = Request::new(GET_CHAIN, &[0; HEADER], "nftables chain-get", "");
        let answers = self.socket.dump(&request)?;
        let parsed = answers.iter().map(|answer| {
            let (header, attrs) = answer.split(HEADER)?;
            ForwardChain::parse(header, attrs)
        });
        let chains = parsed.collect::<Parsed<Vec<_>>>();
        let chains = chains.map_err(|error| request.malformed(error))?;
        Ok(chains.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use netlink::Writer;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn chain(hook: Option<u32>, policy: Option<u32>) -> Writer {
        let mut writer = Writer::new();
        writer.str(nfta::TABLE, "filter");
        writer.str(nfta::NAME, "FORWARD");
        if let Some(hook) = hook {
            writer.nest(nfta::HOOK, |inner| {
                inner.put(nfta::HOOKNUM, &hook.to_be_bytes());
            });
        }
        if let Some(policy) = policy {
            writer.put(nfta::POLICY, &policy.to_be_bytes());
        }
        writer
    }

    fn parse(family: u8, chain: &Writer) -> Option<ForwardChain> {
        ForwardChain::parse(&[family, 0, 0, 0], Attrs::new(chain.bytes())).unwrap()
    }

    #[test]
    fn the_policy_of_a_chain_is_read() {
        let found = parse(2, &chain(Some(FORWARD), Some(DROP))).unwrap();
        assert_eq!((found.family, found.drops), (TableFamily::Ip, true));
        assert_eq!((&*found.table, &*found.name), ("filter", "FORWARD"));
        let found = parse(1, &chain(Some(FORWARD), Some(1))).unwrap();
        assert!(!found.drops && found.family.sees(true) && found.family.sees(false));
    }

    #[test]
    fn other_chains_are_passed_over() {
        assert_eq!(parse(2, &chain(Some(1), Some(DROP))), None);
        assert_eq!(parse(2, &chain(None, None)), None);
        // A bridge's.
        assert_eq!(parse(7, &chain(Some(FORWARD), Some(DROP))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(header in vec(any::<u8>(), 0..8), bytes in vec(any::<u8>(), 0..256)) {
            let _parsed = ForwardChain::parse(&header, Attrs::new(&bytes));
        }
    }
}
