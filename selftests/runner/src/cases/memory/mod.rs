//! The memory that is received into, and what the kernel refuses to bind.

mod bind_errors;
mod memory;
mod memory_size;
mod udmabufs;
