//! The firewall on the way to a guest: base chains that drop what is forwarded.

use std::net::IpAddr;

use netdev::netfilter::ForwardChain;
use netdev::{NetNs, Netfilter, shell_command};

/// Finds the nftables base chains for forwarded packets whose policy is to drop, of a family of
/// these addresses. They may have rules that accept the guest's packets; rules are not examined.
///
/// # Errors
/// `EINVAL` if the kernel has no nftables.
pub(crate) fn dropping_chains(
    netns: &NetNs,
    addresses: &[IpAddr],
) -> netdev::Result<Vec<ForwardChain>> {
    let mut chains = Netfilter::open_in(netns)?.forward_chains()?;
    let sees = |chain: &ForwardChain| {
        let mut addresses = addresses.iter();
        addresses.any(|address| chain.family.sees(address.is_ipv4()))
    };
    chains.retain(|chain| chain.drops && sees(chain));
    Ok(chains)
}

/// Describes nftables chains that drop forwarded packets.
pub(crate) fn describe(chains: &[ForwardChain]) -> String {
    let names = chains.iter().map(|chain| {
        let family = chain.family.name();
        format!("chain {} of table {family} {}", chain.name, chain.table)
    });
    let names = names.collect::<Vec<_>>().join(" and ");
    match chains.len() {
        1 => format!("{names} drops what no rule of it accepts"),
        _ => format!("{names} drop what no rule of theirs accepts"),
    }
}

/// `nft` commands that make the chains accept packets that are forwarded between two devices, in
/// each direction.
pub(crate) fn accept_commands(
    chains: &[ForwardChain],
    (nic, host_end): (&str, &str),
) -> Vec<String> {
    let accept = |chain: &ForwardChain, from: &str, to: &str| {
        let place = [chain.family.name(), &chain.table, &chain.name];
        let words = ["nft", "insert", "rule"].into_iter().chain(place);
        shell_command(words.chain(["iifname", from, "oifname", to, "accept"]))
    };
    let both = |chain| [accept(chain, nic, host_end), accept(chain, host_end, nic)];
    chains.iter().flat_map(both).collect()
}
