//! `devmem-tcp`: lease NIC queues, receive TCP payload into device memory.

#![forbid(unsafe_code)]

mod args;
mod lease;
mod recv;
mod remedy;
mod report;
mod send;
mod show;
mod snapshot;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    version,
    about = "TCP payload straight into device memory, over leased NIC queues"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lease rx queues of a physical NIC into a netkit device
    Lease(lease::Args),
    /// List queues, leases (both sides), bindings and page pools
    Show(show::Args),
    /// Receive TCP payload into a dmabuf
    Recv(recv::Args),
    /// Send TCP payload, by plain sends
    Send(send::Args),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Lease(args) => lease::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Recv(args) => recv::run(&args),
        Command::Send(args) => send::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to hear of it if stderr is closed.
            let _closed = complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The error on one line, and on a second, where one is known, the remedy.
fn complain(error: &anyhow::Error) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "devmem-tcp: {error:#}")?;
    if let Some(remedy) = remedy::remedy(error) {
        writeln!(stderr, "  {remedy}")?;
    }
    Ok(())
}
