//! Receives tensors, each in parts over several TCP connections, whole into device memory: a device
//! gathers them, on a thread of its own, while more is received. They share a region of a few slots
//! in turn, and each is used in its slot before the slot's next one may come: here it is summed up.
//!
//! ```text
//! collective eth1 3 192.0.2.2:5000 --tensors 12 --bytes 1048576 --connections 4 --slots 3
//! ```
//!
//! [`frame`] is what peers send. They send tensors in order; who is ahead waits, and TCP tells him so.

mod frame;
mod gather;
mod ring;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use devmem::engine::{End, Peer};
use devmem::sink::SinkError;
use memory::{AnyMemory, Choice};
use netdev::QueueId;
use payload::Device;
use receiver::Receiver;

use frame::HEADER;
use gather::{Counts, Gatherer, HandOver, Shared};
use ring::{Ring, Shape};

/// Length in bytes of the device memory that the NIC writes to.
const SIZE: u64 = 32 << 20;

/// Receives tensors into device memory.
#[derive(Parser)]
struct Args {
    /// The NIC to receive on
    device: String,
    /// Rx queue of the NIC
    queue: u32,
    /// Address to listen on
    address: SocketAddr,
    /// Number of tensors to receive
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tensors: u32,
    /// Length of each tensor in bytes
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    bytes: u64,
    /// Number of connections that the tensors come over
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Memory to receive into, as for `devmem-tcp recv --memory`
    #[arg(long, default_value_t)]
    memory: Choice,
    /// Number of tensors that the region has room for
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
}

/// Uses a complete tensor where it lies: prints its CRC-32.
fn print_checksum(device: &mut dyn Device, place: u64, shape: &Shape, tensor: u32) -> Result<()> {
    let mut sum = crc32fast::Hasher::new();
    let mut piece = [0; 65536];
    let mut done = 0;
    while done < shape.bytes {
        let now = (shape.bytes - done).min(piece.len() as u64) as usize;
        device.read(place + done, &mut piece[..now])?;
        sum.update(&piece[..now]);
        done += now as u64;
    }
    eprintln!(
        "tensor {tensor}: {done} bytes, crc32 {:08x}, slot {}",
        sum.finalize(),
        tensor % shape.slots
    );
    Ok(())
}

fn main() -> Result<ExitCode> {
    // The same program, started a second time, restores the NIC if this process is killed.
    if let Some(code) = receiver::guardian() {
        return Ok(code);
    }
    let args = Args::parse();
    let shape = Shape {
        tensors: args.tensors,
        bytes: args.bytes,
        slots: args.slots,
    };

    // The memory, and the device that reads it, with room for the slots and for a header.
    let memory = AnyMemory::make(&args.memory, Some(SIZE), None)?;
    let region = shape.bytes * u64::from(shape.slots) + HEADER as u64;
    let device = memory.device(region)?;

    let receiver = Receiver::on(&args.device)
        .queue(QueueId::new(args.queue))
        .memory(memory)
        .listen(args.address)
        .connections(args.connections)
        // A tensor that never gets whole: then nothing comes back of those that wait for its slot.
        .config(|config| config.stalled = Some(Duration::from_secs(10)))
        .set_up()?;

    // The thread that gathers, and sinks that hand over to it.
    let shared = Arc::new(Shared::default());
    let using =
        move |device: &mut dyn Device, tensor, place| print_checksum(device, place, &shape, tensor);
    let mut gatherer = Gatherer::new(device, Ring::new(shape), Arc::clone(&shared), using);
    let refused: Vec<Arc<OnceLock<String>>> =
        (0..args.connections).map(|_| Arc::default()).collect();
    refused
        .iter()
        .for_each(|refused| gatherer.add(Arc::clone(refused)));
    let (to, arrivals) = channel();
    let mut next = refused.into_iter().enumerate();
    let sink = move |_: &Peer| {
        let next = next.next();
        let (connection, refused) = next.ok_or(SinkError::Other("one peer too many".into()))?;
        Ok(HandOver {
            connection,
            to: to.clone(),
            shared: Arc::clone(&shared),
            refused,
        })
    };

    let ready = receiver.with_sinks(sink)?;
    let stop = ready.stop_handle();
    let worker = thread::spawn(move || {
        let worked = gatherer.run(&arrivals);
        if worked.is_err() {
            // The device is lost, say: nothing that comes is of use any more.
            stop.stop();
        }
        worked
    });
    let report = ready.receive().finish().into_result()?;
    let freed = report.stats.stream.tokens.freed;
    let ends = report
        .connections
        .into_iter()
        .map(|ended| (ended.peer, ended.end));
    let ends: Vec<(Peer, End)> = ends.collect(); // the sinks are gone now: the worker ends
    let worked = worker.join().map_err(|_| anyhow!("the worker panicked"))?;
    let (counts, wrong) = worked?;
    for (peer, end) in ends {
        if let End::Failed(error) = end {
            eprintln!("{}: {error}", peer.address);
        }
    }
    ensure!(wrong.is_empty(), "not all came: {}", wrong.join("; "));
    let Counts {
        batches,
        pieces,
        bytes,
        received,
        meanwhile,
        given_back,
    } = counts;
    eprintln!(
        "{bytes} bytes in {pieces} pieces, gathered in {batches} batches; {meanwhile} of {received} \
         recvmsg meanwhile; {given_back} of {freed} frags given back from there"
    );
    Ok(ExitCode::SUCCESS)
}
