//! What a receiver does to the NIC.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netdev::{Action, Ethtool, FlowRule, NetNs, PortMatch, QueueId};
use nic::{Applied, Error, Plan};

use crate::args::Server;
use crate::{Device, say};

/// Sets the NIC up, unless that is not wanted, or the device has no rings to set: a netkit's are
/// those of the NIC whose queue it leases, which is not in this namespace.
pub(crate) fn configure(
    device: &Device,
    server: &Server,
    queues: &[QueueId],
) -> Result<Option<Applied>> {
    if server.skip_config {
        return Ok(None);
    }
    match Ethtool::open()?.rings(device.ifindex) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            say(&format!(
                "{} has no rings of its own: its NIC is left as it is",
                device.name
            ));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let first = queues.get(..1).context("-q: no queue")?;
    let address = server.address.on(device.ifindex);
    let netns = NetNs::current()?;
    let plan = Plan::new(&device.name, device.ifindex)
        .header_split()
        .reserve(queues);
    let steered = |client: Option<IpAddr>| {
        let flows = FlowRule::tcp_to_listener(address, client, Action::Drop);
        flows.into_iter().fold(plan.clone(), |plan, mut flow| {
            if client.is_some() {
                flow.src_port = Some(PortMatch::exact(server.address.port));
            }
            plan.steer(flow, first)
        })
    };
    match steered(server.client).apply(&netns) {
        Err(error) if server.client.is_some() && rule_is_too_much(&error) => {
            // The five-tuple is more than some NICs can match: try the three-tuple, as upstream does.
            say(&format!("{error}: without the client's address, then"));
            Ok(Some(steered(None).apply(&netns)?))
        }
        applied => Ok(Some(applied?)),
    }
}

/// Whether the NIC can't match such a rule; one that is there already, or has no room, is no reason to take
/// more than what was asked for.
fn rule_is_too_much(error: &Error) -> bool {
    let Error::Refused(error) = error else {
        return false;
    };
    let errno = error.raw_os_error();
    error.op() == "ntuple-insert" && matches!(errno, Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// Takes back what was done to the NIC, whatever came of it; both failures if there are two.
pub(crate) fn put_back(restored: Result<(), Error>, outcome: Result<()>) -> Result<()> {
    match (restored, outcome) {
        (Err(error), Err(before)) => Err(before.context(format!("{error}; and before that"))),
        (Err(error), Ok(())) => Err(error.into()),
        (Ok(()), outcome) => outcome,
    }
}
