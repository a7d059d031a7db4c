//! The memory that is received into, and what the kernel refuses to bind.

pub(super) mod bind_errors;
pub(super) mod memory;
pub(super) mod memory_size;
pub(super) mod udmabufs;
