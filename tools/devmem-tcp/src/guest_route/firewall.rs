//! The firewall on the way to a guest: base chains that drop what is forwarded.

use netdev::{ForwardChain, NetNs, Netfilter, shell_command};

/// The first base chain for forwarded packets whose policy is to drop. It may have a rule that accepts the
/// guest's packets; rules are not examined.
///
/// # Errors
/// `EINVAL` if the kernel has no nftables.
pub(crate) fn dropping_chain(netns: &NetNs) -> netdev::Result<Option<ForwardChain>> {
    let chains = Netfilter::open_in(netns)?.forward_chains()?;
    Ok(chains.into_iter().find(|chain| chain.drops))
}

/// What the chain does, in words.
pub(crate) fn drops(chain: &ForwardChain) -> String {
    format!(
        "chain {} of table {} {} drops what no rule of it accepts",
        chain.name,
        chain.family.name(),
        chain.table
    )
}

/// Commands that have the chain accept what is forwarded between two devices, in each direction.
pub(crate) fn accept_commands(chain: &ForwardChain, (nic, host_end): (&str, &str)) -> [String; 2] {
    let place = [
        chain.family.name(),
        chain.table.as_str(),
        chain.name.as_str(),
    ];
    let accept = |from: &str, to: &str| {
        let words = ["nft", "insert", "rule"].into_iter().chain(place);
        shell_command(words.chain(["iifname", from, "oifname", to, "accept"]))
    };
    [accept(nic, host_end), accept(host_end, nic)]
}
