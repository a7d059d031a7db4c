//! Receives eight TCP connections over two queues, each served by a thread of its own.
//!
//! ```text
//! two_queues eth1 2 3 192.0.2.2:5000      # the NIC, its queues, where to listen
//! devmem-tcp send 192.0.2.2:5000          # on another machine, eight times
//! ```

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use receiver::devmem::pattern::Pattern;
use receiver::devmem::sink::Validate;
use receiver::{End, Receiver, Udmabuf};

/// Length in bytes of the device memory, for both queues.
const SIZE: u64 = 16 << 20;
/// Number of connections to wait for.
const PEERS: u32 = 8;

fn main() -> Result<ExitCode> {
    // The same program, started a second time, restores the NIC if this process is killed.
    if let Some(code) = receiver::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, first, second, address] = &args[..] else {
        bail!("usage: two_queues IF QUEUE QUEUE ADDR:PORT");
    };
    // An RSS context spreads the flows over the two queues, which receive into one dmabuf. A
    // connection is served by the thread of the queue that its first packet came through.
    let receiver = Receiver::on(device)
        .queues([first.parse()?, second.parse()?])
        .memory(Udmabuf::builder(SIZE).build()?)
        .listen(address.parse()?)
        .connections(PEERS)
        .thread_per_queue()
        .set_up()?;
    let memory = receiver.memory()?;
    let open = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
    let report = receiver.run(open).into_result()?;
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
