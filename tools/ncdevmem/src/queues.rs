//! Which rx queues: those that were named, or the mode's own choice.

use anyhow::{Context, Result, ensure};
use netdev::{Ethtool, Netdev, QueueId, QueueType};

use crate::args::Queues;
use crate::{Device, say};

/// Returns the rx queues of a receiver: those that were named, else the last one.
pub(crate) fn for_server(device: &Device, named: Option<Queues>) -> Result<Vec<QueueId>> {
    let (start, end) = match named {
        Some(queues) => range(queues)?,
        None => {
            let count = count(device)?;
            (count - 1, count)
        }
    };
    Ok(list(start, end))
}

/// Returns the rx queues of the probe: those that were named, else the upper half, so that binding
/// several queues is tested, too.
pub(crate) fn for_probe(device: &Device, named: Option<Queues>) -> Result<Vec<QueueId>> {
    let (start, end) = match named {
        Some(queues) => range(queues)?,
        None => {
            let half = count(device)? / 2;
            (half, half * 2)
        }
    };
    Ok(list(start, end))
}

fn range(Queues { start, count }: Queues) -> Result<(u32, u32)> {
    let end = start.checked_add(count.get()).context("-t and -q")?;
    Ok((start, end))
}

/// Counts the device's rx queues: by its channels, or for a netkit, which has no channels, by the
/// queues that it lists, the leased ones last.
fn count(device: &Device) -> Result<u32> {
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

fn list(start: u32, end: u32) -> Vec<QueueId> {
    say(&format!("using queues {start}..{end}"));
    (start..end).map(QueueId::new).collect()
}
