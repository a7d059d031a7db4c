//! A plan, applied and taken back.

use std::fmt;

use netdev::{
    Action, Ethtool, FlowRule, HeaderSplit, Ifindex, NetNs, QueueId, Rings, RingsChange, Rss,
    RssChange, RssContextId,
};

use crate::rss::without_queues;

/// The device is not there (`ENODEV`).
const ENODEV: i32 = libc::ENODEV;

/// A NIC that could not be set up, or not be put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or the driver refused.
    #[error(transparent)]
    Refused(#[from] netdev::Error),
    /// The driver took header split, but did not keep it.
    #[error("rings-set {device}: the driver accepts tcp-data-split and does not keep it")]
    SplitNotKept {
        /// The NIC.
        device: String,
    },
    /// All queues are to be kept free of RSS.
    #[error("rss-set {device}: no queue is left for the other traffic")]
    NoOtherQueue {
        /// The NIC.
        device: String,
    },
    /// A new RSS context came without its number.
    #[error("rss-create-act {device}: the answer has no context")]
    NoContext {
        /// The NIC.
        device: String,
    },
    /// The NIC was removed, or moved to another namespace, before it could be put back.
    #[error("{device} is gone from its namespace: what was changed on it was not put back")]
    Gone {
        /// The NIC.
        device: String,
    },
    /// Some steps could not be taken back; the NIC is not as it was.
    #[error("{device} is not as it was: {}", failures.join("; "))]
    NotRestored {
        /// The NIC.
        device: String,
        /// What went wrong, each with the kernel's words.
        failures: Vec<String>,
    },
}

/// What a NIC is to look like.
#[derive(Debug, Clone)]
pub struct Plan {
    device: String,
    ifindex: Ifindex,
    split: bool,
    reserved: Vec<QueueId>,
    flows: Vec<(FlowRule, Vec<QueueId>)>,
}

impl Plan {
    /// A plan for this NIC that changes nothing yet. The name is for people to read.
    pub fn new(device: impl Into<String>, ifindex: Ifindex) -> Self {
        Self {
            device: device.into(),
            ifindex,
            split: false,
            reserved: Vec::new(),
            flows: Vec::new(),
        }
    }

    /// Split headers from payload, whatever the payload's size.
    #[must_use]
    pub fn header_split(mut self) -> Self {
        self.split = true;
        self
    }

    /// Let RSS put nothing on these queues.
    #[must_use]
    pub fn reserve(mut self, queues: &[QueueId]) -> Self {
        self.reserved.extend_from_slice(queues);
        self
    }

    /// Steer a flow to these queues: by a rule to the one, or by a rule to an RSS context that
    /// spreads it over several. The rule's own action does not count.
    #[must_use]
    pub fn steer(mut self, flow: FlowRule, to: &[QueueId]) -> Self {
        self.flows.push((flow, to.to_vec()));
        self
    }

    /// Makes the NIC so, in the network namespace `netns`.
    ///
    /// # Errors
    ///
    /// The first step that is refused; those before it have been taken back.
    pub fn apply(self, netns: &NetNs) -> Result<Applied, Error> {
        let ethtool = Ethtool::open_in(netns)?;
        let Self {
            device,
            ifindex,
            split,
            reserved,
            flows,
        } = self;
        let mut applied = Applied {
            ethtool,
            device,
            ifindex,
            steps: Vec::new(),
        };
        if split {
            applied.split()?;
        }
        if !reserved.is_empty() {
            applied.reserve(&reserved)?;
        }
        for (flow, to) in flows {
            applied.steer(flow, &to)?;
        }
        Ok(applied)
    }
}

/// One thing that was changed, and what it was before.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Step {
    /// Header split was switched on.
    Split {
        /// The rings before.
        before: Rings,
    },
    /// The RSS table was changed.
    Rss {
        /// Table and key before.
        before: Rss,
    },
    /// An RSS context was made.
    Context {
        /// Its number.
        context: RssContextId,
    },
    /// A rule was inserted.
    Rule {
        /// Where it is.
        location: u32,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { .. } => f.write_str("tcp-data-split on, hds-thresh 0"),
            Self::Rss { .. } => f.write_str("rss table kept off the queue"),
            Self::Context { context } => write!(f, "rss context {context}"),
            Self::Rule { location } => write!(f, "ntuple rule {location}"),
        }
    }
}

/// A plan that holds; the NIC is put back when it is restored or dropped.
#[derive(Debug)]
#[must_use = "dropping it puts the NIC back as it was"]
pub struct Applied {
    ethtool: Ethtool,
    device: String,
    ifindex: Ifindex,
    steps: Vec<Step>,
}

impl Applied {
    /// What was changed, in order. What was so already is not among it.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Puts the NIC back as it was.
    ///
    /// # Errors
    ///
    /// [`Error::NotRestored`], after all steps have been tried; [`Error::Gone`].
    pub fn restore(mut self) -> Result<(), Error> {
        self.take_back()
    }

    fn split(&mut self) -> Result<(), Error> {
        let before = self.ethtool.rings(self.ifindex)?;
        if is_split(&before) {
            return Ok(());
        }
        let change = RingsChange {
            tcp_data_split: Some(HeaderSplit::Enabled),
            // A driver without a threshold refuses to have it set, even to 0.
            hds_thresh: before.hds_thresh.map(|_| 0),
            ..RingsChange::default()
        };
        self.ethtool.set_rings(self.ifindex, &change)?;
        self.steps.push(Step::Split { before });
        if is_split(&self.ethtool.rings(self.ifindex)?) {
            Ok(())
        } else {
            Err(Error::SplitNotKept {
                device: self.device.clone(),
            })
        }
    }

    fn reserve(&mut self, queues: &[QueueId]) -> Result<(), Error> {
        let before = self.ethtool.rss(self.ifindex)?;
        if !before.table.iter().any(|entry| queues.contains(entry)) {
            return Ok(());
        }
        // The queues that RSS uses today, so that none comes into use that was kept out of it.
        let mut others = before.table.clone();
        others.sort_unstable();
        others.dedup();
        if others.iter().all(|queue| queues.contains(queue)) {
            let channels = self.ethtool.channels(self.ifindex)?;
            let count = channels.rx.unwrap_or(0) + channels.combined.unwrap_or(0);
            others = (0..count).map(QueueId::new).collect();
        }
        let Some(table) = without_queues(&before.table, queues, &others) else {
            return Err(Error::NoOtherQueue {
                device: self.device.clone(),
            });
        };
        let change = RssChange {
            table: Some(table),
            ..RssChange::default()
        };
        self.ethtool.set_rss(self.ifindex, None, &change)?;
        self.steps.push(Step::Rss { before });
        Ok(())
    }

    fn steer(&mut self, mut flow: FlowRule, to: &[QueueId]) -> Result<(), Error> {
        flow.action = match to {
            [queue] => Action::Queue(*queue),
            queues => {
                let size = self.ethtool.rss(self.ifindex)?.table.len();
                let table = queues.iter().copied().cycle().take(size).collect();
                let change = RssChange {
                    table: Some(table),
                    ..RssChange::default()
                };
                let made = self.ethtool.create_rss_context(self.ifindex, &change)?;
                let context = made.context.ok_or_else(|| Error::NoContext {
                    device: self.device.clone(),
                })?;
                self.steps.push(Step::Context { context });
                Action::Context(context)
            }
        };
        let location = self
            .ethtool
            .insert_rule(self.ifindex, &flow)
            .map_err(|error| {
                let target = match flow.action {
                    Action::Queue(queue) => format!("queue {queue}"),
                    Action::Context(context) => format!("context {context}"),
                    Action::Drop => "nowhere".to_owned(),
                };
                error.about(format!("{} to {target}", self.device))
            })?;
        self.steps.push(Step::Rule { location });
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), Error> {
        let mut failures = Vec::new();
        while let Some(step) = self.steps.pop() {
            if let Err(error) = self.undo(&step) {
                if error.raw_os_error() == Some(ENODEV) {
                    self.steps.clear();
                    return Err(Error::Gone {
                        device: self.device.clone(),
                    });
                }
                failures.push(format!("{step}: {error}"));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::NotRestored {
                device: self.device.clone(),
                failures,
            })
        }
    }

    fn undo(&mut self, step: &Step) -> Result<(), netdev::Error> {
        match step {
            Step::Split { before } => self.undo_split(before),
            Step::Rss { before } => self.undo_rss(before),
            Step::Context { context } => self.ethtool.delete_rss_context(self.ifindex, *context),
            Step::Rule { location } => self.ethtool.delete_rule(self.ifindex, *location),
        }
    }

    /// The default first: a table that was never set must not count as set from now on
    /// (`netif_is_rxfh_configured`). Then, if that is not what it was, the very table.
    fn undo_rss(&mut self, before: &Rss) -> Result<(), netdev::Error> {
        let change = RssChange {
            table: Some(Vec::new()),
            ..RssChange::default()
        };
        let default = self.ethtool.set_rss(self.ifindex, None, &change);
        if default.is_ok() && self.ethtool.rss(self.ifindex)?.table == before.table {
            return Ok(());
        }
        let change = RssChange {
            table: Some(before.table.clone()),
            ..RssChange::default()
        };
        self.ethtool.set_rss(self.ifindex, None, &change)
    }

    /// The driver's default first, since what reads as `on` may have been the default; then, if that
    /// is not what it was, the very value.
    fn undo_split(&mut self, before: &Rings) -> Result<(), netdev::Error> {
        let change = RingsChange {
            tcp_data_split: Some(HeaderSplit::Auto),
            hds_thresh: before.hds_thresh,
            ..RingsChange::default()
        };
        let default = self.ethtool.set_rings(self.ifindex, &change);
        let now = self.ethtool.rings(self.ifindex)?;
        if default.is_ok()
            && now.tcp_data_split == before.tcp_data_split
            && now.hds_thresh == before.hds_thresh
        {
            return Ok(());
        }
        let change = RingsChange {
            tcp_data_split: before.tcp_data_split,
            ..change
        };
        self.ethtool.set_rings(self.ifindex, &change)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::error!("{error}");
        }
    }
}

/// What `__netif_mp_open_rxq` asks for.
fn is_split(rings: &Rings) -> bool {
    rings.tcp_data_split == Some(HeaderSplit::Enabled) && rings.hds_thresh.unwrap_or(0) == 0
}
