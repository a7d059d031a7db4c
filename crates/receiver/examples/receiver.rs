//! Receives one TCP connection into device memory and checks every byte of it.
//!
//! `receiver eth1 3 192.0.2.2:5000` (NIC, queue, where to listen); `devmem-tcp send 192.0.2.2:5000`
//! on another machine sends what is expected.

use std::process::ExitCode;

use anyhow::{Result, bail};
use devmem::engine::End;
use devmem::pattern::Pattern;
use devmem::sink::Validate;
use receiver::Receiver;
use udmabuf::Udmabuf;

fn main() -> Result<ExitCode> {
    // The same program, started a second time, restores the NIC if this process is killed.
    if let Some(code) = receiver::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &args[..] else {
        bail!("usage: receiver IF QUEUE ADDR:PORT");
    };
    let receiver = Receiver::on(device)
        .queue(queue.parse()?)
        .memory(Udmabuf::builder(16 << 20).build()?)
        .listen(address.parse()?)
        .set_up()?;
    let memory = receiver.memory()?;
    let open = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
    let report = receiver.run(open).into_result()?;
    for connection in report.connections {
        let (stats, peer) = (connection.stats, connection.peer.address);
        eprintln!("{} bytes, {} frags from {peer}", stats.bytes, stats.frags);
        if let End::Failed(error) = connection.end {
            return Err(error.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}
