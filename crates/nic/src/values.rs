//! Values of rings, channels, tables and rules, and their text.

use std::fmt;

use netdev::ethtool::{Action, Channels, FlowRule, HeaderSplit, Rings};
use netdev::{QueueId, queue_list};
use serde::{Deserialize, Serialize};

/// Ring settings that a plan changes; `None` where the driver has no such setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingValues {
    pub(crate) rx: Option<u32>,
    pub(crate) split: Option<HeaderSplit>,
    pub(crate) threshold: Option<u32>,
}

impl RingValues {
    pub(crate) fn of(rings: &Rings) -> Self {
        Self {
            rx: rings.rx,
            split: rings.tcp_data_split,
            threshold: rings.hds_thresh,
        }
    }

    /// Ring settings with header split and without a threshold, which `__netif_mp_open_rxq`
    /// requires. A driver without a threshold refuses to have it set, even to 0.
    pub(crate) fn split(self) -> Self {
        Self {
            split: Some(HeaderSplit::Enabled),
            threshold: self.threshold.map(|_| 0),
            ..self
        }
    }
}

impl fmt::Display for RingValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = self.split.unwrap_or(HeaderSplit::Auto);
        write!(f, "tcp-data-split {split}")?;
        if let Some(threshold) = self.threshold {
            write!(f, ", hds-thresh {threshold}")?;
        }
        match self.rx {
            Some(rx) => write!(f, ", rx ring {rx}"),
            None => Ok(()),
        }
    }
}

impl RingValues {
    /// Texts of two ring settings, without the parts that are equal.
    pub(crate) fn differ(from: &Self, to: &Self) -> (String, String) {
        let mut words = (Vec::new(), Vec::new());
        if from.split != to.split {
            let split = |rings: &Self| rings.split.unwrap_or(HeaderSplit::Auto);
            words.0.push(format!("tcp-data-split {}", split(from)));
            words.1.push(split(to).to_string());
        }
        for (name, from, to) in [
            ("hds-thresh", from.threshold, to.threshold),
            ("rx ring", from.rx, to.rx),
        ] {
            if from != to {
                words.0.push(format!("{name} {}", from.unwrap_or(0)));
                words.1.push(to.unwrap_or(0).to_string());
            }
        }
        (words.0.join(", "), words.1.join(", "))
    }
}

/// Number of a NIC's channels by kind. Some drivers have combined channels only, some rx and tx
/// channels only (gve), some either or both (bnxt, ice).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChannelCounts {
    pub(crate) combined: u32,
    pub(crate) rx: u32,
    pub(crate) tx: u32,
}

impl ChannelCounts {
    pub(crate) fn of(channels: &Channels) -> Self {
        Self {
            combined: channels.combined.unwrap_or(0),
            rx: channels.rx.unwrap_or(0),
            tx: channels.tx.unwrap_or(0),
        }
    }

    /// Number of channels with at least this number of rx queues, of the kind of channels in use.
    pub(crate) fn with_rx_queues(self, wanted: u32) -> Self {
        let more = wanted.saturating_sub(self.combined.saturating_add(self.rx));
        match self.combined {
            0 => Self {
                rx: self.rx + more,
                ..self
            },
            _ => Self {
                combined: self.combined + more,
                ..self
            },
        }
    }
}

impl fmt::Display for ChannelCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.combined, self.rx, self.tx) {
            (combined, 0, 0) => combined.fmt(f),
            (0, rx, tx) => write!(f, "rx {rx} tx {tx}"),
            (combined, rx, tx) => write!(f, "combined {combined} rx {rx} tx {tx}"),
        }
    }
}

/// RSS table as a device has it whose table has `len` entries: a shorter table is repeated, as the
/// kernel and drivers do (`rss_set_prep_indir`, `ethtool_rxfh_indir_resize`), a longer one cut off.
pub(crate) fn fit_table(table: &[QueueId], len: usize) -> Vec<QueueId> {
    table.iter().copied().cycle().take(len).collect()
}

/// Shortest beginning of an RSS table that gives the whole table when it is repeated. The kernel
/// takes a table as long as it was given for one that must not become shorter, which keeps drivers
/// from having fewer channels (`ethtool_rxfh_can_resize`).
pub(crate) fn shortest(table: &[QueueId]) -> &[QueueId] {
    let divides = |len: &usize| table.len() % len == 0;
    let mut beginnings = (1..table.len()).filter(divides).map(|len| &table[..len]);
    let found = beginnings.find(|beginning| same_spread(beginning, table));
    found.unwrap_or(table)
}

/// Whether both RSS tables spread flows alike; one may be a repetition of the other.
pub(crate) fn same_spread(one: &[QueueId], other: &[QueueId]) -> bool {
    let (short, long) = if one.len() <= other.len() {
        (one, other)
    } else {
        (other, one)
    };
    fit_table(short, long.len()) == long
}

/// Text of an RSS table's queues.
pub(crate) fn table_text(table: &[QueueId]) -> String {
    format!("over queues {}", queue_list(table))
}

/// Text of a flow rule's action.
pub(crate) fn target_text(rule: &FlowRule) -> String {
    match rule.action {
        Action::Queue(queue) => format!("to queue {queue}"),
        Action::Context(context) => format!("to context {context}"),
        Action::Drop => "to nowhere".to_owned(),
    }
}

/// Text of a flow rule, as `ethtool -N` takes it.
pub(crate) fn rule_text(rule: &FlowRule) -> String {
    format!("{} {}", flow_text(rule), target_text(rule))
}

/// Text of the packets that a flow rule matches.
pub(crate) fn flow_text(rule: &FlowRule) -> String {
    let mut text = format!("ntuple rule {}", format!("{:?}", rule.flow).to_lowercase());
    for (name, ip) in [("src-ip", rule.src), ("dst-ip", rule.dst)] {
        if let Some(ip) = ip {
            text += &format!(" {name} {}", ip.addr);
        }
    }
    for (name, port) in [("src-port", rule.src_port), ("dst-port", rule.dst_port)] {
        if let Some(port) = port {
            text += &format!(" {name} {}", port.port);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channels_grow_in_the_kind_that_is_in_use() {
        let channels = |combined, rx, tx| ChannelCounts { combined, rx, tx };
        assert_eq!(channels(4, 0, 0).with_rx_queues(6), channels(6, 0, 0));
        assert_eq!(channels(0, 4, 2).with_rx_queues(6), channels(0, 6, 2));
        assert_eq!(channels(4, 1, 0).with_rx_queues(6), channels(5, 1, 0));
        assert_eq!(channels(4, 0, 0).with_rx_queues(3), channels(4, 0, 0));
        assert_eq!(channels(0, 4, 4).to_string(), "rx 4 tx 4");
        assert_eq!(channels(4, 0, 0).to_string(), "4");
    }

    #[test]
    fn the_shortest_form_of_an_rss_table() {
        let table =
            |queues: &[u32]| -> Vec<QueueId> { queues.iter().copied().map(QueueId::new).collect() };
        assert_eq!(shortest(&table(&[0, 1, 0, 1])), table(&[0, 1]));
        assert_eq!(shortest(&table(&[2, 2, 2])), table(&[2]));
        assert_eq!(shortest(&table(&[0, 1, 0])), table(&[0, 1, 0]));
        assert_eq!(shortest(&table(&[])), table(&[]));
    }

    proptest! {
        #[test]
        fn an_rss_table_that_grows_and_shrinks_is_restored(
            table in prop::collection::vec(0u32..8, 1..20),
            times in 1usize..5,
        ) {
            let table: Vec<QueueId> = table.into_iter().map(QueueId::new).collect();
            let grown = fit_table(&table, table.len() * times);
            prop_assert!(same_spread(&table, &grown) && same_spread(&grown, &table));
            prop_assert_eq!(fit_table(&grown, table.len()), table.clone());
            let short = shortest(&grown);
            prop_assert!(short.len() <= table.len() && grown.len() % short.len() == 0);
            prop_assert_eq!(fit_table(short, grown.len()), grown.clone());
            prop_assert_eq!(shortest(short), short);
            let mut other = grown;
            let last = other.last_mut().unwrap();
            *last = QueueId::new(last.get() + 1);
            prop_assert!(!same_spread(&table, &other));
        }
    }
}
