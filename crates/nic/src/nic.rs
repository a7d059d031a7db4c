//! Settings of a NIC: read, changed, and read back.

use std::fmt;

use netdev::ethtool::{ChannelsChange, FlowRule, HeaderSplit, RingsChange, RssChange, equal_table};
use netdev::queues::Queue;
use netdev::{Ethtool, Ifindex, Link, NetNs, Netdev, QueueId, QueueType, RssContextId};

use crate::Error;
use crate::claim::same_rule;
use crate::identity::Identity;
use crate::values::{ChannelCounts, RingValues, rule_text, shortest, table_text, target_text};

/// Name of the feature that switches flow rules on, `ethtool -K IF ntuple`, in the kernel
/// (`NETIF_F_NTUPLE`).
pub(crate) const NTUPLE: &str = "rx-ntuple-filter";
/// Name of the feature that coalesces packets, `ethtool -K IF rx-gro-hw`, in the kernel
/// (`NETIF_F_GRO_HW`).
pub(crate) const GRO_HW: &str = "rx-gro-hw";

/// Errors of a request for a queue that say that there is no such queue: `ENOENT`, too, without the
/// netlink family, `EOPNOTSUPP` without the command.
const NO_SUCH_QUEUE: [i32; 4] = [libc::ENOENT, libc::EINVAL, libc::ERANGE, libc::EOPNOTSUPP];

/// A NIC and its network namespace.
#[derive(Debug)]
pub(crate) struct Nic {
    pub(crate) identity: Identity,
    pub(crate) ethtool: Ethtool,
    netns: NetNs,
}

impl Nic {
    /// Opens the NIC of this ifindex in the network namespace `netns`.
    pub(crate) fn open(netns: &NetNs, ifindex: Ifindex) -> Result<Self, Error> {
        let link = Link::open_in(netns)?.get(ifindex)?;
        Ok(Self {
            identity: Identity::of(netns, &link)?,
            ethtool: Ethtool::open_in(netns)?,
            netns: netns.clone(),
        })
    }

    /// Opens the NIC of this identity, in whatever namespace it is now.
    pub(crate) fn find(identity: &Identity) -> Result<Option<Self>, Error> {
        let Some((netns, link)) = identity.find()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            identity: Identity::of(&netns, &link)?,
            ethtool: Ethtool::open_in(&netns)?,
            netns,
        }))
    }

    pub(crate) fn name(&self) -> String {
        self.identity.name.clone()
    }

    fn ifindex(&self) -> Ifindex {
        self.identity.ifindex
    }

    pub(crate) fn rings(&mut self) -> Result<RingValues, Error> {
        Ok(RingValues::of(&self.ethtool.rings(self.ifindex())?))
    }

    /// Sets the ring sizes and header split; returns what the driver made of them, as it may round
    /// a size up.
    pub(crate) fn set_rings(&mut self, to: &RingValues) -> Result<RingValues, Error> {
        let now = self.rings()?;
        let change = RingsChange {
            rx: to.rx.filter(|_| to.rx != now.rx),
            tcp_data_split: to.split.filter(|_| to.split != now.split),
            hds_thresh: to.threshold.filter(|_| to.threshold != now.threshold),
            ..RingsChange::default()
        };
        self.ethtool.set_rings(self.ifindex(), &change)?;
        let kept = self.rings()?;
        if kept.split == to.split && kept.threshold == to.threshold && kept.rx >= to.rx {
            Ok(kept)
        } else {
            Err(self.not_kept(to, kept))
        }
    }

    /// Restores the ring settings: first header split to the driver's default, since a split that
    /// reads as on may have been the default; then, if the default is another value, the original
    /// value.
    pub(crate) fn reset_rings(&mut self, to: &RingValues) -> Result<RingValues, Error> {
        let now = self.rings()?;
        let change = RingsChange {
            rx: to.rx.filter(|_| to.rx != now.rx),
            // mlx5 and others report header split only while it is set.
            tcp_data_split: (to.split != now.split).then_some(HeaderSplit::Auto),
            hds_thresh: to.threshold,
            ..RingsChange::default()
        };
        let default = self.ethtool.set_rings(self.ifindex(), &change);
        if default.is_ok() && self.rings()? == *to {
            return Ok(*to);
        }
        let kept = self.set_rings(to)?;
        if kept == *to {
            Ok(kept)
        } else {
            Err(self.not_kept(to, kept))
        }
    }

    /// Sets header split although it reads as on: only a split that was set counts for a binding
    /// (`__netif_mp_open_rxq`). Returns whether the driver had split by default until now.
    pub(crate) fn ask_for_split(&mut self) -> Result<bool, Error> {
        let mut changes = Ethtool::open_in(&self.netns)?.ring_changes()?;
        self.set_split(HeaderSplit::Enabled)?;
        Ok(changes.is_changed(self.ifindex())?)
    }

    /// Leaves header split to the driver's default. If the default differs from `was`, header split
    /// had been set, and is set again: a process killed in [`ask_for_split`](Self::ask_for_split)
    /// could not note which it was.
    pub(crate) fn leave_split(&mut self, was: Option<HeaderSplit>) -> Result<(), Error> {
        self.set_split(HeaderSplit::Auto)?;
        if self.rings()?.split == was {
            return Ok(());
        }
        if let Some(was) = was {
            self.set_split(was)?;
        }
        let kept = self.rings()?;
        if kept.split == was {
            Ok(())
        } else {
            Err(self.not_kept("tcp-data-split auto", kept))
        }
    }

    fn set_split(&mut self, split: HeaderSplit) -> Result<(), Error> {
        let change = RingsChange {
            tcp_data_split: Some(split),
            ..RingsChange::default()
        };
        Ok(self.ethtool.set_rings(self.ifindex(), &change)?)
    }

    pub(crate) fn channels(&mut self) -> Result<ChannelCounts, Error> {
        Ok(ChannelCounts::of(&self.ethtool.channels(self.ifindex())?))
    }

    /// Number of rx queues.
    pub(crate) fn rx_queues(&mut self) -> Result<u32, Error> {
        Ok(self.ethtool.channels(self.ifindex())?.rx_queues())
    }

    pub(crate) fn set_channels(&mut self, to: &ChannelCounts) -> Result<(), Error> {
        let now = self.channels()?;
        let changed = |to: u32, now: u32| Some(to).filter(|_| to != now);
        let change = ChannelsChange {
            combined: changed(to.combined, now.combined),
            rx: changed(to.rx, now.rx),
            tx: changed(to.tx, now.tx),
            ..ChannelsChange::default()
        };
        self.ethtool.set_channels(self.ifindex(), &change)?;
        let kept = self.channels()?;
        if kept == *to {
            Ok(())
        } else {
            Err(self.not_kept(format!("{to} channels"), kept))
        }
    }

    pub(crate) fn table(&mut self) -> Result<Vec<QueueId>, Error> {
        Ok(self.ethtool.rss(self.ifindex())?.table)
    }

    pub(crate) fn set_table(&mut self, to: &[QueueId]) -> Result<(), Error> {
        self.write_table(shortest(to).to_vec())?;
        let kept = self.table()?;
        if kept == to {
            Ok(())
        } else {
            let setting = format!("rss {}", table_text(to));
            Err(self.not_kept(setting, table_text(&kept)))
        }
    }

    /// Restores the RSS table. A table equal to the kernel's default is restored by a request for
    /// the default, so that it doesn't count as set from now on (`netif_is_rxfh_configured`). Other
    /// tables are not restored by that request, which for a moment would lead traffic to queues
    /// that were kept out.
    pub(crate) fn reset_table(&mut self, to: &[QueueId]) -> Result<(), Error> {
        let queues = self.rx_queues()?;
        if to == equal_table(to.len(), queues) && self.default_table()? == to {
            return Ok(());
        }
        self.set_table(to)
    }

    /// Whether the RSS table differs from the kernel's default. A table that was set to the
    /// default's values is not recognized.
    pub(crate) fn table_is_set(&mut self) -> Result<bool, Error> {
        let (table, queues) = (self.table()?, self.rx_queues()?);
        Ok(table != equal_table(table.len(), queues))
    }

    /// Resets the RSS indirection table to the kernel's default; returns the table that results.
    pub(crate) fn default_table(&mut self) -> Result<Vec<QueueId>, Error> {
        // A driver that refuses gets the table itself next.
        if let Err(error) = self.write_table(Vec::new()) {
            tracing::debug!("{}: no default table: {error}", self.identity.name);
        }
        self.table()
    }

    fn write_table(&mut self, table: Vec<QueueId>) -> Result<(), Error> {
        let change = RssChange {
            table: Some(table),
            ..RssChange::default()
        };
        Ok(self.ethtool.set_rss(self.ifindex(), None, &change)?)
    }

    /// Memory that an rx queue is bound to, in words: a dmabuf or memory of io_uring. `None` for a
    /// queue that the NIC doesn't have, on a kernel that can't bind any, and while the NIC is down,
    /// when the kernel tells nothing and no packet comes.
    pub(crate) fn bound_to(&mut self, queue: QueueId) -> Result<Option<String>, Error> {
        let netdev = Netdev::open_in(&self.netns);
        let rx = netdev.and_then(|mut it| it.queue(self.ifindex(), QueueType::Rx, queue));
        match rx {
            Ok(Queue {
                dmabuf: Some(dmabuf),
                ..
            }) => Ok(Some(format!("dmabuf {dmabuf}"))),
            Ok(queue) => Ok(queue.io_uring.map(|_| "memory of io_uring".to_owned())),
            Err(error) if NO_SUCH_QUEUE.map(Some).contains(&error.raw_os_error()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lists the rx queues whose packets go to ordinary memory: neither bound nor leased, nor of an
    /// AF_XDP socket. All queues, while the NIC is down and on a kernel that tells nothing.
    pub(crate) fn free_queues(&mut self) -> Result<Vec<QueueId>, Error> {
        let count = self.rx_queues()?;
        let netdev = Netdev::open_in(&self.netns);
        let told = match netdev.and_then(|mut it| it.queues(Some(self.ifindex()))) {
            Err(error) if NO_SUCH_QUEUE.map(Some).contains(&error.raw_os_error()) => Vec::new(),
            told => told?,
        };
        let is_taken = |queue: &Queue| {
            let bound = queue.dmabuf.is_some() || queue.io_uring.is_some();
            queue.kind == QueueType::Rx && (bound || queue.xsk || queue.lease.is_some())
        };
        let taken: Vec<QueueId> = told
            .iter()
            .filter(|it| is_taken(it))
            .map(|it| it.id)
            .collect();
        let all = (0..count).map(QueueId::new);
        Ok(all.filter(|queue| !taken.contains(queue)).collect())
    }

    /// Lists the RSS contexts, each with its table.
    pub(crate) fn contexts(&mut self) -> Result<Vec<(RssContextId, Vec<QueueId>)>, Error> {
        let contexts = match self.ethtool.rss_contexts(self.ifindex()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
            contexts => contexts?,
        };
        let numbered = contexts.into_iter();
        Ok(numbered
            .filter_map(|rss| Some((rss.context?, rss.table)))
            .collect())
    }

    pub(crate) fn create_context(&mut self, table: &[QueueId]) -> Result<RssContextId, Error> {
        let change = RssChange {
            table: Some(shortest(table).to_vec()),
            ..RssChange::default()
        };
        let made = self.ethtool.create_rss_context(self.ifindex(), &change)?;
        made.context.ok_or_else(|| Error::NoContext {
            device: self.name(),
        })
    }

    /// Whether another RSS context can be created.
    pub(crate) fn has_room_for_context(&mut self) -> Result<bool, Error> {
        match self.ethtool.has_room_for_rss_context(self.ifindex()) {
            // A caller without the permission gets EPERM when it creates one.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(true),
            room => Ok(room?),
        }
    }

    /// Fails if the driver made another RSS context than was requested.
    pub(crate) fn check_context(
        &mut self,
        id: RssContextId,
        table: &[QueueId],
    ) -> Result<(), Error> {
        let kept = self.ethtool.rss_context(self.ifindex(), id)?.table;
        if kept == table {
            return Ok(());
        }
        let setting = format!("rss context {id} {}", table_text(table));
        Err(self.not_kept(setting, table_text(&kept)))
    }

    pub(crate) fn delete_context(&mut self, id: RssContextId) -> Result<(), Error> {
        self.ethtool.delete_rss_context(self.ifindex(), id)?;
        match self.contexts()?.iter().any(|(there, _)| *there == id) {
            true => Err(self.not_kept(format!("the end of rss context {id}"), "still there")),
            false => Ok(()),
        }
    }

    /// Lists the flow rules of known kinds.
    pub(crate) fn rules(&mut self) -> Result<Vec<FlowRule>, Error> {
        Ok(self.ethtool.rules(self.ifindex())?)
    }

    /// Whether a feature of the NIC is on. A feature that can't be switched counts as on.
    pub(crate) fn feature(&mut self, name: &str) -> Result<bool, Error> {
        let features = self.ethtool.features(self.ifindex())?;
        Ok(features.active.contains(name) || !features.hw.contains(name))
    }

    pub(crate) fn set_feature(&mut self, name: &str, on: bool) -> Result<(), Error> {
        Ok(self.ethtool.set_feature(self.ifindex(), name, on)?)
    }

    /// Lists the locations of all flow rules, of unknown kinds too.
    pub(crate) fn rule_places(&mut self) -> Result<Vec<u32>, Error> {
        match self.ethtool.rule_locations(self.ifindex()) {
            // A driver without rules says so when it is given one.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            places => Ok(places?),
        }
    }

    /// Adds a flow rule; returns its location. Where the driver does not choose, `note` gets the
    /// location first.
    pub(crate) fn insert_rule(
        &mut self,
        rule: &FlowRule,
        note: impl FnMut(u32) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        let ifindex = self.ifindex();
        let inserted = self.ethtool.insert_rule_noted(ifindex, rule, note);
        inserted.map_err(|error| match error {
            Error::Refused(error) => {
                let object = format!("{} {}", self.identity.name, target_text(rule));
                error.about(object).into()
            }
            other => other,
        })
    }

    /// Fails if the driver keeps another flow rule at this location, or none.
    pub(crate) fn check_rule(&mut self, location: u32, rule: &FlowRule) -> Result<(), Error> {
        let kept = match self.ethtool.rule(self.ifindex(), location) {
            Ok(kept) if same_rule(&kept, rule) => return Ok(()),
            Ok(kept) => rule_text(&kept),
            Err(error) => error.to_string(),
        };
        let setting = format!("{}, at {location}", rule_text(rule));
        Err(self.not_kept(setting, kept))
    }

    /// Removes the flow rule at this location if it is the given rule; returns whether it was.
    pub(crate) fn delete_rule(&mut self, location: u32, rule: &FlowRule) -> Result<bool, Error> {
        if !self.has_rule(location, rule)? {
            return Ok(false);
        }
        self.ethtool.delete_rule(self.ifindex(), location)?;
        match self.has_rule(location, rule)? {
            true => Err(self.not_kept(format!("the end of ntuple rule {location}"), "still there")),
            false => Ok(true),
        }
    }

    /// Removes the flow rule at this location, whichever it is.
    pub(crate) fn delete_any_rule(&mut self, location: u32) -> Result<(), Error> {
        Ok(self.ethtool.delete_rule(self.ifindex(), location)?)
    }

    /// Whether the flow rule at this location is the given rule.
    pub(crate) fn has_rule(&mut self, location: u32, rule: &FlowRule) -> Result<bool, Error> {
        if !self.ethtool.has_rule(self.ifindex(), location)? {
            return Ok(false);
        }
        match self.ethtool.rule(self.ifindex(), location) {
            Ok(there) => Ok(same_rule(&there, rule)),
            // A rule of an unknown kind.
            Err(error) if error.raw_os_error().is_none() => Ok(false),
            // Another program has deleted the rule.
            Err(_) if !self.ethtool.has_rule(self.ifindex(), location)? => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn not_kept(&self, setting: impl fmt::Display, kept: impl fmt::Display) -> Error {
        Error::NotKept {
            device: self.name(),
            setting: setting.to_string(),
            kept: kept.to_string(),
        }
    }
}
