//! The NICs below a VLAN, a bond, a team or another stacked device.

use netdev::link::LinkInfo;

/// Greatest depth of devices on devices.
const MAX_DEPTH: usize = 8;

/// Physical devices that a virtual device is stacked on, or is made of; `all` are the links of its
/// network namespace. The lower end of a netkit or veth is no device below it.
pub fn nics_below<'a>(all: &'a [LinkInfo], link: &'a LinkInfo) -> Vec<&'a LinkInfo> {
    let mut level = vec![link];
    let mut nics: Vec<&LinkInfo> = Vec::new();
    for _ in 0..MAX_DEPTH {
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
