//! Runs the cases in the VM and prints KTAP.

fn main() {}
