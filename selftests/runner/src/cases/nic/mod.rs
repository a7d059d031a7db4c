//! The NIC under a receiver: what is set, restored, shared and written down.

pub(super) mod alive;
pub(super) mod called;
pub(super) mod drivers;
pub(super) mod elsewhere;
pub(super) mod hidden;
pub(super) mod nic;
pub(super) mod nic_boot;
pub(super) mod nic_bound;
pub(super) mod nic_chance;
pub(super) mod nic_channels;
pub(super) mod nic_claims;
pub(super) mod nic_drivers;
pub(super) mod nic_flows;
pub(super) mod nic_journal;
pub(super) mod nic_places;
pub(super) mod nic_plan;
pub(super) mod nic_restored;
pub(super) mod nic_shared;
pub(super) mod rundir;
pub(super) mod sockets;
