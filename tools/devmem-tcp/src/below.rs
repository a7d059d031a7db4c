//! Refusal of devices that are stacked on a NIC: a VLAN, a bond, a team. Payload is received on the
//! NIC itself.

use netdev::link::LinkInfo;
use netdev::{Link, NetNs};

use crate::remedy::Hint;

/// Error of receiving on a device that is stacked on NICs; `None` if no NIC is below the device.
pub(crate) fn refusal(netns: &NetNs, link: &LinkInfo) -> netdev::Result<Option<Hint>> {
    let all = Link::open_in(netns)?.list()?;
    let nics = receiver::nics_below(&all, link);
    if nics.is_empty() {
        return Ok(None);
    }
    let kind = link.kind.as_deref().unwrap_or("device");
    let names: Vec<String> = nics.iter().map(|nic| nic.name.clone()).collect();
    Ok(Some(stacked(&link.name, kind, &names)))
}

/// Error of receiving on a device that is stacked on these NICs.
pub(crate) fn stacked(device: &str, kind: &str, nics: &[String]) -> Hint {
    let all = nics.join(", ");
    let first = nics.first().map_or("IF", String::as_str);
    Hint::new(
        format!("{device}: a {kind} over {all}, whose queues are its own"),
        format!("name the NIC itself: {first}"),
    )
}
