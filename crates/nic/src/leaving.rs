//! Rules and contexts of dead owners, which the next receiver removes before it adds its own.

use netdev::ethtool::{FlowRule, Location};
use netdev::{QueueId, RssContextId};

use crate::claim::{Claim, Item, same_rule};
use crate::values::same_spread;

/// Rules and contexts of dead owners, which will be removed from the NIC.
#[derive(Debug, Default)]
pub(crate) struct LeavingItems<'a> {
    items: Vec<&'a Item>,
}

impl<'a> LeavingItems<'a> {
    /// Finds the rules and contexts that dead owners added and that no other claim needs.
    pub(crate) fn of(orphans: &'a [Claim], others: &[Claim]) -> Self {
        let stays = |item: &Item| {
            let mut items = others.iter().flat_map(|claim| &claim.items);
            items.any(|other| other.is_same_item(item))
        };
        let items = orphans.iter().flat_map(|claim| &claim.items);
        Self {
            items: items.filter(|item| !stays(item)).collect(),
        }
    }

    /// Whether this flow rule of the NIC will be removed.
    pub(crate) fn has_rule(&self, there: &FlowRule) -> bool {
        let Location::At(place) = there.location else {
            return false;
        };
        self.items.iter().any(|item| match item {
            Item::Rule {
                rule,
                before,
                location,
            } => {
                let is_there = match location {
                    Some(noted) => *noted == place,
                    None => !before.contains(&place),
                };
                is_there && same_rule(rule, there)
            }
            Item::Context { .. } => false,
        })
    }

    /// Whether this RSS context of the NIC will be removed.
    pub(crate) fn has_context(&self, id: RssContextId, there: &[QueueId]) -> bool {
        self.items.iter().any(|item| match item {
            Item::Context {
                table,
                before,
                id: noted,
            } => {
                let is_there = match noted {
                    Some(noted) => *noted == id,
                    None => !before.contains(&id),
                };
                is_there && same_spread(table, there)
            }
            Item::Rule { .. } => false,
        })
    }

    /// Whether no rule or context will be removed.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
