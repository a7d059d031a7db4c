//! Cases about the memory to receive into, and bindings that the kernel refuses.

mod bind_errors;
mod memory;
mod memory_size;
mod udmabufs;
