//! What a receiver does to the NIC.

use anyhow::Result;
use netdev::ethtool::{Action, FlowRule, PortMatch};
use netdev::{Ethtool, QueueId};
use nic::{Applied, Error, Plan};
use receiver::NicBehind;

use crate::args::Server;
use crate::{Device, say, tell};

/// Whether the server sets the NIC up: not with `-n`, and not on a device without rings. The rings
/// behind a netkit are those of its NIC, which this tool leaves alone.
pub(crate) fn is_ours(device: &Device, server: &Server) -> Result<bool> {
    if server.skip_config {
        return Ok(false);
    }
    match Ethtool::open()?.rings(device.ifindex) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            say(&format!(
                "{} has no rings of its own: its NIC is left as it is",
                device.name
            ));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the function that applies a plan with rules that steer all flows to the first queue, as
/// upstream does. With the client's address a rule matches the client's port, too, which is the
/// server's.
pub(crate) fn steer(
    device: &Device,
    server: &Server,
) -> impl FnOnce(Plan, &NicBehind) -> Result<Applied, receiver::Error> + Send + use<> {
    let address = server.address.on(device.ifindex);
    let client = server.client;
    let port = server.address.port;
    move |plan, nic| {
        let first: &[QueueId] = nic.queues.get(..1).unwrap_or_default();
        let steered = |client| {
            let flows = FlowRule::tcp_to_listener(address, client, Action::Drop);
            flows.into_iter().fold(plan.clone(), |plan, mut flow| {
                flow.src_port = client.map(|_| PortMatch::exact(port));
                plan.steer(flow, first)
            })
        };
        match steered(client).apply(&nic.netns) {
            Err(error) if client.is_some() && rule_is_too_much(&error) => {
                // The five-tuple is more than some NICs can match: try the three-tuple, as upstream does.
                tell(&format!("{error}: without the client's address, then"));
                Ok(steered(None).apply(&nic.netns)?)
            }
            applied => Ok(applied?),
        }
    }
}

/// Whether the error says that the NIC can't match such a rule. A rule that exists already, or a
/// full table, is no reason to steer more than was asked for.
fn rule_is_too_much(error: &Error) -> bool {
    let Error::Refused(error) = error else {
        return false;
    };
    let errno = error.raw_os_error();
    error.op() == "ntuple-insert" && matches!(errno, Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// Combines the results of a run and of restoring the NIC; the error has both if both failed.
pub(crate) fn put_back(restored: Result<(), Error>, outcome: Result<()>) -> Result<()> {
    match (restored, outcome) {
        (Err(error), Err(before)) => {
            Err(before.context(format!("{}; and before that", common::with_sources(&error))))
        }
        (Err(error), Ok(())) => Err(error.into()),
        (Ok(()), outcome) => outcome,
    }
}
