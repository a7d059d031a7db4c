//! Receives one TCP connection into device memory and checks every byte of it. Ctrl-C ends it.
//!
//! `receiver eth1 3 192.0.2.2:5000` (NIC, queue, where to listen); `devmem-tcp send 192.0.2.2:5000`
//! on another machine sends what is expected.
use anyhow::{Result, bail};
use receiver::devmem::{pattern::Pattern, sink::Validate};
use receiver::{End, Receiver, StopHandle, Udmabuf};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    // The same program, started a second time, restores the NIC if this process is killed.
    if let Some(code) = receiver::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &args[..] else {
        bail!("usage: receiver IF QUEUE ADDR:PORT");
    };
    let stop = StopHandle::new();
    let (mut signals, stopped) = (Signals::new([SIGINT, SIGTERM])?, stop.clone());
    std::thread::spawn(move || signals.forever().for_each(|_| stopped.stop()));
    let receiver = Receiver::on(device)
        .queue(queue.parse()?)
        .memory(Udmabuf::builder(16 << 20).build()?)
        .listen(address.parse()?)
        .stopped_by(&stop)
        .set_up()?;
    let memory = receiver.memory()?;
    let open = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
    for connection in receiver.run(open).into_result()?.connections {
        let (stats, peer) = (connection.stats, connection.peer.address);
        eprintln!("{} bytes, {} frags from {peer}", stats.bytes, stats.frags);
        if let End::Failed(error) = connection.end {
            return Err(error.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}
