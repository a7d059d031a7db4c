//! What a receiver does to the NIC.

use anyhow::{Context, Result};
use netdev::{Action, Ethtool, FlowRule, IpMatch, NetNs, PortMatch, QueueId};
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
    let mut flow = FlowRule::tcp_to(address, Action::Drop);
    if let Some(client) = server.client {
        flow.src = Some(IpMatch::host(client));
        flow.src_port = Some(PortMatch::exact(server.address.port));
    }
    let netns = NetNs::current()?;
    let plan = Plan::new(&device.name, device.ifindex)
        .header_split()
        .reserve(queues);
    match plan.clone().steer(flow.clone(), first).apply(&netns) {
        Err(error) if server.client.is_some() && of_the_rule(&error) => {
            // The five-tuple is more than some NICs can match: try the three-tuple, as upstream does.
            say(&format!("{error}: without the client's address, then"));
            flow.src = None;
            flow.src_port = None;
            Ok(Some(plan.steer(flow, first).apply(&netns)?))
        }
        applied => Ok(Some(applied?)),
    }
}

fn of_the_rule(error: &Error) -> bool {
    matches!(error, Error::Refused(error) if error.op() == "ntuple-insert")
}

/// Takes back what was done to the NIC, whatever came of it; both failures if there are two.
pub(crate) fn put_back(restored: Result<(), Error>, outcome: Result<()>) -> Result<()> {
    match (restored, outcome) {
        (Err(error), Err(before)) => Err(before.context(format!("{error}; and before that"))),
        (Err(error), Ok(())) => Err(error.into()),
        (Ok(()), outcome) => outcome,
    }
}
