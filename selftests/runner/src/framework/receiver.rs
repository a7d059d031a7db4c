//! Receivers as the kernel sees them: bound queues and received packets.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use netdev::{Link, NetNs, Netdev, QueueType};

use crate::nic_state;
use crate::testbed::{NIC, NIC_ADDRESS};
use crate::tool::{Finished, Running, command, finish, until};
use crate::transfer::devmem_tcp;

/// Time limit for a step of a receiver.
pub const STEP: Duration = Duration::from_secs(30);

/// Counts the rx queues of the NIC that are bound to a dmabuf.
pub fn bound_queues() -> Result<usize> {
    bound_queues_in(&NetNs::current()?)
}

/// Counts the rx queues that are bound to a dmabuf, of the NIC in this namespace.
pub fn bound_queues_in(netns: &NetNs) -> Result<usize> {
    let nic = Link::open_in(netns)?.by_name(NIC)?.ifindex;
    let queues = Netdev::open_in(netns)?.queues(Some(nic))?;
    Ok(queues
        .iter()
        .filter(|q| q.kind == QueueType::Rx && q.dmabuf.is_some())
        .count())
}

/// Waits until a queue of the NIC is bound.
pub fn wait_until_bound() -> Result<()> {
    until("a binding", STEP, || Ok(bound_queues()? > 0))
}

/// Waits until no queue of the NIC is bound.
pub fn wait_until_unbound() -> Result<()> {
    until("the end of the binding", STEP, || Ok(bound_queues()? == 0))
}

/// Starts a receiver and waits until a queue is bound.
pub fn start_bound(receiver: Command) -> Result<Running> {
    let running = Running::start(receiver)?;
    wait_until_bound()?;
    Ok(running)
}

/// Kills a receiver and its guardian, so that no process restores the NIC.
pub fn kill_with_guardian(receiver: Running) -> Result<()> {
    nic_state::kill_guardian()?;
    receiver.kill()
}

/// Starts a receiver and kills it with its guardian: leaves a NIC that is set up, and a journal,
/// but no binding.
pub fn crash(receiver: Command) -> Result<()> {
    kill_with_guardian(start_bound(receiver)?)?;
    wait_until_unbound()
}

/// Returns the number of packets that the NIC has received.
pub fn received() -> Result<u64> {
    let path = format!("/sys/class/net/{NIC}/statistics/rx_packets");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// The command of `devmem-tcp recv` on the last queue, at this port.
pub fn recv(port: u16) -> Command {
    let line = format!("recv -f {NIC} --size 4M -l {NIC_ADDRESS}:{port}");
    command(None, &devmem_tcp(), &line)
}

/// Runs `devmem-tcp restore` on the NIC to its end.
pub fn restore() -> Result<Finished> {
    finish(command(None, &devmem_tcp(), &format!("restore {NIC}")))
}
