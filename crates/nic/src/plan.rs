//! Plans: the settings that a receiver wants of a NIC.

use std::fmt;

use netdev::ethtool::FlowRule;
use netdev::{Ifindex, QueueId};
use serde::Serialize;

use crate::claim::Needs;

/// Settings that a receiver wants of a NIC.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) device: String,
    pub(crate) ifindex: Ifindex,
    pub(crate) needs: Needs,
    pub(crate) flows: Vec<(FlowRule, Vec<QueueId>)>,
}

/// A change of a NIC's setting, or a rule or context that is added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// Value before the change; `None` for a rule or context that is added.
    pub from: Option<String>,
    /// Value after the change.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => write!(f, "{from} -> {}", self.to),
            None => write!(f, "new {}", self.to),
        }
    }
}

impl Plan {
    /// Creates an empty plan for the NIC of this ifindex. The name is used in messages only.
    pub fn new(device: impl Into<String>, ifindex: Ifindex) -> Self {
        Self {
            device: device.into(),
            ifindex,
            needs: Needs::default(),
            flows: Vec::new(),
        }
    }

    /// Adds header split to the plan: headers are split from payload, whatever the payload's size.
    #[must_use]
    pub fn header_split(mut self) -> Self {
        self.needs.split = true;
        self
    }

    /// Adds to the plan a least number of descriptors in each rx ring. The driver may round up.
    #[must_use]
    pub fn rx_ring(mut self, descriptors: u32) -> Self {
        self.needs.rx_ring = Some(descriptors);
        self
    }

    /// Adds to the plan a least number of rx queues: combined channels, or rx channels where the
    /// driver has no combined ones.
    #[must_use]
    pub fn channels(mut self, queues: u32) -> Self {
        self.needs.channels = Some(queues);
        self
    }

    /// Reserves queues: the RSS table doesn't use them while the plan is applied.
    #[must_use]
    pub fn reserve(mut self, queues: &[QueueId]) -> Self {
        self.needs.reserved.extend_from_slice(queues);
        self
    }

    /// Steers a flow to queues: to a single queue by a flow rule, or to several by a flow rule and
    /// an RSS context, which all flows to the same queues share. Where the driver has no context
    /// for them, each flow goes to one of the queues, in turn. The rule's own action does not
    /// count; a flow that is steered already is not steered again.
    #[must_use]
    pub fn steer(mut self, flow: FlowRule, to: &[QueueId]) -> Self {
        let flow = (flow, to.to_vec());
        if !self.flows.contains(&flow) {
            self.flows.push(flow);
        }
        self
    }

    /// Whether the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty() && self.flows.is_empty()
    }
}
