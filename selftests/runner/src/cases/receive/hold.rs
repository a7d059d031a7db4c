//! A receiver that holds its tokens until the NIC has no memory left to receive into.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use devmem::listen::{SocketOptions, listen, recv_buffer_for};
use devmem::pattern::{Pattern, Validator};
use devmem::{DevmemStream, RecvBuffer, RecvError, Segment, Token};
use dmabuf::{Access, Dmabuf, Mapping, Protection};
use netdev::ethtool::{Action, FlowRule};
use netdev::queues::{BindOptions, Scope};
use netdev::{NetNs, Netdev, QueueId};
use nic::Plan;

use framework::command_line::Sender;
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;
const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

/// Returns the number of frames for which the NIC had no buffer.
fn frames_without_buffer() -> Result<u64> {
    let stats = Netdev::open()?.qstats(Some(ifindex(NIC)?), Scope::Device)?;
    let device = stats.first().context("no qstats")?;
    device.counters.rx_alloc_fail.context("no rx-alloc-fail")
}

case!(pool_exhausted_and_refilled, on any_memory);
/// Holds every token until the pool of 256 niovs is exhausted, then returns them. Not a byte may be
/// lost.
fn pool_exhausted_and_refilled() -> Result<()> {
    run_holding(receive_until_exhausted)
}

case!(frags_back_while_it_sleeps);
/// Keeps all tokens in another thread, which returns them while the receiver sleeps in a blocking
/// `recvmsg`. The rest of the stream must then arrive.
fn frags_back_while_it_sleeps() -> Result<()> {
    run_holding(receive_while_kept)
}

/// Receives 16 MiB through 1 MiB of memory with the given function.
fn run_holding(
    receive: fn(DevmemStream<std::net::TcpStream>, &Mapping) -> Result<()>,
) -> Result<()> {
    testbed::wire()?;
    let memory = framework::memory::make(MIB)?;
    let mapping = memory.map(Protection::Read)?;
    let address: SocketAddr = format!("{NIC_ADDRESS}:5000").parse()?;
    let nic = ifindex(NIC)?;
    let applied = Plan::new(NIC, nic)
        .header_split()
        .reserve(&[LAST])
        .steer(FlowRule::tcp_to(address, Action::Drop), &[LAST])
        .apply(&NetNs::current()?)?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[LAST], BindOptions::default())?;
    // Less than the pool: what came out of order must not be able to take all of it.
    let recv_buffer = recv_buffer_for(MIB, 1);
    let options = SocketOptions {
        recv_buffer,
        ..SocketOptions::default()
    };
    let listener = listen(address, &options)?;
    let sender = Sender::to(address).bytes("16M").start()?;
    let (socket, _) = listener.accept()?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;

    let received = receive(DevmemStream::new(socket), &mapping);
    binding.unbind();
    applied.restore()?;
    received?;
    sender.end_within(Duration::from_secs(20))?.good("send")?;
    Ok(())
}

/// Receives in a blocking loop, and hands every token to a thread that keeps them until the NIC has
/// run out of buffers.
fn receive_while_kept(
    mut stream: DevmemStream<std::net::TcpStream>,
    mapping: &Mapping,
) -> Result<()> {
    let mut buffer = RecvBuffer::new();
    let mut validator = Validator::new(Pattern::default());
    // Hangs fail by the case's deadline; a time-out would hide one.
    stream.socket().set_read_timeout(None)?;
    let handle = stream.return_handle();
    let (keep, kept) = std::sync::mpsc::channel::<Vec<Token>>();
    let keeper = std::thread::spawn(move || -> Result<usize> {
        let mut waited = Vec::new();
        while frames_without_buffer()? == 0 {
            while let Ok(tokens) = kept.recv_timeout(Duration::from_millis(10)) {
                waited.extend(tokens);
            }
        }
        // The receiver sleeps by now.
        std::thread::sleep(Duration::from_millis(200));
        waited.extend(kept.try_iter().flatten());
        let count = waited.len();
        handle.give_back_all(waited);
        kept.into_iter()
            .for_each(|tokens| handle.give_back_all(tokens));
        Ok(count)
    });
    loop {
        let mut received = stream.recv(&mut buffer)?;
        if received.is_end() {
            break;
        }
        let access = mapping.begin_access(Access::Read)?;
        let mut tokens = Vec::new();
        for segment in received.by_ref() {
            match segment {
                Segment::Inline(bytes) => bail!("{} bytes beside the dmabuf", bytes.len()),
                Segment::Frag(frag) => {
                    validator.check_dmabuf(&access, frag.offset, frag.len as usize)?;
                    tokens.push(frag.token);
                }
            }
        }
        access.end()?;
        drop(received);
        keep.send(tokens).context("the keeper is gone")?;
    }
    drop(keep);
    let waited = keeper
        .join()
        .map_err(|_| anyhow!("the keeper panicked"))??;
    println_line(&format!("{waited} tokens were kept while it slept"));
    ensure!(waited > 32, "the pool was empty with so few tokens held");
    check_whole(stream, &validator)
}

/// Receives, and holds every token until the NIC has run out of buffers; from then on returns them
/// at once.
fn receive_until_exhausted(
    mut stream: DevmemStream<std::net::TcpStream>,
    mapping: &Mapping,
) -> Result<()> {
    let mut buffer = RecvBuffer::new();
    let mut validator = Validator::new(Pattern::default());
    let mut held = Some(Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        ensure!(
            Instant::now() < deadline,
            "stalled at {}",
            validator.offset()
        );
        if let Some(tokens) = held.take_if(|_| frames_without_buffer().is_ok_and(|count| count > 0))
        {
            println_line(&format!(
                "{} tokens held, {} frames dropped",
                tokens.len(),
                frames_without_buffer()?
            ));
            ensure!(
                tokens.len() > 32,
                "the pool was empty with so few tokens held"
            );
            give_back(&mut stream, tokens);
            stream.flush()?;
        }
        let mut received = match stream.recv(&mut buffer) {
            Ok(received) => received,
            Err(RecvError::WouldBlock) => continue,
            Err(error) => return Err(error.into()),
        };
        if received.is_end() {
            break;
        }
        let access = mapping.begin_access(Access::Read)?;
        while let Some(segment) = received.next() {
            match segment {
                Segment::Inline(bytes) => bail!("{} bytes beside the dmabuf", bytes.len()),
                Segment::Frag(frag) => {
                    validator.check_dmabuf(&access, frag.offset, frag.len as usize)?;
                    match &mut held {
                        Some(tokens) => tokens.push(frag.token),
                        None => received.give_back(frag.token),
                    }
                }
            }
        }
        access.end()?;
    }
    ensure!(held.is_none(), "the pool was never empty");
    check_whole(stream, &validator)
}

/// Checks that all 16 MiB were right and that every token went back.
fn check_whole(stream: DevmemStream<std::net::TcpStream>, validator: &Validator) -> Result<()> {
    ensure!(
        validator.offset() == 16 * MIB,
        "{} bytes",
        validator.offset()
    );
    let stats = stream.close()?;
    ensure!(stats.tokens.outstanding() == 0, "{:?}", stats.tokens);
    Ok(())
}

fn give_back(stream: &mut DevmemStream<std::net::TcpStream>, tokens: Vec<Token>) {
    for token in tokens {
        stream.give_back(token);
    }
}
