//! Choice of the rx queues: those that were named, or the mode's default.

use anyhow::{Context, Result, ensure};
use netdev::{Ethtool, Netdev, QueueId, QueueType};

use crate::args::Queues;
use crate::{Device, say};

/// Rx queues for receiving: the named ones, otherwise the device's last.
pub(crate) fn for_server(device: &Device, named: Option<Queues>) -> Result<Vec<QueueId>> {
    let (start, end) = match named {
        Some(queues) => queue_range(queues)?,
        None => {
            let count = rx_queue_count(device)?;
            (count - 1, count)
        }
    };
    Ok(queue_ids(start, end))
}

/// Rx queues for the probe: the named ones, otherwise the device's upper half, so that binding
/// several queues is tried, too.
pub(crate) fn for_probe(device: &Device, named: Option<Queues>) -> Result<Vec<QueueId>> {
    let (start, end) = match named {
        Some(queues) => queue_range(queues)?,
        None => {
            let half = rx_queue_count(device)? / 2;
            (half, half * 2)
        }
    };
    Ok(queue_ids(start, end))
}

fn queue_range(Queues { start, count }: Queues) -> Result<(u32, u32)> {
    let end = start.checked_add(count.get()).context("-t and -q")?;
    Ok((start, end))
}

/// Number of the device's rx queues: those of its channels, or, for a netkit, which has no
/// channels, those that it lists, the leased ones last.
fn rx_queue_count(device: &Device) -> Result<u32> {
    let count = match Ethtool::open()?.channels(device.ifindex) {
        Ok(channels) => channels.rx_queues(),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let queues = Netdev::open()?.queues(Some(device.ifindex))?;
            let rx = queues.iter().filter(|queue| queue.kind == QueueType::Rx);
            u32::try_from(rx.count()).context("rx queues")?
        }
        Err(error) => return Err(error.into()),
    };
    ensure!(
        count >= 2,
        "{}: number of device queues is too low: {count}",
        device.name
    );
    Ok(count)
}

fn queue_ids(start: u32, end: u32) -> Vec<QueueId> {
    say(&format!("using queues {start}..{end}"));
    (start..end).map(QueueId::new).collect()
}
