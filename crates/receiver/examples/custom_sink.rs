//! A sink that a program implements itself: it keeps the frags of one TCP connection and hands them
//! to another thread, which works on them in place and gives them back when it is done.
//!
//! ```text
//! custom_sink eth1 3 192.0.2.2:5000       # the NIC, its queue, where to listen
//! devmem-tcp send 192.0.2.2:5000          # on another machine
//! ```

use std::process::ExitCode;
use std::sync::mpsc::{self, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use receiver::devmem::pattern::{Pattern, Validator};
use receiver::devmem::sink::{Sink, SinkError};
use receiver::devmem::{Frag, Received, ReturnHandle, Segment};
use receiver::dmabuf::{Access, Dmabuf, Mapping, Protection};
use receiver::{End, Peer, Receiver, Udmabuf};

/// Length of the device memory in bytes.
const SIZE: u64 = 16 << 20;

/// A segment of the stream on its way to the checking thread.
enum Part {
    Bytes(Vec<u8>),
    Frag(Frag),
}

/// Segments that one `recvmsg` returned, and the handle that gives their frags back.
type Batch = (Vec<Part>, ReturnHandle);

/// Sink that hands all segments to the checking thread. The engine stops reading a connection whose
/// sink keeps too many frags ([`Config::keep`](receiver::devmem::engine::Config::keep)), so that a slow
/// thread slows its own peer down, and no other.
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

/// Main function of the checking thread: compares every byte, where it lies, with the pattern.
fn check_payload(mapping: &Mapping, batches: &mpsc::Receiver<Batch>) -> Result<u64> {
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
    // The same program, started a second time, restores the NIC if this process is killed.
    if let Some(code) = receiver::guardian() {
        return Ok(code);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &args[..] else {
        bail!("usage: custom_sink IF QUEUE ADDR:PORT");
    };
    let memory = Udmabuf::builder(SIZE).build()?;
    let mapping = memory.map(Protection::Read)?;
    let receiver = Receiver::on(device)
        .queue(queue.parse()?)
        .memory(memory)
        .listen(address.parse()?)
        // A worker that fails gives nothing back: then the connection is to end, too.
        .config(|config| config.stalled = Some(Duration::from_secs(3)))
        .set_up()?;

    let (to, batches) = channel();
    let worker = thread::spawn(move || check_payload(&mapping, &batches));
    let sink = move |_: &Peer| Ok(HandOver(to.clone()));
    let report = receiver.run(sink).into_result()?;
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
