//! Choice of the queues to lease.

use std::str::FromStr;

use anyhow::{Result, bail};
use netdev::link::LinkInfo;
use netdev::queues::Queue;
use netdev::{Ifindex, Netdev, QueueId, QueueType, shell_command, shell_word};

use crate::remedy::Hint;

/// Greatest number of queues, more than any NIC has, and than a netkit accepts
/// (`NETKIT_NUM_RX_QUEUES_MAX`).
const MOST: u32 = 1024;

/// List of queue numbers and ranges: `3-7,9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueList(pub(super) Vec<QueueId>);

impl FromStr for QueueList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<u32, String> {
            text.parse()
                .map_err(|_| format!("{text:?} is not the number of a queue"))
        };
        let mut queues = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last - first >= MOST {
                return Err(format!("{part:?} is not a range of queues"));
            }
            queues.extend((first..=last).map(QueueId::new));
        }
        Ok(Self(queues))
    }
}

/// Checks that no queue was named twice.
pub(super) fn named(queues: Vec<QueueId>) -> Result<Vec<QueueId>> {
    let mut sorted = queues.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("lease: queue {} is named twice", pair[0]);
    }
    Ok(queues)
}

/// Chooses the last `count` unused queues of the NIC, in ascending order. Queue 0 stays with the
/// host.
pub(super) fn free(phys: &LinkInfo, count: u32) -> Result<Vec<QueueId>> {
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

/// Sorts queues that the kernel will refuse to the front, so that it refuses before it has granted
/// any: a lease to a netkit that stays can't be undone.
pub(super) fn doubtful_first(phys: &LinkInfo, queues: &mut [QueueId]) -> Result<()> {
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
    fn lists() {
        let list = |text: &str| -> Result<Vec<u32>, String> {
            let QueueList(queues) = text.parse()?;
            Ok(queues.into_iter().map(QueueId::get).collect())
        };
        assert_eq!(list("3"), Ok(vec![3]));
        assert_eq!(list("3-5,1"), Ok(vec![3, 4, 5, 1]));
        for text in ["", "3-", "-3", "5-3", "a", "1,,2", "0-4294967295"] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_queue_twice() {
        let ids = |ids: [u32; 3]| ids.map(QueueId::new).to_vec();
        assert!(named(ids([3, 1, 2])).is_ok());
        assert!(named(ids([3, 1, 3])).is_err());
    }
}
