//! Measures the receive path's user space, without a kernel: see `benches/receive.rs`, and
//! `tests/no_allocation.rs` for what it must not do. `make bench-host` runs the benchmark.
#![forbid(unsafe_code)]
