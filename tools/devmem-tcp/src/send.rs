//! `devmem-tcp send`: sending from a dmabuf, or by plain TCP.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use common::Input;
use devmem::DmabufId;
use devmem::listen::{self, SocketError, SocketOptions};
use devmem::pattern::Pattern;
use devmem::send::{
    DevmemSender, PumpConfig, PumpError, SendError, pump, unacknowledged, watch_peer,
};
use dmabuf::{Dmabuf, Mapping, Protection};
use memory::{AnyMemory, Choice};
use netdev::queues::Binding;
use netdev::{Ifindex, Link, NetNs, Netdev};
use serde::Serialize;

use crate::address::Address;
use crate::args::{NetNsArg, Size, netns, period};
use crate::exit::{Disappeared, ExitReason};
use crate::remedy::Hint;
use crate::{report, room};

/// Number of bytes in one write of plain TCP.
const CHUNK: usize = 1 << 20;

/// Time by which the kernel's limit of a peer's silence exceeds `--idle-timeout`.
const KERNEL_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// Default size of a new dmabuf.
const DEFAULT_SIZE: Size = Size(16 << 20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Receiver: ADDR:PORT, an IPv6 address in brackets, a link-local one with the device to send
    /// by, if --dev names none ([fe80::1%eth1]:5000)
    to: Address,
    /// Number of bytes of the validation pattern to send
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1M",
        conflicts_with = "input"
    )]
    bytes: Size,
    /// Period of the pattern, as the receiver's --validate
    #[arg(long, value_name = "N", default_value_t = Pattern::DEFAULT_PERIOD, value_parser = period)]
    pattern: usize,
    /// Send this file instead, or standard input if it is -
    #[arg(long, value_name = "FILE")]
    input: Option<String>,
    /// Send from a dmabuf, bound to the device that --dev names; its size [default: 16M], or the
    /// least size of one that is passed
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        requires = "dev"
    )]
    dmabuf: Option<Option<Size>>,
    /// Memory of the dmabuf: udmabuf, heap:NAME, drm:/dev/dri/cardN, fd:N, or socket:PATH to
    /// connect to and be passed an fd
    #[arg(long, value_name = "MEMORY", default_value_t, requires = "dmabuf")]
    memory: Choice,
    /// The device that the packets leave by
    #[arg(long, value_name = "IF")]
    dev: Option<String>,
    /// Source address: ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    from: Option<SocketAddr>,
    /// Send from within this namespace: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetNsArg>,
    /// Seconds to wait for the receiver to listen
    #[arg(long, value_name = "S", default_value_t = 5)]
    wait: u64,
    /// Seconds without progress after which the receiver counts as silent, and sending fails; 0
    /// waits without limit, unless the receiver has vanished
    #[arg(
        long,
        value_name = "SECONDS",
        visible_alias = "deadline",
        default_value_t = 30
    )]
    idle_timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Time that the receiver may be silent; `None` is no limit.
    fn idle(&self) -> Option<Duration> {
        (self.idle_timeout > 0).then(|| Duration::from_secs(self.idle_timeout))
    }
}

#[derive(Serialize)]
struct Sent {
    bytes: u64,
    seconds: f64,
    dmabuf: Option<FromDmabuf>,
}

/// Result of sending from a dmabuf.
#[derive(Serialize)]
struct FromDmabuf {
    id: u32,
    sends: u64,
    completed: u64,
    copied: u64,
    notifications: u64,
    max_in_flight: u64,
    max_bytes_in_flight: u64,
}

impl Sent {
    fn to_text(&self, to: &Address) -> String {
        let Self { bytes, seconds, .. } = self;
        let mut text = format!("sent {bytes} bytes to {to} in {seconds:.2} s\n");
        if let Some(dmabuf) = &self.dmabuf {
            let FromDmabuf {
                id,
                sends,
                copied,
                max_in_flight,
                ..
            } = dmabuf;
            let most = Size(dmabuf.max_bytes_in_flight);
            text += &format!(
                "from dmabuf {id}: {sends} sends, {copied} copied; at most {max_in_flight} and \
                 {most} in flight\n"
            );
        }
        text
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut source: Box<dyn Read> = match args.input.as_deref() {
        Some("-") => Box::new(Input::stdin()?),
        Some(path) => Box::new(File::open(path).with_context(|| format!("send {path}"))?),
        None => {
            let pattern = Pattern::new(args.pattern).context("send --pattern")?;
            Box::new(PatternSource { pattern, offset: 0 }.take(args.bytes.0))
        }
    };
    let netns = netns(args.netns.as_ref())?;
    let memory = match args.dmabuf {
        Some(size) => Some(netns.run(|| DeviceMemory::new(size, args))??),
        None => None,
    };
    let socket = connect(args, &netns)?;
    // Later than the timeouts here, whose errors are more precise; in effect while the input has no
    // data.
    let later = args
        .idle()
        .map(|idle| idle.saturating_add(KERNEL_TIMEOUT_MARGIN));
    watch_peer(&socket, later).context("TCP keepalive")?;
    let start = Instant::now();
    let (mut socket, bytes, dmabuf) = match &memory {
        Some(memory) => from_dmabuf(args, memory, socket, &mut source)?,
        None => from_host_memory(args, socket, &mut source)?,
    };
    await_end(args, &mut socket, bytes)?;
    let seconds = start.elapsed().as_secs_f64();
    let sent = Sent {
        bytes,
        seconds,
        dmabuf,
    };
    if args.json {
        report::json(&sent)
    } else {
        report::text(&sent.to_text(&args.to))
    }
}

/// Sends the payload by plain TCP, from host memory.
fn from_host_memory(
    args: &Args,
    mut socket: TcpStream,
    source: &mut impl Read,
) -> Result<(TcpStream, u64, Option<FromDmabuf>)> {
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    socket
        .set_write_timeout(args.idle())
        .context("SO_SNDTIMEO")?;
    loop {
        let length = source.read(&mut chunk).context("send: reading the input")?;
        if length == 0 {
            return Ok((socket, bytes, None));
        }
        let mut part = chunk.get(..length).unwrap_or_default();
        while !part.is_empty() {
            match socket.write(part) {
                Ok(taken) => {
                    part = part.get(taken..).unwrap_or_default();
                    bytes += taken as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(socket_error(args, &socket, bytes, error)),
            }
        }
    }
}

/// Dmabuf and device to send from.
struct DeviceMemory {
    binding: Binding,
    mapping: Mapping,
}

impl DeviceMemory {
    fn new(size: Option<Size>, args: &Args) -> Result<Self> {
        let device = args.dev.as_deref();
        let device = device.context("send --dmabuf: --dev names the device to bind it to")?;
        let ifindex = Link::open()?.by_name(device)?.ifindex;
        let memory = make_memory(size, &args.memory)?;
        let mapping = memory
            .map(Protection::ReadWrite)
            .context("mapping the dmabuf")?;
        let binding = Netdev::open()?
            .bind_tx(ifindex, &memory)
            .map_err(|error| error.about(device.to_owned()))?;
        Ok(Self { binding, mapping })
    }
}

/// Makes the dmabuf to send from. The CPU fills it, which is not possible for a GPU's.
fn make_memory(size: Option<Size>, choice: &Choice) -> Result<AnyMemory> {
    if let Choice::Cuda(..) = choice {
        return Err(Hint::new(
            format!("send --memory {choice}: the CPU must fill the memory, and cannot reach it"),
            "take --memory of another kind",
        )
        .into());
    }
    let made = size.or((!choice.is_passed()).then_some(DEFAULT_SIZE));
    let len = made.map(|size| size.0);
    let flag = |size: Size| format!("--dmabuf={}", size.flag());
    room::check(choice, len, 1, None, "send", flag)?;
    Ok(AnyMemory::make(choice, len, None)?)
}

/// Sends the payload from a dmabuf, with many sends in flight.
fn from_dmabuf(
    args: &Args,
    memory: &DeviceMemory,
    socket: TcpStream,
    source: &mut impl Read,
) -> Result<(TcpStream, u64, Option<FromDmabuf>)> {
    let to = &args.to;
    let id = DmabufId::new(memory.binding.id().get());
    let len = memory.mapping.len();
    let mut sender = DevmemSender::new(socket, id, len as u64).context("SO_ZEROCOPY")?;
    let config = PumpConfig {
        // At least four pieces: one is filled while the others are sent.
        piece: CHUNK.min(len / 4),
        deadline: args.idle().unwrap_or(Duration::MAX),
        ..PumpConfig::default()
    };
    let pumped = pump(&mut sender, &memory.mapping, source, &config);
    let stats = sender.stats();
    let bytes = pumped.map_err(|error| {
        let silent = match &error {
            PumpError::Send(SendError::Deadline { .. }) => true,
            PumpError::Send(SendError::Io { source, .. }) => timed_out(source),
            _ => false,
        };
        let text = format!("send to {to}, after {} bytes", stats.bytes);
        match silent {
            true => silent_peer_error(format!("{text}: {:#}", Error::from(error))),
            false => Error::from(error).context(text),
        }
    })?;
    let dmabuf = FromDmabuf {
        id: id.get(),
        sends: stats.sends,
        completed: stats.completed,
        copied: stats.copied,
        notifications: stats.notifications,
        max_in_flight: stats.max_in_flight,
        max_bytes_in_flight: stats.max_bytes_in_flight,
    };
    Ok((sender.into_socket(), bytes, Some(dmabuf)))
}

/// Waits until the receiver closes, which it does when it has everything: only then the transfer is
/// known to be complete. The wait continues as long as the receiver takes bytes.
fn await_end(args: &Args, socket: &mut TcpStream, bytes: u64) -> Result<()> {
    let to = &args.to;
    socket.shutdown(Shutdown::Write).context("shutdown")?;
    let look = args.idle().map(|idle| idle.min(Duration::from_secs(1)));
    socket.set_read_timeout(look).context("SO_RCVTIMEO")?;
    let (mut left, mut since) = (u64::MAX, Instant::now());
    loop {
        let error = match socket.read(&mut [0]) {
            // A receiver may close its own direction before it has taken all.
            Ok(0) => match unacknowledged(&*socket).context("SIOCOUTQ")? {
                0 => return Ok(()),
                _ => {
                    thread::sleep(Duration::from_millis(10));
                    socket
                        .take_error()
                        .context("SO_ERROR")?
                        .unwrap_or_else(|| io::ErrorKind::WouldBlock.into())
                }
            },
            Ok(_) => bail!("send to {to}: the receiver answered with data"),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::Interrupted => continue,
            io::ErrorKind::WouldBlock => {}
            _ => return Err(socket_error(args, socket, bytes, error)),
        }
        let now = unacknowledged(&*socket).context("SIOCOUTQ")?;
        if now < left {
            (left, since) = (now, Instant::now());
        } else if args.idle().is_some_and(|idle| since.elapsed() >= idle) {
            return Err(socket_error(args, socket, bytes, error));
        }
    }
}

/// Error of the sending socket, after `bytes` bytes that the receiver took.
fn socket_error(args: &Args, socket: &TcpStream, bytes: u64, error: io::Error) -> Error {
    let text = format!("send to {}, after {bytes} bytes", args.to);
    // The timeout of `SO_SNDTIMEO` or `SO_RCVTIMEO` has passed.
    if error.kind() == io::ErrorKind::WouldBlock {
        let what = match unacknowledged(socket) {
            Ok(0) => "it has all of them, and does not close".to_owned(),
            Ok(left) => format!("{left} bytes that it did not acknowledge"),
            Err(error) => error.to_string(),
        };
        let idle = args.idle_timeout;
        return silent_peer_error(format!(
            "{text}: nothing from the receiver for {idle} s ({what})"
        ));
    }
    match timed_out(&error) {
        true => silent_peer_error(format!("{text}: {error}")),
        false => Error::from(error).context(text),
    }
}

/// Whether an error says that TCP gave up: the peer is gone (`tcp_write_err`: `ETIMEDOUT`, or the
/// error that ICMP reported), or its window stayed closed.
fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}

fn silent_peer_error(text: String) -> Error {
    let remedy = "does the receiver still read? see ss -tnoi; --idle-timeout waits longer; from a dmabuf: does the \
                  device gather? ethtool -K IF tx-scatter-gather on";
    let (what, remedy) = (ExitReason::Silent, Some(remedy.to_owned()));
    Disappeared { what, text, remedy }.into()
}

/// Connects to the receiver. While the address has no listener, tries again until the time is over.
fn connect(args: &Args, netns: &NetNs) -> Result<TcpStream> {
    let link = match &args.dev {
        Some(name) => Some(Link::open_in(netns)?.by_name(name)?),
        None => None,
    };
    let device = link.as_ref().map_or(Ifindex::new(0), |link| link.ifindex);
    let to = args.to.resolve(netns, device)?;
    let options = SocketOptions {
        // The primary name: `sock_setbindtodevice` has no room for a long alternative one.
        device: link.map(|link| link.name),
        source: args.from,
        ..SocketOptions::default()
    };
    Ok(netns.run(|| connect_with_retries(args, to, &options))??)
}

fn connect_with_retries(
    args: &Args,
    to: SocketAddr,
    options: &SocketOptions,
) -> Result<TcpStream, SocketError> {
    let (began, wait) = (Instant::now(), Duration::from_secs(args.wait));
    loop {
        // At least a moment, even with a wait of 0.
        let left = wait
            .saturating_sub(began.elapsed())
            .max(Duration::from_millis(100));
        match listen::connect(to, options, left) {
            Err(error)
                if error.raw_os_error() == Some(libc::ECONNREFUSED) && began.elapsed() < wait =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Reader of the validation pattern without end.
struct PatternSource {
    pattern: Pattern,
    offset: u64,
}

impl Read for PatternSource {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pattern.fill(self.offset, into);
        self.offset += into.len() as u64;
        Ok(into.len())
    }
}
