//! Upstream ncdevmem's command line over the devmem-tcp crates.

fn main() {}
