//! What receivers cost, side by side: the same transfer, on the same NIC, one after the other.
//!
//! Each round runs every contender once, so that what changes with time strikes all of them. A
//! receiver's CPU time is that of its whole process; what it costs to begin and end is measured by
//! a transfer of next to nothing, and taken off; ours tells what its loop cost by itself. The NIC's work is left to NAPI threads of the
//! kernel, which nobody is charged with.

mod contender;
mod report;
mod transfer;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use netdev::{Action, BindOptions, Ethtool, FlowRule, Link, NetNs, Netdev, QueueId};
use nic::Plan;
use serde::{Deserialize, Serialize};
use udmabuf::Udmabuf;

use crate::bed::{self, NIC, NIC_ADDRESS, PEER, SENDER};
use crate::tool::finish;
use contender::Contender;
pub(crate) use report::report;
use transfer::transfer;

/// The queue that payload goes to.
const QUEUE: QueueId = QueueId::new(bed::QUEUES - 1);
/// What costs next to nothing, in bytes.
const NOTHING: u64 = 4096;
const MIB: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare the receivers, and write what was measured to this file, a JSON object a line
    #[arg(long, value_name = "FILE", hide = true)]
    bench: Option<PathBuf>,
    /// Bytes of a transfer
    #[arg(long, value_name = "MIB", default_value_t = 64, hide = true)]
    bench_mib: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, hide = true)]
    bench_rounds: u32,
    /// Count the system calls, too, in one more transfer of 16 MiB each, and of nothing
    #[arg(long, hide = true)]
    bench_calls: bool,
    /// Print the comparison of what was measured earlier
    #[arg(long, value_name = "FILE", num_args = 1.., hide = true)]
    bench_report: Vec<PathBuf>,
}

impl Args {
    /// Does what was asked for; `false` if nothing was.
    pub(crate) fn run(&self) -> Result<bool> {
        if !self.bench_report.is_empty() {
            report(&self.bench_report)?;
            return Ok(true);
        }
        let Some(path) = &self.bench else {
            return Ok(false);
        };
        measure(self, path)?;
        Ok(true)
    }
}

/// One transfer's cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The contender.
    pub(crate) who: String,
    /// Whether the NIC coalesces.
    pub(crate) gro: bool,
    pub(crate) bytes: u64,
    /// From the connection to the receiver's close.
    pub(crate) seconds: f64,
    /// CPU time of the receiver's process, in seconds.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// That of its receive loop alone, where it tells: user and system.
    pub(crate) in_loop: Option<(f64, f64)>,
    /// The most memory that it had, without what it shares, in KiB.
    pub(crate) memory: u64,
    /// Its system calls, where they were counted.
    pub(crate) calls: Option<u64>,
}

/// Measures all contenders.
fn measure(args: &Args, path: &PathBuf) -> Result<()> {
    bed::wire()?;
    quiet_nic()?;
    let address: SocketAddr = format!("{NIC_ADDRESS}:5000").parse()?;
    let here = NetNs::current()?;
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    let applied = Plan::new(NIC, nic)
        .header_split()
        .reserve(&[QUEUE])
        .steer(FlowRule::tcp_to(address, Action::Drop), &[QUEUE])
        .apply(&here)?;
    let mut out = fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut keep = |sample: &Sample| -> Result<()> {
        serde_json::to_writer(&mut out, sample)?;
        Ok(out.write_all(b"\n")?)
    };
    for gro in [false, true] {
        Ethtool::open()?.set_feature(nic, "rx-gro-hw", gro)?;
        for round in 0..args.bench_rounds {
            for contender in contender::ALL {
                say(&format!(
                    "gro {gro}, round {}: {}",
                    round + 1,
                    contender.name
                ));
                for bytes in [args.bench_mib * MIB / contender.smaller, NOTHING] {
                    keep(&one(contender, gro, address, bytes, false)?)?;
                }
            }
        }
        if args.bench_calls {
            for contender in contender::ALL {
                say(&format!("gro {gro}, system calls: {}", contender.name));
                for bytes in [16 * MIB, NOTHING] {
                    keep(&one(contender, gro, address, bytes, true)?)?;
                }
            }
        }
    }
    Ok(applied.restore()?)
}

/// One transfer to one contender.
fn one(
    contender: &Contender,
    gro: bool,
    address: SocketAddr,
    bytes: u64,
    count_calls: bool,
) -> Result<Sample> {
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    // Whoever does not bind the queue finds it bound.
    let memory = Udmabuf::builder(64 * MIB).build()?;
    let binding = match contender.bound {
        true => Some(Netdev::open()?.bind_rx(nic, &memory, &[QUEUE], BindOptions::default())?),
        false => None,
    };
    let cost = transfer(contender, address, bytes, count_calls)
        .with_context(|| format!("{}, {bytes} bytes", contender.name))?;
    drop(binding);
    Ok(Sample {
        who: contender.name.to_owned(),
        gro,
        bytes,
        ..cost
    })
}

/// The NIC's work in threads of the kernel, on both ends.
fn quiet_nic() -> Result<()> {
    fs::write(format!("/sys/class/net/{NIC}/threaded"), "1").context("threaded NAPI")?;
    // `ip netns exec` mounts the namespace's own /sys.
    let line = format!("echo 1 > /sys/class/net/{SENDER}/threaded");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", PEER, "sh", "-c", &line]);
    finish(command)?.good(&line).map(drop)
}

fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "# {text}");
}
