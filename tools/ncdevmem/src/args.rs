//! The command line: upstream's, of Linux 7.2 and 7.3, made into one of three modes.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;

use clap::Parser;
use netdev::Ifindex;

/// Usage text for `--help`, in which all modes share one set of options.
const USAGE: &str = "\
ncdevmem -f IF [-t QUEUE -q N] [-b BYTES]                         probe
       ncdevmem -f IF -l -s ADDR -p PORT [-c ADDR] [-v N] [-L] [-t QUEUE -q N] [-n] [-b BYTES]
       ncdevmem -f IF -s ADDR -p PORT [-c ADDR] [-z BYTES]               send standard input";

/// Netcat over device memory: receives TCP payload in a dmabuf and writes it to standard output, or
/// validates it; sends standard input from one; without an address, probes what a device can.
#[derive(Debug, Parser)]
#[command(version, override_usage = USAGE, args_override_self = true)]
pub(crate) struct Args {
    /// Fail on payload that is not in the dmabuf
    #[arg(short = 'L')]
    fail_on_linear: bool,
    /// Listen: receive
    #[arg(short = 'l')]
    listen: bool,
    /// The server's address
    #[arg(short = 's', value_name = "ADDR")]
    server: Option<IpAddr>,
    /// The client's address: flows from elsewhere are not steered; what the client connects from
    #[arg(short = 'c', value_name = "ADDR")]
    client: Option<IpAddr>,
    /// The port, of both ends where -c is given
    #[arg(short = 'p', value_name = "PORT", value_parser = port)]
    port: Option<u16>,
    /// Validate: the bytes 1, 2, ..., N-1, newline, over and over (0: don't)
    #[arg(short = 'v', value_name = "N", value_parser = number)]
    validation: Option<u32>,
    /// How many rx queues are bound
    #[arg(short = 'q', value_name = "N", value_parser = number)]
    num_queues: Option<u32>,
    /// The first of them
    #[arg(short = 't', value_name = "QUEUE", value_parser = number)]
    start_queue: Option<u32>,
    /// The device
    #[arg(short = 'f', value_name = "IF")]
    ifname: Option<String>,
    /// Send in chunks of so many bytes (0: whole)
    #[arg(short = 'z', value_name = "BYTES", value_parser = number)]
    chunk: Option<u32>,
    /// Leave header split, RSS and flow rules as they are
    #[arg(short = 'n')]
    skip_config: bool,
    /// Bytes of the pieces that the NIC fills, decimal, 0x or octal (Linux 7.3; 0: a page)
    #[arg(short = 'b', value_name = "BYTES", value_parser = bytes)]
    rx_page_size: Option<u32>,
    /// Arguments without a meaning, of which upstream warns before it continues
    #[arg(hide = true)]
    extra: Vec<String>,
}

/// A job from the command line: the mode, and the device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) ifname: String,
    pub(crate) mode: Mode,
    /// Arguments without a meaning, which are reported and ignored.
    pub(crate) extra: Vec<String>,
}

/// Mode of a run: probe, server or client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Probe(Probe),
    Server(Server),
    Client(Client),
}

/// Options of the probe, which tests whether the device can receive into device memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) queues: Option<Queues>,
    pub(crate) rx_page_size: Option<NonZeroU32>,
}

/// Options of the server, which receives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) client: Option<IpAddr>,
    pub(crate) queues: Option<Queues>,
    pub(crate) rx_page_size: Option<NonZeroU32>,
    pub(crate) validation: Option<NonZeroU32>,
    pub(crate) fail_on_linear: bool,
    pub(crate) skip_config: bool,
}

/// Options of the client, which sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) server: Address,
    pub(crate) source: Option<Address>,
    pub(crate) chunk: Option<NonZeroU32>,
}

/// The rx queues that `-t` and `-q` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) start: u32,
    pub(crate) count: NonZeroU32,
}

/// Address and port; an IPv4 address mapped into IPv6 becomes an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

impl Address {
    fn new(ip: IpAddr, port: u16) -> Self {
        let ip = ip.to_canonical();
        Self { ip, port }
    }

    /// Returns the socket address; a link-local address gets the device as its scope.
    pub(crate) fn on(self, device: Ifindex) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, self.port, 0, device.get()).into()
            }
            ip => SocketAddr::new(ip, self.port),
        }
    }
}

/// Error of a command line that is no valid job.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("Missing {0} argument")]
    Missing(&'static str),
    #[error("Both -t and -q are required")]
    BothQueues,
    #[error("-q 0: no queue to bind")]
    NoQueue,
    #[error("-s {0} and -c {1} are of different families")]
    Families(IpAddr, IpAddr),
    #[error("-n: the probe switches header split off and on, and RSS away from the queues")]
    ProbeConfigures,
}

impl Args {
    /// Converts the arguments into a job.
    ///
    /// As upstream's: without an address it is the probe, and -l with an address the server.
    pub(crate) fn job(self) -> Result<Job, UsageError> {
        let ifname = self.ifname.clone().ok_or(UsageError::Missing("-f"))?;
        let mode = match (self.server, self.client) {
            (None, None) => Mode::Probe(self.probe()?),
            (None, Some(_)) => return Err(UsageError::Missing("-s")),
            (Some(server), client) => self.connected(server, client)?,
        };
        Ok(Job {
            ifname,
            mode,
            extra: self.extra,
        })
    }

    fn probe(&self) -> Result<Probe, UsageError> {
        if self.skip_config {
            return Err(UsageError::ProbeConfigures);
        }
        Ok(Probe {
            queues: self.queues()?,
            rx_page_size: self.rx_page_size.and_then(NonZeroU32::new),
        })
    }

    fn connected(&self, server: IpAddr, client: Option<IpAddr>) -> Result<Mode, UsageError> {
        let port = self.port.ok_or(UsageError::Missing("-p"))?;
        let address = Address::new(server, port);
        let client = client.map(|client| client.to_canonical());
        if let Some(client) = client.filter(|client| client.is_ipv4() != address.ip.is_ipv4()) {
            return Err(UsageError::Families(server, client));
        }
        Ok(if self.listen {
            Mode::Server(Server {
                address,
                client,
                queues: self.queues()?,
                rx_page_size: self.rx_page_size.and_then(NonZeroU32::new),
                validation: self.validation.and_then(NonZeroU32::new),
                fail_on_linear: self.fail_on_linear,
                skip_config: self.skip_config,
            })
        } else {
            Mode::Client(Client {
                server: address,
                source: client.map(|client| Address::new(client, port)),
                chunk: self.chunk.and_then(NonZeroU32::new),
            })
        })
    }

    fn queues(&self) -> Result<Option<Queues>, UsageError> {
        match (self.start_queue, self.num_queues) {
            (None, None) => Ok(None),
            (Some(start), Some(count)) => {
                let count = NonZeroU32::new(count).ok_or(UsageError::NoQueue)?;
                Ok(Some(Queues { start, count }))
            }
            _ => Err(UsageError::BothQueues),
        }
    }
}

/// Parses a count: decimal as with `atoi`, but the whole text must be the number.
fn number(text: &str) -> Result<u32, String> {
    let number: u32 = text
        .trim()
        .parse()
        .map_err(|_| "not a number from 0 on".to_owned())?;
    // The kernel's and upstream's are signed.
    if i32::try_from(number).is_ok() {
        Ok(number)
    } else {
        Err("too large".to_owned())
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err("not a port from 1 to 65535".to_owned()),
    }
}

/// Parses a number of bytes as `strtoul` with base 0 does: `0x` is hexadecimal, a leading 0 octal.
fn bytes(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // Else a sign would pass for a digit.
    if digits.starts_with(['+', '-']) {
        return Err("not a number of bytes".to_owned());
    }
    u32::from_str_radix(digits, radix)
        .map_err(|_| "not a number of bytes, decimal, 0x or octal, below 4 GiB".to_owned())
}

#[cfg(test)]
mod tests;
