//! Runs the selftests inside the VM and prints KTAP.
//!
//! Each case runs in a process of its own, with a deadline, on a software NIC loaded afresh: a case
//! that panics, hangs or leaves something behind fails alone. A warning that the kernel logs
//! meanwhile fails the case, too, and so does a setting of the machine that is not what it was.

#![deny(unsafe_code)]

#[macro_use]
mod runner;
mod cases;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A case that receives in its own process has a guardian, too.
    if let Some(code) = nic::guardian() {
        return code;
    }
    runner::Args::parse().run()
}
