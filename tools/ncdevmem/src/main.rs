//! `ncdevmem`: the receiving side of upstream's command line
//! (`tools/testing/selftests/drivers/net/hw/ncdevmem.c`) over the devmem-tcp crates.
//!
//! Options, exit status and the use of stdout (payload) and stderr (the rest) are upstream's. Where
//! upstream is lax this is not: bytes beside the dmabuf are delivered in stream order, one byte that
//! fails validation fails the run, and the NIC is put back as it was, also after a signal.

#![forbid(unsafe_code)]

mod server;

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Receives TCP payload in device memory and writes it to standard output, or validates it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Fail on payload that is not in the dmabuf
    #[arg(short = 'L')]
    fail_on_linear: bool,
    /// Listen: receive
    #[arg(short = 'l', required = true)]
    listen: bool,
    /// The server's address
    #[arg(short = 's', value_name = "ADDR")]
    server: IpAddr,
    /// The client's address; flows from elsewhere are not steered
    #[arg(short = 'c', value_name = "ADDR")]
    client: Option<IpAddr>,
    /// The port
    #[arg(short = 'p', value_name = "PORT")]
    port: u16,
    /// Validate: the bytes 1, 2, ..., N-1, newline, over and over
    #[arg(short = 'v', value_name = "N")]
    validation: Option<usize>,
    /// How many rx queues are bound
    #[arg(short = 'q', value_name = "N", requires = "start_queue")]
    num_queues: Option<u32>,
    /// The first of them
    #[arg(short = 't', value_name = "N", requires = "num_queues")]
    start_queue: Option<u32>,
    /// The device
    #[arg(short = 'f', value_name = "IF")]
    ifname: String,
    /// Leave header split, RSS and flow rules as they are
    #[arg(short = 'n')]
    skip_config: bool,
    /// Size of the pieces that the NIC fills (Linux 7.3)
    #[arg(short = 'b', value_name = "BYTES")]
    rx_page_size: Option<u32>,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match server::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to hear of it if stderr is closed.
            let _closed = writeln!(io::stderr(), "ncdevmem: {error:#}");
            ExitCode::FAILURE
        }
    }
}
