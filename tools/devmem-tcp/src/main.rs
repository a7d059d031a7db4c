//! Lease NIC queues, receive TCP payload into device memory.

fn main() {}
