//! Claims of several owners: none ends with another's.

use anyhow::{Result, ensure};
use netdev::{NetNs, QueueId};
use nic::Plan;
use nix::sys::signal::Signal;

use super::nic_journal::recv;
use super::receive::bound_queues;
use super::round::{STEP, restore};
use super::transfer::devmem_tcp;
use super::ifindex;
use crate::bed::{self, NIC};
use crate::state::Observer;
use crate::tool::{Finished, Running, command, finish, until};

const LAST: QueueId = QueueId::new(bed::QUEUES - 1);

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// One whose claim was ended by force ends no other's, whoever has come meanwhile.
pub(super) fn ended_by_force() -> Result<()> {
    bed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let plan = Plan::new(NIC, ifindex(NIC)?)
        .header_split()
        .reserve(&[LAST]);
    let applied = plan.apply(&NetNs::current()?)?;
    tool("restore eth1 --force")?.good("restore")?;
    observer.same(&before)?;
    let receiver = Running::start(recv(5000))?;
    until("a binding", STEP, || Ok(bound_queues()? == 1))?;
    let bent = observer.state()?;
    applied.restore()?;
    observer.same(&bent)?;
    let said = restore()?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    receiver.signal(Signal::SIGTERM)?;
    receiver.end_within(STEP)?.refused(1)?;
    observer.soon_same(&before)
}
