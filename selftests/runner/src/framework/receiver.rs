//! Receivers as the kernel sees them: bound queues and received packets.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use netdev::{Netdev, QueueType};

use crate::ifindex;
use crate::testbed::NIC;
use crate::tool::until;

/// How many rx queues of the NIC have a dmabuf.
pub fn bound_queues() -> Result<usize> {
    let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    Ok(queues
        .iter()
        .filter(|q| q.kind == QueueType::Rx && q.dmabuf.is_some())
        .count())
}

pub fn wait_until_bound() -> Result<()> {
    until("a binding", Duration::from_secs(10), || {
        Ok(bound_queues()? > 0)
    })
}

/// Packets that the NIC has received.
pub fn received() -> Result<u64> {
    let path = format!("/sys/class/net/{NIC}/statistics/rx_packets");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}
