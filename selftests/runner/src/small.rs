//! The smallest receiver that there can be: the crates, and a sink that comes to grief.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use devmem::Received;
use devmem::engine::{Config, Engine, Peer};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::sink::{Sink, SinkError};
use netdev::{Action, BindOptions, FlowRule, NetNs, Netdev, QueueId};
use nic::Plan;
use udmabuf::Udmabuf;

use crate::bed::NIC;

/// Bytes of device memory.
const SIZE: u64 = 4 << 20;

/// How a sink ends the process.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Grief {
    /// It panics.
    Panic,
    /// It aborts.
    Abort,
}

impl Sink for Grief {
    fn consume(&mut self, _: &mut Received<'_>) -> Result<(), SinkError> {
        match self {
            Self::Panic => panic!("a sink that panics"),
            Self::Abort => std::process::abort(),
        }
    }
}

/// Receives on the NIC until the first payload comes.
pub(crate) fn receive(grief: Grief, address: SocketAddr, queues: &[QueueId]) -> Result<()> {
    let memory = Udmabuf::builder(SIZE).build()?;
    let nic = crate::cases::ifindex(NIC)?;
    // Declared before the binding, so dropped after it.
    let applied = Plan::new(NIC, nic)
        .header_split()
        .reserve(queues)
        .steer(FlowRule::tcp_to(address, Action::Drop), queues)
        .apply(&NetNs::current()?)?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, queues, BindOptions::default())?;
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(SIZE, 1),
        ..SocketOptions::default()
    };
    let sink = |_: &Peer| Ok(grief);
    Engine::new(listen(address, &options)?, Config::default(), sink)?.run()?;
    binding.unbind();
    applied.restore()?;
    bail!("no payload came")
}
