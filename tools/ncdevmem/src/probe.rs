//! The probe: does what must work, is what must be refused refused?
//!
//! Upstream's `run_devmem_tests`. A device passes if it refuses to bind without queues, and with
//! header split off; if it binds with all in order; and if it then refuses to give up the bound
//! queues. It is left as it was.

use anyhow::{Context, Result, bail};
use common::signals::{Second, Signals};
use devmem::engine::StopHandle;
use netdev::ethtool::{Channels, ChannelsChange, HeaderSplit, Rings, RingsChange};
use netdev::queues::{BindOptions, Binding};
use netdev::{Ethtool, Ifindex, NetNs, Netdev, QueueId};
use nic::Plan;
use udmabuf::Udmabuf;

use crate::args::Probe;
use crate::nic_side::put_back;
use crate::{Device, memory, queues, say};

pub(crate) fn run(device: &Device, probe: &Probe) -> Result<()> {
    // No guardian would switch header split on again after a process that has ended.
    let signals = Signals::catch(Second::Waits, &StopHandle::new()).context("signal handlers")?;
    let bench = Bench {
        device,
        queues: queues::for_probe(device, probe.queues)?,
        memory: memory::dmabuf(probe.rx_page_size)?,
        options: BindOptions {
            rx_page_size: probe.rx_page_size.map(Into::into),
        },
    };
    let off = SplitOff::apply(device.ifindex)?;
    let outcome = bench.check(&signals);
    match (off.restore(), outcome) {
        (Err(error), Err(before)) => Err(before.context(format!("{error}; and before that"))),
        (Err(error), Ok(())) => Err(error.into()),
        (Ok(()), outcome) => outcome,
    }?;
    say(&format!(
        "{} can receive into device memory: ok",
        device.name
    ));
    Ok(())
}

/// Device, queues, memory and options that the probe tests.
struct Bench<'a> {
    device: &'a Device,
    queues: Vec<QueueId>,
    memory: Udmabuf,
    options: BindOptions,
}

impl Bench<'_> {
    /// Runs the steps of the probe, of which the first needs header split off.
    fn check(&self, signals: &Signals) -> Result<()> {
        refused(
            "binding with header split off",
            self.bind(&self.queues).map(drop),
            // __netif_mp_open_rxq
            |error| says(error, "tcp-data-split is disabled"),
        )?;
        check(signals)?;
        let netns = NetNs::current()?;
        let applied = Plan::new(&self.device.name, self.device.ifindex)
            .header_split()
            .reserve(&self.reserved()?)
            .apply(&netns)?;
        say("header split is on, RSS is off the queues");
        let outcome = self.check_split(signals);
        put_back(applied.restore(), outcome)
    }

    /// Returns the queues that RSS must not use: those to be bound and all above, because else RSS
    /// is what keeps their channels from being removed. As upstream's `configure_rss`.
    fn reserved(&self) -> Result<Vec<QueueId>> {
        let count = Ethtool::open()?.channels(self.device.ifindex)?.rx_queues();
        let first = self.queues.first().map_or(count, |first| first.get());
        let above = (first.max(1)..count).map(QueueId::new);
        let mut all = self.queues.clone();
        all.extend(above.filter(|queue| !self.queues.contains(queue)));
        Ok(all)
    }

    fn check_split(&self, signals: &Signals) -> Result<()> {
        refused(
            "binding without queues",
            self.bind(&[]).map(drop),
            // netdev_nl_bind_rx_doit
            |error| error.ext_ack().is_some_and(|ack| ack.missing().is_some()),
        )?;
        check(signals)?;
        let binding = self.bind(&self.queues)?;
        say(&format!("got dmabuf id={}", binding.id()));
        check(signals)?;
        self.check_channels()
        // The binding goes first, then the settings: while it is there, they can't be taken back.
    }

    fn bind(&self, queues: &[QueueId]) -> netdev::Result<Binding> {
        Netdev::open()?.bind_rx(self.device.ifindex, &self.memory, queues, self.options)
    }

    /// Checks that the device refuses to remove the channels of bound queues.
    fn check_channels(&self) -> Result<()> {
        let mut ethtool = Ethtool::open()?;
        let ifindex = self.device.ifindex;
        let before = ethtool.channels(ifindex)?;
        let Some(change) = without(&before, &self.queues) else {
            say("the only queue was bound: no channel change could take it away");
            return Ok(());
        };
        let changed = ethtool.set_channels(ifindex, &change);
        if changed.is_ok() {
            let back = ChannelsChange {
                rx: before.rx,
                tx: before.tx,
                other: None,
                combined: before.combined,
            };
            ethtool
                .set_channels(ifindex, &back)
                .context("the bound queues could be taken away, and could not be put back")?;
        }
        refused("taking the bound queues away", changed, |error| {
            // ethtool_check_max_channel
            says(error, "existing memory provider setting")
        })
    }
}

/// Returns the channel change that removes the bound queues and leaves those below, at least one;
/// `None` if it would remove none of them.
fn without(channels: &Channels, bound: &[QueueId]) -> Option<ChannelsChange> {
    let (first, last) = (bound.first()?.get(), bound.last()?.get());
    let left = first.max(1);
    if left > last {
        return None;
    }
    let zero = |count: Option<u32>| count.filter(|count| *count > 0).map(|_| 0);
    Some(if channels.combined.unwrap_or(0) > 0 {
        // Upstream's: as many for sending as for receiving.
        ChannelsChange {
            combined: Some(left),
            rx: zero(channels.rx),
            tx: zero(channels.tx),
            other: None,
        }
    } else {
        ChannelsChange {
            rx: Some(left),
            ..ChannelsChange::default()
        }
    })
}

/// Returns an error if a signal has come; called between two steps.
fn check(signals: &Signals) -> Result<()> {
    match signals.received() {
        Some(signal) => bail!("ended by signal {signal}"),
        None => Ok(()),
    }
}

/// Checks that the kernel refused for the reason that is tested: a refusal for another reason
/// proves nothing.
fn refused(
    what: &str,
    result: netdev::Result<()>,
    reason: impl Fn(&netdev::Error) -> bool,
) -> Result<()> {
    match result {
        Err(error) if reason(&error) => {
            say(&format!("{what} is refused, as it must be: {error}"));
            Ok(())
        }
        Err(error) => {
            Err(anyhow::Error::from(error).context(format!("{what} is refused for another reason")))
        }
        Ok(()) => bail!("{what} should have been refused"),
    }
}

fn says(error: &netdev::Error, words: &str) -> bool {
    error.message().is_some_and(|text| text.contains(words))
}

/// Guard that keeps header split off until it is dropped.
#[derive(Debug)]
struct SplitOff {
    ethtool: Ethtool,
    ifindex: Ifindex,
    /// Ring settings to restore; `None` if they were not changed or are restored.
    before: Option<Rings>,
}

impl SplitOff {
    fn apply(ifindex: Ifindex) -> Result<Self> {
        let mut ethtool = Ethtool::open()?;
        let before = ethtool.rings(ifindex)?;
        let was_on = before.tcp_data_split == Some(HeaderSplit::Enabled);
        if was_on {
            // Not every driver can switch it off; to leave it to the driver counts as off, too
            // (`__netif_mp_open_rxq` wants it asked for).
            set_split(&mut ethtool, ifindex, Some(HeaderSplit::Disabled))
                .or_else(|_| set_split(&mut ethtool, ifindex, Some(HeaderSplit::Auto)))?;
        }
        Ok(Self {
            ethtool,
            ifindex,
            before: was_on.then_some(before),
        })
    }

    fn restore(mut self) -> netdev::Result<()> {
        self.put_back()
    }

    /// Restores header split. Tries the driver's default first, because what reads as on may have
    /// been on by default.
    fn put_back(&mut self) -> netdev::Result<()> {
        let Some(before) = self.before.take() else {
            return Ok(());
        };
        let default = set_split(&mut self.ethtool, self.ifindex, Some(HeaderSplit::Auto));
        let now = self.ethtool.rings(self.ifindex)?;
        if default.is_ok() && now.tcp_data_split == before.tcp_data_split {
            return Ok(());
        }
        set_split(&mut self.ethtool, self.ifindex, before.tcp_data_split)
    }
}

impl Drop for SplitOff {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            tracing::error!("{error}");
        }
    }
}

fn set_split(
    ethtool: &mut Ethtool,
    ifindex: Ifindex,
    split: Option<HeaderSplit>,
) -> netdev::Result<()> {
    let change = RingsChange {
        tcp_data_split: split,
        ..RingsChange::default()
    };
    ethtool.set_rings(ifindex, &change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(range: std::ops::Range<u32>) -> Vec<QueueId> {
        range.map(QueueId::new).collect()
    }

    #[test]
    fn the_channels_that_take_the_bound_queues_away() {
        let mut channels = Channels::default();
        channels.combined = Some(4);
        let change = without(&channels, &bound(2..4)).unwrap();
        assert_eq!(
            (change.combined, change.rx, change.tx),
            (Some(2), None, None)
        );
        let change = without(&channels, &bound(0..4)).unwrap();
        assert_eq!(change.combined, Some(1), "one is the least");
        assert_eq!(without(&channels, &bound(0..1)), None);
        channels.rx = Some(2);
        channels.tx = Some(0);
        let change = without(&channels, &bound(5..6)).unwrap();
        assert_eq!(
            (change.combined, change.rx, change.tx),
            (Some(5), Some(0), None)
        );
        channels.combined = None;
        let change = without(&channels, &bound(1..2)).unwrap();
        assert_eq!((change.combined, change.rx), (None, Some(1)));
    }
}
