//! The sender: standard input, through a dmabuf, to the peer.
//!
//! It changes nothing about the NIC, and the binding ends with the process: a signal may end it
//! where it stands.

use std::time::Duration;

use anyhow::{Context, Result};
use common::Input;
use devmem::DmabufId;
use devmem::listen::{SocketOptions, connect};
use devmem::send::{DevmemSender, PumpConfig, pump, watch_peer};
use dmabuf::{Dmabuf, Protection};
use netdev::Netdev;

use crate::args::Client;
use crate::{Device, memory, say};

/// Time limit for connecting to the peer.
const CONNECT: Duration = Duration::from_secs(30);
/// Time limit from one completion to the next: longer than upstream's 500 ms, because many sends
/// are in flight, and a peer that reads slowly is no failure.
const COMPLETION: Duration = Duration::from_secs(10);

pub(crate) fn run(device: &Device, client: &Client) -> Result<()> {
    let mut input = Input::stdin()?;
    let memory = memory::dmabuf(None)?;
    let binding = Netdev::open()?.bind_tx(device.ifindex, &memory)?;
    say(&format!("got tx dmabuf id={}", binding.id()));
    let mapping = memory
        .map(Protection::ReadWrite)
        .context("mapping the dmabuf")?;

    let server = client.server.on(device.ifindex);
    let options = SocketOptions {
        device: Some(device.name.clone()),
        source: client.source.map(|source| source.on(device.ifindex)),
        ..SocketOptions::default()
    };
    say(&format!("Connect to {server} (via {})", device.name));
    let socket = connect(server, &options, CONNECT)?;
    // For as long as standard input has nothing; later than the completion's own error, which knows more.
    watch_peer(&socket, Some(2 * COMPLETION)).context("TCP keepalive")?;
    let id = DmabufId::new(binding.id().get());
    let mut sender = DevmemSender::new(socket, id, memory.len()).context("SO_ZEROCOPY")?;
    let config = PumpConfig {
        chunk: client.chunk.map(|chunk| u64::from(chunk.get())),
        deadline: COMPLETION,
        ..PumpConfig::default()
    };
    let sent = pump(&mut sender, &mapping, &mut input, &config);
    let stats = sender.stats();
    say(&format!(
        "sent={} sends={} completed={} copied={} max_in_flight={}",
        stats.bytes, stats.sends, stats.completed, stats.copied, stats.max_in_flight
    ));
    sent.with_context(|| format!("sending to {server}, at byte {}", stats.bytes))?;
    say("tx ok");
    Ok(())
}
