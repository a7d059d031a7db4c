//! `ncdevmem`: upstream's command line (`tools/testing/selftests/drivers/net/hw/ncdevmem.c`, of
//! Linux 7.2 and 7.3) over the devmem-tcp crates.
//!
//! Options, exit status and the use of stdout (payload) and stderr (the rest) are upstream's; what
//! differs, and why, is in `docs/ncdevmem.md`.

#![forbid(unsafe_code)]
// They panic when the stream is closed: see `common::stdio`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod client;
mod memory;
mod nic_side;
mod probe;
mod queues;
mod remedy;
mod server;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use common::stdio;
use netdev::{Ifindex, Link};
use tracing_subscriber::EnvFilter;

use args::{Args, Job, Mode};

/// The device that `-f` names.
#[derive(Debug)]
struct Device {
    name: String,
    ifindex: Ifindex,
}

fn main() -> ExitCode {
    if let Some(code) = nic::guardian() {
        return code;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| stdio::Log)
        // What a terminal would act on is shown as text, colours of others too.
        .with_ansi(false)
        .init();
    // From here on the log waits for no reader: others wait for the lock under which it is written.
    stdio::stderr().post("");
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return misunderstood(&error),
    };
    match args.job().map_err(anyhow::Error::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let remedy = remedy::remedy(&error);
            let remedy = remedy.map_or(String::new(), |remedy| format!("\n  {remedy}"));
            say(&format!("{error:#}{remedy}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a command line error and returns upstream's exit status for it; for help and version,
/// prints them.
fn misunderstood(error: &clap::Error) -> ExitCode {
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    {
        say(&format!("unknown option: {option}\n  see ncdevmem --help"));
        return ExitCode::FAILURE;
    }
    if error.use_stderr() {
        // Ignored: there is no other place to report it.
        let _closed = error.print();
        return ExitCode::FAILURE;
    }
    match stdio::stdout().print_raw(&error.render().to_string()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<()> {
    for extra in &job.extra {
        say(&format!("extra argument, without a meaning: {extra}"));
    }
    let ifindex = Link::open()?.by_name(&job.ifname)?.ifindex;
    say(&format!("using ifindex={ifindex}"));
    let device = Device {
        name: job.ifname,
        ifindex,
    };
    match job.mode {
        Mode::Probe(probe) => probe::run(&device, &probe),
        Mode::Server(server) => server::run(&device, &server),
        Mode::Client(client) => client::run(&device, &client),
    }
}

/// Prints a line on standard error, as upstream does.
fn say(text: &str) {
    stdio::say("ncdevmem", text);
}

/// Posts a line on standard error without waiting for its reader, who must not hold up a receiver.
fn tell(text: &str) {
    stdio::tell("ncdevmem", text);
}
