//! What is set of the rings, and what is added, in words.

use std::fmt;

use netdev::{Action, FlowRule, HeaderSplit, QueueId, Rings, queue_list};
use serde::{Deserialize, Serialize};

/// What we change of the rings; `None` is what the driver does not have.
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

    /// What `__netif_mp_open_rxq` asks for. A driver without a threshold refuses to have it set,
    /// even to 0.
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
    /// Both in words, without what is the same in both.
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

/// The queues of a table in words.
pub(crate) fn table_text(table: &[QueueId]) -> String {
    format!("over queues {}", queue_list(table))
}

/// Where a rule sends its packets, in words.
pub(crate) fn target_text(rule: &FlowRule) -> String {
    match rule.action {
        Action::Queue(queue) => format!("to queue {queue}"),
        Action::Context(context) => format!("to context {context}"),
        Action::Drop => "to nowhere".to_owned(),
    }
}

/// A rule in words, as `ethtool -N` takes it.
pub(crate) fn rule_text(rule: &FlowRule) -> String {
    format!("{} {}", flow_text(rule), target_text(rule))
}

/// The packets of a rule in words.
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
