//! Measures latency: round trips of 64 bytes over a devmem connection, with gathering and without.
//!
//! The receiver is the library's engine as the tool configures it, with a sink that writes what it
//! reads to the same connection. It asks for one message after the other.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devmem::Received;
use devmem::engine::{Config, End, Engine, Peer};
use devmem::listen::{SocketOptions, connect, listen, recv_buffer_for};
use devmem::sink::{Memory, Sink, SinkError};
use dmabuf::{Dmabuf, Protection};
use netdev::queues::BindOptions;
use netdev::{NetNs, Netdev, QueueId};
use nix::sys::socket::{SockaddrStorage, getpeername};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use udmabuf::{HugePage, Udmabuf};

use super::MIB;
use super::sweep::Point;
use super::testbench::{Side, Testbench, last_queues, pin, receiver_place};
use framework::ifindex;
use framework::testbed::{NIC, PEER, SENDER_ADDRESS};

/// Length of an echoed message in bytes.
const MESSAGE: usize = 64;
/// Number of messages before the timed ones.
const WARM_UP: usize = 100;
/// Number of messages whose round trip is timed.
const MESSAGES: usize = 1000;
/// First of 1,000 source ports that the echo's connections use.
const FIRST_PORT: u16 = 9000;
/// Time limit for the echo server to listen, and to answer.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);

/// Round-trip times of the messages of one connection, in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Echo {
    /// Whether the engine waits for more payload before it wakes (`SO_RCVLOWAT`).
    pub(crate) gathers: bool,
    pub(crate) round: u32,
    pub(crate) messages: usize,
    /// Median round-trip time in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Measures the round-trip time of 64-byte messages to the receiver and back, on one connection.
pub(super) fn measure(
    testbench: &mut Testbench,
    gathers: bool,
    round: u32,
    nth: u16,
) -> Result<Echo> {
    testbench.set_coalescing(true)?;
    let place = receiver_place(&Point::default())?;
    testbench.wait_until_free(&place)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["echo", &place.listen.to_string()]);
    if !gathers {
        command.arg("--no-gather");
    }
    let mut server = command.stdin(Stdio::null()).spawn().context("the echo")?;
    let ask = || -> Result<Vec<Duration>> {
        pin(Pid::from_raw(0), Side::Sender)?;
        ask(place.listen, FIRST_PORT + nth % 1000)
    };
    let times = NetNs::by_name(PEER)?.run(ask)?;
    if times.is_err() {
        server.kill()?;
    }
    let status = server.wait()?;
    let mut times = times?;
    ensure!(status.success(), "the echo: {status}");
    times.sort_unstable();
    let quantile = |parts: usize| -> f64 {
        let at = (times.len() * parts).div_ceil(1000).max(1) - 1;
        times.get(at).map_or(0.0, |it| it.as_secs_f64() * 1e6)
    };
    Ok(Echo {
        gathers,
        round,
        messages: times.len(),
        p50: quantile(500),
        p99: quantile(990),
        max: quantile(1000),
    })
}

/// Sends messages one at a time, each after the answer to the last, and returns the round-trip
/// times.
fn ask(to: SocketAddr, port: u16) -> Result<Vec<Duration>> {
    let options = SocketOptions {
        source: Some(SocketAddr::new(SENDER_ADDRESS.parse()?, port)),
        ..SocketOptions::default()
    };
    let end = Instant::now() + LISTEN_LIMIT;
    let mut socket = loop {
        match connect(to, &options, Duration::from_secs(5)) {
            Ok(socket) => break socket,
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LISTEN_LIMIT))?;
    let mut times = Vec::with_capacity(MESSAGES);
    for number in 0..WARM_UP + MESSAGES {
        let message = [u8::try_from(number % 251)?; MESSAGE];
        let mut answer = [0; MESSAGE];
        let begin = Instant::now();
        socket.write_all(&message).context("asking")?;
        socket.read_exact(&mut answer).context("its answer")?;
        let took = begin.elapsed();
        ensure!(answer == message, "message {number}: another answer");
        if number >= WARM_UP {
            times.push(took);
        }
    }
    Ok(times)
}

/// Runs the echo server, a devmem receiver, for one connection.
pub(super) fn serve_echo(at: SocketAddr, gathers: bool) -> Result<()> {
    let size = Point::default().pool * MIB;
    let queues: Vec<QueueId> = last_queues(1).into_iter().map(QueueId::new).collect();
    let memory = Udmabuf::builder(size).hugepages(HugePage::None).build()?;
    let binding =
        Netdev::open()?.bind_rx(ifindex(NIC)?, &memory, &queues, BindOptions::default())?;
    let mapping = Arc::new(memory.map(Protection::Read).context("mapping")?);
    let mapped = Memory::new().with(binding.id().get().into(), mapping);
    let options = SocketOptions {
        recv_buffer: recv_buffer_for(size, 1),
        ..SocketOptions::default()
    };
    let mut config = Config::for_pool(size, 1);
    if !gathers {
        config.gather = 0;
    }
    let sink = move |peer: &Peer| {
        Ok(EchoSink {
            memory: mapped.clone(),
            peer: peer.address,
            socket: None,
            message: Vec::new(),
        })
    };
    let report = Engine::new(listen(at, &options)?, config, sink)?.run()?;
    binding.unbind();
    for ended in report.connections {
        if let End::Failed(error) = ended.end {
            return Err(error.into());
        }
    }
    Ok(())
}

/// A sink that writes the received payload back to its connection.
struct EchoSink {
    memory: Memory,
    peer: SocketAddr,
    /// A duplicate of the connection's file descriptor, made at the first message.
    socket: Option<TcpStream>,
    message: Vec<u8>,
}

impl Sink for EchoSink {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let Self {
            memory, message, ..
        } = self;
        message.clear();
        memory.read_all(received, |part| {
            part.read_with(|bytes| message.extend_from_slice(bytes))
        })?;
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connection_to(self.peer).map_err(SinkError::Write)?,
        };
        let socket = self.socket.insert(socket);
        socket.write_all(&self.message).map_err(SinkError::Write)
    }
}

/// Duplicates the file descriptor of this process's connection to a peer.
fn connection_to(peer: SocketAddr) -> std::io::Result<TcpStream> {
    let is_it = |fd: i32| {
        let address = getpeername::<SockaddrStorage>(fd);
        address.is_ok_and(|it| {
            let v4 = it.as_sockaddr_in().map(|it| SocketAddr::from(*it));
            v4 == Some(peer)
        })
    };
    for entry in fs::read_dir("/proc/self/fd")? {
        let fd = entry?.file_name().to_string_lossy().parse().unwrap_or(-1);
        if is_it(fd) {
            let socket = TcpStream::from(sys::duplicate(fd)?);
            socket.set_nodelay(true)?;
            return Ok(socket);
        }
    }
    Err(std::io::ErrorKind::NotConnected.into())
}

#[allow(unsafe_code)]
mod sys {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

    pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor was found in /proc/self/fd as a connected socket. Only the engine
        // closes it, which runs in this thread, and waits for the sink that asks.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fd.try_clone_to_owned()
    }
}
