//! Leases of rx queues: made, used and ended, and what the kernel refuses.

pub(super) mod lease;
pub(super) mod lease_ends;
pub(super) mod lease_errors;
pub(super) mod lease_fence;
pub(super) mod lease_grants;
pub(super) mod lease_known;
pub(super) mod lease_nic;
pub(super) mod lease_notes;
pub(super) mod lease_rounds;
pub(super) mod lease_way;
