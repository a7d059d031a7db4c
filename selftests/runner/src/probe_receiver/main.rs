//! A receiver with sinks of its own, no more than the crates: with it the cases see what the sinks of
//! the tools never do.

mod outcome;
mod sinks;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use devmem::engine::{Config, Engine, Peer, Until, Worker, Workers};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::sink::Memory;
use dmabuf::{Dmabuf, Protection};
use memory::{AnyMemory, Choice};
use netdev::{Action, BindOptions, FlowRule, Ifindex, NetNs, Netdev, QueueId, QueueType};
use nic::Plan;

use framework::probe_receiver::Outcome;
use framework::testbed::NIC;
use sinks::{Kind, Sinks};

/// Receives into device memory with sinks that misbehave, and prints what became of each connection
#[derive(Parser)]
#[command(name = "probe-receiver")]
struct Args {
    /// What the sinks do with the frags
    kind: Kind,
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    #[arg(long = "queue")]
    queues: Vec<QueueId>,
    /// The port of the peer whose sink is such; without, all are
    #[arg(long)]
    culprit: Option<u16>,
    #[arg(long, default_value_t = 1)]
    peers: u32,
    /// Bytes of device memory
    #[arg(long, default_value_t = 4 << 20)]
    pool: u64,
    /// Whose it is
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
    /// Say how many frags it took when so many bytes of all peers have come
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
    /// Receives, and prints an [`Outcome`].
    fn run(&self) -> Result<()> {
        let memory = AnyMemory::make(&self.memory, Some(self.pool), None)?;
        let nic = framework::ifindex(NIC)?;
        let mut plan = Plan::new(NIC, nic).header_split().reserve(&self.queues);
        for address in &self.listen {
            plan = plan.steer(FlowRule::tcp_to(*address, Action::Drop), &self.queues);
        }
        // Declared before the binding, so dropped after it.
        let applied = plan.apply(&NetNs::current()?)?;
        let options = BindOptions::default();
        let binding = Netdev::open()?.bind_rx(nic, &memory, &self.queues, options)?;
        let mapping = Arc::new(memory.map(Protection::Read).context("mapping")?);
        let mapped = Memory::new().with(binding.id().get().into(), mapping);
        let outcome = self.receive(nic, Sinks::new(self.kind, mapped, self));
        binding.unbind();
        applied.restore()?;
        outcome::print(&outcome?)
    }

    fn receive(&self, nic: Ifindex, sinks: Sinks) -> Result<Outcome> {
        let options = SocketOptions {
            recv_buffer: recv_buffer_for(self.pool, self.peers),
            ..SocketOptions::default()
        };
        let listeners = self.listen.iter().map(|at| listen(*at, &options));
        let listeners: Vec<_> = listeners.collect::<Result<_, _>>()?;
        let report = if self.workers {
            let workers = self.one_for_each_queue(nic)?;
            Workers::new(listeners, self.config(), workers, |peer: &Peer| {
                sinks.open(peer)
            })?
            .run()?
        } else {
            let mut listeners = listeners.into_iter();
            let first = listeners.next().context("--listen")?;
            let mut engine = Engine::new(first, self.config(), |peer| sinks.open(peer))?;
            for more in listeners {
                engine.listen_too(more)?;
            }
            engine.run()?
        };
        Ok(outcome::outcome(&report))
    }

    fn config(&self) -> Config {
        let mut config = Config {
            until: Until::Peers(self.peers),
            stalled: self.stalled.map(Duration::from_millis),
            ..Config::for_pool(self.pool, self.peers)
        };
        if let Some(hold) = self.hold {
            config.hold = Duration::from_millis(hold);
        }
        if let Some(returns) = self.returns {
            config.returns = Duration::from_millis(returns);
        }
        config
    }

    fn one_for_each_queue(&self, nic: Ifindex) -> Result<Vec<Worker>> {
        let queues = Netdev::open()?.queues(Some(nic))?;
        let of = |id: &QueueId| {
            let queue = queues
                .iter()
                .find(|queue| queue.kind == QueueType::Rx && queue.id == *id);
            let napi = queue.and_then(|queue| queue.napi);
            let napi_ids = vec![
                napi.with_context(|| format!("queue {id} has no NAPI"))?
                    .get(),
            ];
            Ok(Worker {
                napi_ids,
                cpu: None,
            })
        };
        self.queues.iter().map(of).collect()
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
