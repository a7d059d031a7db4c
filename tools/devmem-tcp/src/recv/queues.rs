//! The queues that are received on: those that were named, or those that suit. What is wrong with them is
//! found before anything is changed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use netdev::{
    LinkInfo, NetNs, Netdev, Queue, QueueId, QueueType, queue_list, shell_command, shell_word,
};

use super::{Args, Place};
use crate::below;
use crate::enter::{enter, within};
use crate::holder;
use crate::remedy::Hint;
use crate::snapshot::NicBehind;

/// How long a binding of a process that was killed may take to go.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at it.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The queues that were named, or those that suit.
pub(super) fn choose(args: &Args, netns: &NetNs, link: &LinkInfo) -> Result<Vec<QueueId>> {
    if !link.up {
        // Of a device that is down the kernel lists no queue (`netdev_nl_queue_dump_one`).
        return Err(down(netns, link).into());
    }
    if link.is_virtual() && link.netkit.is_none() {
        if let Some(refusal) = below::refusal(netns, link)? {
            return Err(refusal.into());
        }
    }
    let queues = rx_queues(netns, link.ifindex)?;
    match (args.queues.is_empty(), link.is_physical()) {
        (false, _) => {
            check_named(&args.queues, &queues, link)?;
            Ok(args.queues.clone())
        }
        (true, true) => last_free(&queues, netns, link),
        (true, false) => leased(&queues, netns, link),
    }
}

fn rx_queues(netns: &NetNs, ifindex: netdev::Ifindex) -> Result<Vec<Queue>> {
    let mut queues = Netdev::open_in(netns)?.queues(Some(ifindex))?;
    queues.retain(|queue| queue.kind == QueueType::Rx);
    Ok(queues)
}

fn down(netns: &NetNs, link: &LinkInfo) -> Hint {
    let up = shell_command(["ip", "link", "set", "dev", &link.name, "up"]);
    Hint::new(
        format!("recv {}: the device is down", link.name),
        format!("set it up: {}", within(netns, &up)),
    )
}

/// Fails where one is not there, or was named twice.
fn check_named(named: &[QueueId], queues: &[Queue], link: &LinkInfo) -> Result<()> {
    let there: Vec<QueueId> = queues.iter().map(|queue| queue.id).collect();
    for (turn, queue) in named.iter().enumerate() {
        let wrong = if !there.contains(queue) {
            format!("{} has rx queues {}", link.name, queue_list(&there))
        } else if named.iter().take(turn).any(|before| before == queue) {
            "it is named twice".to_owned()
        } else if link.netkit.is_some() && queue.get() == 0 {
            format!("a netkit's queue 0 is its own: {} leases others", link.name)
        } else {
            continue;
        };
        return Err(Hint::new(
            format!("recv {}: --queue {queue}: {wrong}", link.name),
            "`devmem-tcp show IF --all` lists the queues: name another",
        )
        .into());
    }
    Ok(())
}

/// A NIC's last one that nobody has.
fn last_free(queues: &[Queue], netns: &NetNs, link: &LinkInfo) -> Result<Vec<QueueId>> {
    let free = queues
        .iter()
        .filter(|queue| queue.lease.is_none() && !is_bound(queue) && !queue.xsk);
    match free.map(|queue| queue.id).max() {
        Some(last) if queues.len() > 1 => Ok(vec![last]),
        _ => Err(Hint::new(
            format!("recv {}: no rx queue is free for it", link.name),
            format!(
                "give it more queues: {}",
                within(
                    netns,
                    &shell_command(["ethtool", "-L", &link.name, "combined", "N"])
                )
            ),
        )
        .into()),
    }
}

/// All that a netkit leases: its queue 0 is its own.
fn leased(queues: &[Queue], netns: &NetNs, link: &LinkInfo) -> Result<Vec<QueueId>> {
    let ids = queues.iter().map(|queue| queue.id);
    let leased: Vec<QueueId> = ids.filter(|id| id.get() > 0).collect();
    if leased.is_empty() {
        let at = enter(netns).map_or_else(String::new, |(_, argument)| {
            format!(" --netns {}", shell_word(&argument))
        });
        return Err(Hint::new(
            format!("recv {}: a virtual device that leases no queue", link.name),
            format!(
                "lease one: devmem-tcp lease --phys IF --queue N --netkit {}{at}",
                shell_word(&link.name)
            ),
        )
        .into());
    }
    Ok(leased)
}

/// Waits a moment for bindings of the NIC's queues to end, as those of a process that was killed do some
/// time after it; then names who has them.
pub(super) fn wait_until_free(place: &Place, nic: &NicBehind) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let queues = rx_queues(&nic.netns, nic.ifindex)?;
        let taken = |queue: &&Queue| nic.queues.contains(&queue.id) && is_bound(queue);
        let Some(queue) = queues.iter().find(taken) else {
            return Ok(());
        };
        if Instant::now() >= end {
            return Err(in_use(place, nic, queue).into());
        }
        thread::sleep(TICK);
    }
}

fn is_bound(queue: &Queue) -> bool {
    queue.dmabuf.is_some() || queue.io_uring.is_some()
}

fn in_use(place: &Place, nic: &NicBehind, queue: &Queue) -> Hint {
    let by = match queue.dmabuf {
        Some(dmabuf) => format!("bound to dmabuf {dmabuf}"),
        None => "in use by io_uring".to_owned(),
    };
    let who = holders(place);
    Hint::new(
        format!(
            "recv {}: rx queue {} of {} is {by}{who}",
            place.link.name, queue.id, nic.device
        ),
        "end that receiver, or choose another queue: `devmem-tcp show` lists the bindings",
    )
}

/// Who has a binding in the device's namespace, behind a comma; nothing where nobody can be seen.
pub(super) fn holders(place: &Place) -> String {
    match &holder::find(Some(&place.netns))[..] {
        [] => String::new(),
        holders => format!(", by {}", holders.join(" or ")),
    }
}
