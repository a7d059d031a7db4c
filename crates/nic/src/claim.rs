//! Claims: what an owner needs of a NIC, and the rules and contexts that it added.

use netdev::ethtool::{FlowRule, Location};
use netdev::{QueueId, RssContextId};
use serde::{Deserialize, Serialize};

use crate::Owner;

/// Settings that a receiver needs of a NIC, and that it shares with other receivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Needs {
    /// Whether headers are split from payload, whatever the payload's size.
    pub(crate) split: bool,
    /// Least number of descriptors in an rx ring.
    pub(crate) rx_ring: Option<u32>,
    /// Least number of rx queues.
    pub(crate) channels: Option<u32>,
    /// Reserved queues: the RSS table must not use them.
    pub(crate) reserved: Vec<QueueId>,
    /// Whether flow rules are switched on, without which the driver refused a rule.
    #[serde(default)]
    pub(crate) ntuple: bool,
    /// Whether the NIC coalesces packets (`rx-gro-hw`), without which the driver refused header
    /// split.
    #[serde(default)]
    pub(crate) gro_hw: bool,
}

impl Needs {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A flow rule or RSS context added for one owner. It is noted before it is made, when its number
/// is not known yet, together with the rules or contexts that existed before, to tell it from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Item {
    /// An RSS context that was added.
    Context {
        table: Vec<QueueId>,
        before: Vec<RssContextId>,
        id: Option<RssContextId>,
    },
    /// A flow rule that was added.
    Rule {
        rule: FlowRule,
        before: Vec<u32>,
        location: Option<u32>,
    },
}

impl Item {
    /// Whether both records are of the same rule or context on the NIC: two claims may want the
    /// same rule.
    pub(crate) fn is_same_item(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Rule {
                    location: Some(one),
                    ..
                },
                Self::Rule {
                    location: Some(other),
                    ..
                },
            ) => one == other,
            (
                Self::Context { id: Some(one), .. },
                Self::Context {
                    id: Some(other), ..
                },
            ) => one == other,
            _ => false,
        }
    }
}

/// Claim of an owner: what it needs of a NIC, and the rules and contexts that it added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claim {
    /// Number of the claim in its journal.
    pub(crate) id: u64,
    /// Owner of the claim; `None` for a claim that `apply` made, which stays until it is restored.
    pub(crate) owner: Option<Owner>,
    pub(crate) needs: Needs,
    /// Rules and contexts of the claim, in the order in which they were made.
    pub(crate) items: Vec<Item>,
}

impl Claim {
    /// Whether the claim's owner has ended without undoing the claim.
    pub(crate) fn is_orphan(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| !owner.is_alive())
    }
}

/// Whether both rules match the same packets, whatever their actions are.
pub(crate) fn same_packets(a: &FlowRule, b: &FlowRule) -> bool {
    let alike = FlowRule {
        action: a.action,
        ..b.clone()
    };
    same_rule(a, &alike)
}

/// Whether both rules match the same packets with the same action, whatever their places are.
pub(crate) fn same_rule(a: &FlowRule, b: &FlowRule) -> bool {
    let anywhere = |rule: &FlowRule| FlowRule {
        location: Location::Any,
        ..rule.clone()
    };
    anywhere(a) == anywhere(b)
}
