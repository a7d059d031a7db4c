//! The physical NIC behind the device that is received on.

use anyhow::Result;
use netdev::{FlowRule, Ifindex, IpMatch, LinkInfo, NetNs, QueueId};
use nic::{Applied, Plan};

use super::Args;
use crate::args;
use crate::remedy::Hint;
use crate::snapshot::Snapshot;

/// Sets the NIC up: header split, RSS off the queues, the flow to them.
///
/// `None` if the NIC is out of reach: it is in a namespace that this one can't look into, as seen
/// from within a container. Then its owner has set it up.
pub(super) fn configure(
    args: &Args,
    netns: &NetNs,
    link: &LinkInfo,
    queues: &[QueueId],
) -> Result<Option<Applied>> {
    if link.is_physical() {
        let plan = plan(args, &link.name, link.ifindex, queues);
        return Ok(Some(plan.apply(netns)?));
    }
    let mut snapshot = Snapshot::take()?;
    let virt = snapshot.include(args::netns(args.netns.as_ref())?, netns.label().to_owned())?;
    let virt_name = snapshot.spaces.get(virt).map(|space| space.name.clone());
    let mut phys: Option<(String, Ifindex, String)> = None;
    let mut phys_queues = Vec::new();
    for lease in snapshot.leases()? {
        let ours = lease.virt.ifindex == link.ifindex && lease.virt.netns == virt_name;
        if !ours || !queues.contains(&lease.virt.queue) {
            continue;
        }
        if let (Some(space), Some(device)) = (lease.phys.netns, lease.phys.device) {
            phys = Some((space, lease.phys.ifindex, device));
            phys_queues.push(lease.phys.queue);
        }
    }
    let Some((space, ifindex, device)) = phys else {
        tracing::warn!(
            "the NIC behind {} is out of reach: its header split, RSS and rules stay as they are",
            link.name
        );
        return Ok(None);
    };
    let Some(space) = snapshot.spaces.iter().find(|other| other.name == space) else {
        return Err(Hint::new(format!("recv {}: lost {device}", link.name), "try again").into());
    };
    let plan = plan(args, &device, ifindex, &phys_queues);
    Ok(Some(plan.apply(&space.netns)?))
}

fn plan(args: &Args, device: &str, ifindex: Ifindex, queues: &[QueueId]) -> Plan {
    let mut flow = FlowRule::tcp_to(args.listen, netdev::Action::Drop);
    flow.src = args.from.map(IpMatch::host);
    Plan::new(device, ifindex)
        .header_split()
        .reserve(queues)
        .steer(flow, queues)
}
