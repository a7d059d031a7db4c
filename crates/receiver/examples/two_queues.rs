//! Receives eight TCP connections over two queues, each served by a thread of its own.
//!
//! ```text
//! two_queues eth1 2 3 192.0.2.2:5000      # the NIC, its queues, where to listen
//! devmem-tcp send 192.0.2.2:5000          # on another machine, eight times
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use devmem::DmabufId;
use devmem::engine::{Config, End, Until, Worker, Workers};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::pattern::Pattern;
use devmem::sink::{Memory, Validate};
use dmabuf::{Dmabuf, Protection};
use netdev::{Action, BindOptions, FlowRule, Link, NetNs, Netdev, QueueId, QueueType};
use nic::Plan;
use udmabuf::Udmabuf;

/// Bytes of device memory, for both queues.
const SIZE: u64 = 16 << 20;
/// Connections to wait for.
const PEERS: u32 = 8;

fn main() -> Result<ExitCode> {
    // The same program, started anew, puts the NIC back if this process is killed.
    if let Some(code) = nic::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, first, second, address] = &args[..] else {
        bail!("usage: two_queues IF QUEUE QUEUE ADDR:PORT");
    };
    let queues = [first.parse::<QueueId>()?, second.parse()?];
    let address = address.parse()?;
    let nic = Link::open()?.by_name(device)?.ifindex;

    // An RSS context spreads the flows over the two queues, and keeps all others off them.
    let plan = Plan::new(device, nic).header_split().reserve(&queues);
    let flow = FlowRule::tcp_to(address, Action::Drop);
    let applied = plan.steer(flow, &queues).apply(&NetNs::current()?)?;

    // One dmabuf for both.
    let memory = Udmabuf::builder(SIZE).build()?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &queues, BindOptions::default())?;
    let mapping = Arc::new(memory.map(Protection::Read)?);
    let memory = Memory::new().with(DmabufId::new(binding.id().get()), mapping);

    // A thread for each queue, known by the NAPI instance that serves it.
    let mut workers = Vec::new();
    for id in queues {
        let napi = Netdev::open()?.queue(nic, QueueType::Rx, id)?.napi;
        let napi = napi.with_context(|| format!("{device} rx queue {id} has no NAPI instance"))?;
        workers.push(Worker {
            napi_ids: vec![napi.get()],
            cpu: None, // any; best the one that the queue's interrupt goes to
        });
    }

    // Each thread makes the sinks of its own connections.
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(SIZE, PEERS),
        ..Default::default()
    };
    let config = Config {
        until: Until::Peers(PEERS),
        ..Config::for_pool(SIZE, PEERS)
    };
    let sink = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
    let report = Workers::new([listen(address, &options)?], config, workers, sink)?.run()?;

    // The binding first: the kernel keeps header split on while there is one.
    binding.unbind();
    applied.restore()?;
    for connection in report.connections {
        let (peer, stats) = (connection.peer, connection.stats);
        eprintln!(
            "{} bytes, {} frags from {}, worker {}",
            stats.bytes, stats.frags, peer.address, peer.worker
        );
        if let End::Failed(error) = connection.end {
            return Err(error).context(peer.address);
        }
    }
    Ok(ExitCode::SUCCESS)
}
