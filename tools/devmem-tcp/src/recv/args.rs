//! Options of `devmem-tcp recv`.

use std::time::Duration;

use ::memory::AnyMemory;
use devmem::engine::{Config, Keepalive};
use netdev::{NetNs, QueueId};
use receiver::{Builder, Receiver};

use super::connections::Connections;
use super::memory::MemoryArgs;
use super::sinks::SinkArgs;
use crate::address::Address;
use crate::args::{NetNsArg, Size};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device, a NIC or a netkit that leases one's queue
    #[arg(long, short = 'f', value_name = "IF")]
    pub(super) dev: String,
    /// The namespace of device and listener: a name, a path, or pid:PID
    #[arg(long, value_name = "NETNS")]
    pub(super) netns: Option<NetNsArg>,
    /// The rx queue of the device; may be given again [default: a NIC's last, all of a netkit's
    /// leased ones]
    #[arg(long = "queue", value_name = "N")]
    pub(super) queues: Vec<QueueId>,
    /// Where to listen: ADDR:PORT, an IPv6 address in brackets, a link-local one with its device if
    /// that is another one ([fe80::1%eth1]:5000); :: takes IPv4, too; may be given again
    #[arg(long, short, value_name = "ADDR:PORT", required = true)]
    pub(super) listen: Vec<Address>,
    /// Only connections from this address: others are reset, counted and named
    #[arg(long, value_name = "ADDR")]
    pub(super) from: Option<std::net::IpAddr>,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
    /// Give each queue a dmabuf of its own, instead of one to all
    #[arg(long)]
    pub(super) dmabuf_per_queue: bool,
    #[command(flatten)]
    pub(super) threads: ThreadArgs,
    /// Size of the pieces that the NIC fills (Linux 7.3; more than 4K wants larger pages)
    #[arg(long, value_name = "SIZE", value_parser = rx_page_size)]
    pub(super) rx_page_size: Option<u32>,
    #[command(flatten)]
    pub(super) sinks: SinkArgs,
    /// End when so many peers have closed. `unlimited` serves until SIGINT or SIGTERM, which is then a good
    /// end (exit code 0), and prints a line when a connection ends
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        overrides_with = "connections"
    )]
    pub(super) connections: Connections,
    /// Keep at most this many connections open at a time, and let others wait [default: N of
    /// `--connections`, 64 of unlimited ones]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_a_time: Option<u32>,
    /// End a connection that has brought nothing for this many seconds (exit code 6) [default: never;
    /// 0: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) idle_timeout: Option<Duration>,
    /// Ask a peer that has been silent for this many seconds whether it is still there, and end its
    /// connection after about as long again without an answer (exit code 6); 0 never asks
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    pub(super) keepalive: Duration,
    /// Leave header split, RSS and flow rules as they are
    #[arg(long)]
    pub(super) no_config: bool,
    /// Receive nothing and change nothing; say what would change on the NIC
    #[arg(long, conflicts_with = "no_config")]
    pub(super) dry_run: bool,
    /// Fail on payload that the NIC did not split from its headers
    #[arg(long)]
    pub(super) refuse_linear: bool,
    /// Fail on payload that was not steered to a bound queue
    #[arg(long)]
    pub(super) refuse_unsteered: bool,
    /// Show each second how it goes: in place on a terminal, else a line; with --json as JSON
    /// [default: one line in place, if stderr is a terminal]
    #[arg(long)]
    pub(super) live: bool,
    /// As `--live`, but a line each on stderr, as earlier versions had it
    #[arg(long, hide = true, conflicts_with = "live")]
    pub(super) progress: bool,
    /// Say nothing on standard error but warnings and errors
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args)]
pub(super) struct ThreadArgs {
    /// Serve the connections of each queue on a thread of its own
    #[arg(long)]
    pub(super) thread_per_queue: bool,
    /// Keep the threads to these processors, in this order
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    pub(super) pin: Vec<usize>,
    /// Poll the NIC for so many microseconds before each sleep (Linux 6.9)
    #[arg(long, value_name = "USEC")]
    pub(super) busy_poll: Option<u32>,
    /// Let payload of a busy connection wait this many milliseconds for more, four times as many where it
    /// comes steadily: fewer wake-ups; 0 lets none wait
    #[arg(long, value_name = "MS", default_value_t = 2)]
    pub(super) patience: u32,
}

/// Parses the argument of `--rx-page-size`: a power of two in bytes, at least a page
/// (`net_devmem_bind_dmabuf`). Which of these sizes a NIC accepts depends on its driver.
fn rx_page_size(text: &str) -> Result<u32, String> {
    const MOST: u64 = 1 << 31;
    let Size(bytes) = text.parse()?;
    let page = devmem::engine::page_size();
    if !bytes.is_power_of_two() || !(page..=MOST).contains(&bytes) {
        let sizes: Vec<String> = (0..4).map(|shift| Size(page << shift).flag()).collect();
        return Err(format!(
            "{text:?} is none of {}, and so on by powers of two: which of them the NIC takes, its driver says",
            sizes.join(", ")
        ));
    }
    u32::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}

/// Parses a number of seconds, which may have a fraction and may be 0.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Args {
    /// Builder of the receiver that the options ask for. Addresses and memory are added later.
    pub(super) fn builder(&self, netns: &NetNs) -> Builder<AnyMemory> {
        let mut builder = Receiver::on(&self.dev)
            .netns(netns.clone())
            .queues(self.queues.iter().copied())
            .at_a_time(self.at_a_time())
            .pin(self.threads.pin.iter().copied())
            .config(self.config());
        if let Some(from) = self.from {
            builder = builder.from(from);
        }
        if let Some(bytes) = self.rx_page_size {
            builder = builder.rx_page_size(bytes);
        }
        builder = match self.connections {
            Connections::Limited(number) => builder.connections(number),
            Connections::Unlimited => builder.until_stopped(),
        };
        if self.threads.thread_per_queue {
            builder = builder.thread_per_queue();
        }
        match self.no_config {
            true => builder.leave_nic(),
            false => builder,
        }
    }

    /// Returns a closure that sets the engine's options for connections, for example timeouts.
    fn config(&self) -> impl FnOnce(&mut Config) + Send + use<> {
        let keepalive = (!self.keepalive.is_zero()).then(|| Keepalive::after(self.keepalive));
        let idle_timeout = self.idle_timeout.filter(|limit| !limit.is_zero());
        let (refuse_unsteered, refuse_linear) = (self.refuse_unsteered, self.refuse_linear);
        let patience = Duration::from_millis(self.threads.patience.into());
        let busy_poll = self.threads.busy_poll;
        let busy_poll = busy_poll.map(|time| Duration::from_micros(time.into()));
        move |config| {
            config.keepalive = keepalive;
            config.idle_timeout = idle_timeout;
            config.refuse_unsteered = refuse_unsteered;
            config.refuse_linear = refuse_linear;
            config.patience = patience;
            config.busy_poll = busy_poll;
        }
    }

    /// Number of connections that may be open at the same time.
    pub(super) fn at_a_time(&self) -> u32 {
        const OF_UNLIMITED: u32 = 64;
        self.at_a_time.unwrap_or(match self.connections {
            Connections::Limited(number) => number,
            Connections::Unlimited => OF_UNLIMITED,
        })
    }

    /// Size of a niov in bytes: the argument of `--rx-page-size`, or the system's page size.
    pub(super) fn niov(&self) -> u64 {
        match self.rx_page_size {
            Some(bytes) => bytes.max(1).into(),
            None => devmem::engine::page_size(),
        }
    }
}
