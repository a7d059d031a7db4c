//! Choice of the NIC's rx queues to lease.

use anyhow::{Result, bail};
use netdev::link::LinkInfo;
use netdev::queues::Queue;
use netdev::{Ifindex, Netdev, QueueId, QueueType, shell_command, shell_word};

use super::args::{Args, QueueList};
use super::site::Site;
use crate::remedy::Hint;

/// Chooses the rx queues to lease, by `--queue`, `--queues` or `--count`.
pub(super) fn queues(args: &Args, site: &Site) -> Result<Vec<QueueId>> {
    if let Some(count) = args.count {
        return free(&site.phys, count);
    }
    let mut queues = args.queues.clone();
    if let Some(QueueList(more)) = &args.ranges {
        queues.extend(more);
    }
    let mut queues = named(queues)?;
    if !site.is_made() && queues.len() > 1 {
        doubtful_first(&site.phys, &mut queues)?;
    }
    Ok(queues)
}

/// Returns the queues in the order given, or an error if a queue was named twice.
fn named(queues: Vec<QueueId>) -> Result<Vec<QueueId>> {
    let mut sorted = queues.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("lease: queue {} is named twice", pair[0]);
    }
    Ok(queues)
}

/// Chooses the last `count` unused queues of the NIC, in ascending order. Queue 0 stays with the
/// host.
fn free(phys: &LinkInfo, count: u32) -> Result<Vec<QueueId>> {
    let queues = rx_queues(phys.ifindex)?;
    if queues.is_empty() {
        return Err(Hint::new(
            format!(
                "lease {}: its queues are listed only while it is up",
                phys.name
            ),
            format!(
                "name the queues, or set it up: {}",
                shell_command(["ip", "link", "set", "dev", &phys.name, "up"])
            ),
        )
        .into());
    }
    let (all, wanted) = (queues.len(), usize::try_from(count)?);
    let mut free: Vec<QueueId> = queues
        .iter()
        .filter(|queue| is_free(queue) && queue.id.get() > 0)
        .map(|queue| queue.id)
        .collect();
    free.sort_unstable();
    if free.len() < wanted {
        return Err(Hint::new(
            format!(
                "lease {}: {} of its {all} rx queues can be leased, not {count}",
                phys.name,
                free.len()
            ),
            format!(
                "`devmem-tcp show {name} --all` says who has the others (queue 0 stays with the \
                 host); for more: ethtool -L {name} combined N",
                name = shell_word(&phys.name)
            ),
        )
        .into());
    }
    Ok(free.split_off(free.len() - wanted))
}

/// Moves queues that are in use or unknown to the front, as the kernel will refuse them: it then
/// refuses before it has granted a lease, which can't be undone for an existing netkit.
fn doubtful_first(phys: &LinkInfo, queues: &mut [QueueId]) -> Result<()> {
    let known = rx_queues(phys.ifindex)?;
    let good = |id: &QueueId| known.iter().any(|queue| queue.id == *id && is_free(queue));
    // The sort is stable, so the others keep their order.
    queues.sort_by_key(good);
    Ok(())
}

fn rx_queues(of: Ifindex) -> Result<Vec<Queue>> {
    let mut queues = Netdev::open()?.queues(Some(of))?;
    queues.retain(|queue| queue.kind == QueueType::Rx);
    Ok(queues)
}

fn is_free(queue: &Queue) -> bool {
    queue.lease.is_none() && queue.dmabuf.is_none() && queue.io_uring.is_none() && !queue.xsk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_queue_twice() {
        let ids = |ids: [u32; 3]| ids.map(QueueId::new).to_vec();
        assert!(named(ids([3, 1, 2])).is_ok());
        assert!(named(ids([3, 1, 3])).is_err());
    }
}
