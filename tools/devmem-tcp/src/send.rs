//! `devmem-tcp send`: plain TCP, for tests and demonstrations.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use devmem::listen::{self, SocketError, SocketOptions};
use devmem::pattern::Pattern;
use serde::Serialize;

use crate::args::{NetNsArg, Size, netns};
use crate::report;

/// Bytes of one write.
const CHUNK: usize = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to: ADDR:PORT, an IPv6 address in brackets
    to: SocketAddr,
    /// How much of the validation pattern is sent
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1M",
        conflicts_with = "input"
    )]
    bytes: Size,
    /// The pattern's period, as the receiver's --validate
    #[arg(long, value_name = "N", default_value_t = Pattern::DEFAULT_PERIOD)]
    pattern: usize,
    /// Send this file instead, or standard input if it is -
    #[arg(long, value_name = "FILE")]
    input: Option<String>,
    /// The device that the packets leave by
    #[arg(long, value_name = "IF")]
    dev: Option<String>,
    /// Where from: ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    from: Option<SocketAddr>,
    /// Send from within this namespace: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// Seconds to wait for the receiver to listen
    #[arg(long, value_name = "S", default_value_t = 5)]
    wait: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Sent {
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut source: Box<dyn Read> = match args.input.as_deref() {
        Some("-") => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).with_context(|| format!("send {path}"))?),
        None => {
            let pattern = Pattern::new(args.pattern).context("send --pattern")?;
            Box::new(PatternSource { pattern, offset: 0 }.take(args.bytes.0))
        }
    };
    let to = args.to;
    let mut socket = netns(args.netns.as_ref())?.run(|| connect(args))??;
    let start = Instant::now();
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let length = source.read(&mut chunk).context("send: reading the input")?;
        if length == 0 {
            break;
        }
        let part = chunk.get(..length).unwrap_or_default();
        socket
            .write_all(part)
            .with_context(|| format!("send to {to}, at byte {bytes}"))?;
        bytes += length as u64;
    }
    // The receiver closes when it has all: only then is the transfer known to be whole.
    socket
        .shutdown(std::net::Shutdown::Write)
        .context("shutdown")?;
    match socket
        .read(&mut [0])
        .with_context(|| format!("send to {to}, after byte {bytes}"))?
    {
        0 => {}
        _ => bail!("send to {to}: the receiver answered with data"),
    }
    let seconds = start.elapsed().as_secs_f64();
    let sent = Sent { bytes, seconds };
    if args.json {
        report::json(&sent)
    } else {
        report::text(&format!("sent {bytes} bytes to {to} in {seconds:.2} s\n"))
    }
}

/// Connects; while nobody listens, again and again until the time is over.
fn connect(args: &Args) -> Result<TcpStream, SocketError> {
    let options = SocketOptions {
        device: args.dev.clone(),
        source: args.from,
        ..SocketOptions::default()
    };
    let end = Instant::now() + Duration::from_secs(args.wait);
    loop {
        // At least a moment, also for those who don't want to wait.
        let left = end
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(100));
        match listen::connect(args.to, &options, left) {
            Err(error)
                if error.raw_os_error() == Some(libc::ECONNREFUSED) && Instant::now() < end =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// The validation pattern without end.
struct PatternSource {
    pattern: Pattern,
    offset: u64,
}

impl Read for PatternSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pattern.fill(self.offset, into);
        self.offset += into.len() as u64;
        Ok(into.len())
    }
}
