//! The NIC under a receiver: settings, the journal, shared settings, and restoring.

mod alive;
mod called;
mod drivers;
mod elsewhere;
mod hidden;
mod nic;
mod nic_boot;
mod nic_bound;
mod nic_chance;
mod nic_channels;
mod nic_claims;
mod nic_drivers;
mod nic_flows;
mod nic_journal;
mod nic_places;
mod nic_plan;
mod nic_restored;
mod nic_shared;
mod rundir;
mod sockets;
