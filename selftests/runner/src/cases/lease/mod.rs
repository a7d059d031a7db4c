//! Leases of rx queues: made, used and ended, and what the kernel refuses.

mod lease;
mod lease_ends;
mod lease_errors;
pub(super) mod lease_fence;
mod lease_grants;
mod lease_known;
mod lease_nic;
mod lease_notes;
pub(super) mod lease_rounds;
pub(super) mod lease_way;
