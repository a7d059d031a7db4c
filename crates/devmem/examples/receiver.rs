//! Receives one TCP connection into device memory and checks every byte of it.
//!
//! ```text
//! receiver eth1 3 192.0.2.2:5000          # the NIC, its queue, where to listen
//! devmem-tcp send 192.0.2.2:5000          # on another machine
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use devmem::DmabufId;
use devmem::engine::{Config, End, Engine};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::pattern::Pattern;
use devmem::sink::{Memory, Validate};
use dmabuf::{Dmabuf, Protection};
use netdev::{Action, BindOptions, FlowRule, Link, NetNs, Netdev, QueueId};
use nic::Plan;
use udmabuf::Udmabuf;

/// Bytes of device memory.
const SIZE: u64 = 16 << 20;

fn main() -> Result<ExitCode> {
    // The same program, started anew, puts the NIC back if this process is killed.
    if let Some(code) = nic::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &args[..] else {
        bail!("usage: receiver IF QUEUE ADDR:PORT");
    };
    let (queue, address) = (queue.parse::<QueueId>()?, address.parse()?);
    let nic = Link::open()?.by_name(device)?.ifindex;

    // Header split on, the queue to ourselves, our flow to the queue; as it was when dropped.
    let plan = Plan::new(device, nic).header_split().reserve(&[queue]);
    let flow = FlowRule::tcp_to(address, Action::Drop);
    let applied = plan.steer(flow, &[queue]).apply(&NetNs::current()?)?;

    // The memory, the binding of the queue to it, and how the sink gets at its payload.
    let memory = Udmabuf::builder(SIZE).build()?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[queue], BindOptions::default())?;
    let mapping = Arc::new(memory.map(Protection::Read)?);
    let memory = Memory::new().with(DmabufId::new(binding.id().get()), mapping);

    // A receive buffer that fits the memory, and the loop: one peer, to its end.
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(SIZE, 1),
        ..Default::default()
    };
    let sink = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
    let engine = Engine::new(listen(address, &options)?, Config::for_pool(SIZE, 1), sink)?;
    let report = engine.run()?;

    // The binding first: the kernel keeps header split on while there is one.
    binding.unbind();
    applied.restore()?;
    let connection = report
        .connections
        .into_iter()
        .next()
        .context("nobody came")?;
    let stats = connection.stats;
    eprintln!(
        "{} bytes, {} frags from {}",
        stats.bytes, stats.frags, connection.peer.address
    );
    match connection.end {
        End::Failed(error) => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
