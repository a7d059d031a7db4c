//! The physical NIC behind the device that is received on.

use anyhow::Result;
use netdev::LinkInfo;
use nic::{Applied, Plan};

use super::Args;
use crate::plan::flows;
use crate::snapshot::NicBehind;

/// Sets the NIC up: header split, RSS off the queues, the flow to them.
///
/// `None` if the NIC is out of reach, as from within a container. Then its owner has set it up.
pub(super) fn configure(
    args: &Args,
    link: &LinkInfo,
    nic: Option<&NicBehind>,
) -> Result<Option<Applied>> {
    let Some(nic) = nic else {
        out_of_reach(link);
        return Ok(None);
    };
    let applied = plan(args, nic)?.apply(&nic.netns)?;
    for change in applied.changes() {
        tracing::info!("{}: {change}", nic.device);
    }
    Ok(Some(applied))
}

pub(super) fn out_of_reach(link: &LinkInfo) {
    tracing::warn!(
        "the NIC behind {} is out of reach: its header split, RSS and rules stay as they are",
        link.name
    );
}

/// What the NIC must look like.
pub(super) fn plan(args: &Args, nic: &NicBehind) -> Result<Plan> {
    let mut plan = Plan::new(&nic.device, nic.ifindex)
        .header_split()
        .reserve(&nic.queues);
    for address in &args.listen {
        for flow in flows(address.on_the_wire(), args.from)? {
            plan = plan.steer(flow, &nic.queues);
        }
    }
    Ok(plan)
}
