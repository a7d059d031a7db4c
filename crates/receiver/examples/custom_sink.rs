//! A sink of one's own: it keeps the frags of one TCP connection and hands them to another thread,
//! which works on them in place and gives them back when it is done.
//!
//! ```text
//! custom_sink eth1 3 192.0.2.2:5000       # the NIC, its queue, where to listen
//! devmem-tcp send 192.0.2.2:5000          # on another machine
//! ```

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use devmem::engine::{Config, End, Engine, Peer};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::pattern::{Pattern, Validator};
use devmem::sink::{Sink, SinkError};
use devmem::{Frag, Received, ReturnHandle, Segment};
use dmabuf::{Access, Dmabuf, Mapping, Protection};
use netdev::{Action, BindOptions, FlowRule, Link, NetNs, Netdev, QueueId};
use nic::Plan;
use udmabuf::Udmabuf;

/// Bytes of device memory.
const SIZE: u64 = 16 << 20;

/// A part of the stream on its way to the other thread.
enum Part {
    Bytes(Vec<u8>),
    Frag(Frag),
}

/// What one `recvmsg` brought, and the way back for its frags.
type Batch = (Vec<Part>, ReturnHandle);

/// Hands everything over. The engine stops reading a connection whose sink keeps too much
/// ([`Config::keep`]), so that a slow thread slows its own peer down and nobody else's.
struct HandOver(Sender<Batch>);

impl Sink for HandOver {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let way_back = received.return_handle();
        let parts = received.map(|segment| match segment {
            Segment::Inline(bytes) => Part::Bytes(bytes.to_vec()),
            Segment::Frag(frag) => Part::Frag(frag),
        });
        let sent = self.0.send((parts.collect(), way_back));
        sent.map_err(|_| SinkError::Other("the other thread has ended".into()))
    }
}

/// The other thread's work: checks every byte, where it lies.
fn work(mapping: &Mapping, batches: &Receiver<Batch>) -> Result<u64> {
    let mut validator = Validator::new(Pattern::default());
    for (parts, way_back) in batches {
        let mut done = Vec::new();
        let access = mapping.begin_access(Access::Read)?;
        for part in parts {
            match part {
                Part::Bytes(bytes) => validator.check(&bytes)?,
                Part::Frag(frag) => {
                    validator.check_dmabuf(&access, frag.offset, frag.len as usize)?;
                    done.push(frag.token);
                }
            }
        }
        // Then the NIC may write there again.
        access.end()?;
        way_back.give_back_all(done);
    }
    Ok(validator.offset())
}

fn main() -> Result<ExitCode> {
    // The same program, started anew, puts the NIC back if this process is killed.
    if let Some(code) = nic::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &args[..] else {
        bail!("usage: custom_sink IF QUEUE ADDR:PORT");
    };
    let (queue, address) = (queue.parse::<QueueId>()?, address.parse()?);
    let nic = Link::open()?.by_name(device)?.ifindex;

    // The NIC, the memory and the binding, as in the receiver example.
    let plan = Plan::new(device, nic).header_split().reserve(&[queue]);
    let flow = FlowRule::tcp_to(address, Action::Drop);
    let applied = plan.steer(flow, &[queue]).apply(&NetNs::current()?)?;
    let memory = Udmabuf::builder(SIZE).build()?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[queue], BindOptions::default())?;

    let mapping = memory.map(Protection::Read)?;
    let (to, batches) = channel();
    let worker = thread::spawn(move || work(&mapping, &batches));

    let options = SocketOptions {
        recv_buffer: recv_buffer_for(SIZE, 1),
        ..Default::default()
    };
    let config = Config {
        // A worker that fails gives nothing back: then the connection is to end, too.
        stalled: Some(Duration::from_secs(3)),
        ..Config::for_pool(SIZE, 1)
    };
    let sink = move |_: &Peer| Ok(HandOver(to.clone()));
    let engine = Engine::new(listen(address, &options)?, config, sink)?;
    let report = engine.run()?;

    // The binding first: the kernel keeps header split on while there is one.
    binding.unbind();
    applied.restore()?;
    let tokens = report.stats.stream.tokens;
    let ends = report.connections.into_iter().map(|ended| ended.end);
    let ends: Vec<End> = ends.collect(); // the sinks are gone now: the worker ends
    let worked = worker.join().map_err(|_| anyhow!("the worker panicked"))?;
    eprintln!(
        "{} bytes right; {} frags kept, {} given back",
        worked?, tokens.issued, tokens.freed
    );
    for end in ends {
        if let End::Failed(error) = end {
            return Err(error.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}
