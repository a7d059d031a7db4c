//! The probe receiver: a receiver whose sinks keep, delay or lose frags, as no sink of the tools does.

mod outcome;
mod sinks;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use framework::probe_receiver::SinkKind;
use framework::testbed::NIC;
use memory::{AnyMemory, Choice};
use netdev::QueueId;
use receiver::Receiver;

use sinks::Sinks;

/// Receives into device memory with sinks that misbehave, and prints what became of each connection
#[derive(Parser)]
#[command(name = "probe-receiver")]
struct Args {
    /// What the sinks do with the frags
    kind: SinkKind,
    /// Where to listen
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// The rx queue to receive on; may be repeated
    #[arg(long = "queue")]
    queues: Vec<QueueId>,
    /// The port of the peer whose sink does that; without it, all sinks do
    #[arg(long)]
    culprit: Option<u16>,
    /// End when this many peers have come and ended
    #[arg(long, default_value_t = 1)]
    peers: u32,
    /// Bytes of device memory
    #[arg(long, default_value_t = 4 << 20)]
    pool: u64,
    /// What makes the device memory
    #[arg(long, default_value = "udmabuf")]
    memory: Choice,
    /// A thread for each queue
    #[arg(long)]
    workers: bool,
    /// Milliseconds that a token may be held
    #[arg(long)]
    hold: Option<u64>,
    /// Milliseconds after which a sink that keeps too much is given up
    #[arg(long)]
    stalled: Option<u64>,
    /// Milliseconds that an ended connection waits for what its sink keeps
    #[arg(long)]
    returns: Option<u64>,
    /// Print the number of frags once this many bytes of all peers have come
    #[arg(long)]
    tell: Option<u64>,
}

fn main() -> ExitCode {
    if let Some(code) = nic::guardian() {
        return code;
    }
    match Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe-receiver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    /// Receives, and prints the counts as an [`Outcome`](framework::probe_receiver::Outcome).
    fn run(self) -> Result<()> {
        let memory = AnyMemory::make(&self.memory, Some(self.pool), None)?;
        let (hold, stalled, returns) = (self.hold, self.stalled, self.returns);
        let mut wanted = Receiver::on(NIC)
            .queues(self.queues.iter().copied())
            .memory(memory)
            .connections(self.peers)
            .config(move |config| {
                config.stalled = stalled.map(Duration::from_millis);
                config.hold = hold.map_or(config.hold, Duration::from_millis);
                config.returns = returns.map_or(config.returns, Duration::from_millis);
            });
        for address in &self.listen {
            wanted = wanted.listen(*address);
        }
        if self.workers {
            wanted = wanted.thread_per_queue();
        }
        let receiver = wanted.set_up()?;
        let sinks = Sinks::new(self.kind, receiver.memory()?, &self);
        let report = receiver.run(|peer| sinks.open(peer)).into_result()?;
        outcome::print(&outcome::outcome(&report))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Args;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
