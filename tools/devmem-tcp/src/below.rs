//! The NIC below a VLAN, a bond, a team or another device that is stacked on it: what is received on is
//! the NIC itself.

use netdev::{Link, LinkInfo, NetNs};

use crate::remedy::Hint;

/// Devices on devices, at most.
const DEPTH: usize = 8;

/// The error of a receiver on a stacked device; `None` where no NIC is below it.
pub(crate) fn refusal(netns: &NetNs, link: &LinkInfo) -> netdev::Result<Option<Hint>> {
    let all = Link::open_in(netns)?.list()?;
    let nics = nics_below(&all, link);
    let Some((first, _)) = nics.split_first() else {
        return Ok(None);
    };
    let kind = link.kind.as_deref().unwrap_or("device");
    let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
    Ok(Some(Hint::new(
        format!(
            "{}: a {kind} over {}, whose queues are its own",
            link.name,
            names.join(", ")
        ),
        format!("name the NIC itself: {}", first.name),
    )))
}

/// The physical devices that a virtual one is stacked on, or is made of.
fn nics_below<'a>(all: &'a [LinkInfo], link: &'a LinkInfo) -> Vec<&'a LinkInfo> {
    let mut level = vec![link];
    let mut nics: Vec<&LinkInfo> = Vec::new();
    for _ in 0..DEPTH {
        let is_below = |one: &&LinkInfo| {
            level.iter().any(|upper| {
                // Without an id the other link is in this namespace.
                let lower = upper.link.filter(|_| upper.link_netns_id.is_none());
                upper.netkit.is_none()
                    && upper.kind.as_deref() != Some("veth")
                    && (lower == Some(one.ifindex) || one.master == Some(upper.ifindex))
            })
        };
        let below: Vec<&LinkInfo> = all.iter().filter(is_below).collect();
        level = below
            .iter()
            .copied()
            .filter(|one| one.is_virtual())
            .collect();
        for nic in below.into_iter().filter(|one| one.is_physical()) {
            if !nics.iter().any(|known| known.ifindex == nic.ifindex) {
                nics.push(nic);
            }
        }
    }
    nics
}
