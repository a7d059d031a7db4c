//! The engine that receives: on one thread, or on several.

use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::memory::AnyMemory;
use anyhow::{Context, Result};
use common::Output;
use common::sink::AnySink;
use devmem::engine::{
    Config, Engine, EngineError, Keepalive, Monitor, Peer, Progress, Report, StopHandle, Until,
    Worker, Workers,
};
use devmem::sink::SinkError;
use dmabuf::Dmabuf;
use netdev::{Binding, Netdev, QueueId, QueueType};

use super::Args;
use crate::snapshot::NicBehind;

type Open = Box<dyn FnMut(&Peer) -> Result<AnySink, SinkError> + Send>;
type OpenShared = Box<dyn Fn(&Peer) -> Result<AnySink, SinkError> + Sync>;

#[derive(clap::Args)]
pub(super) struct ThreadArgs {
    /// Serve the connections of each queue on a thread of its own
    #[arg(long)]
    thread_per_queue: bool,
    /// Keep the threads to these processors, in this order
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    pin: Vec<usize>,
    /// Poll the NIC for so many microseconds before each sleep (Linux 6.9)
    #[arg(long, value_name = "USEC")]
    busy_poll: Option<u32>,
    /// Let payload of a busy connection wait this many milliseconds for more, four times as many where it
    /// comes steadily: fewer wake-ups; 0 lets none wait
    #[arg(long, value_name = "MS", default_value_t = 2)]
    patience: u32,
}

/// One engine, or one a thread.
pub(super) enum Receiver {
    One(Box<Engine<AnySink, Open>>),
    Many(Box<Workers<OpenShared>>),
}

impl Receiver {
    /// For listeners in the device's namespace and dmabufs that are bound.
    pub(super) fn new(
        args: &Args,
        listeners: Vec<TcpListener>,
        bound: &[(Binding, &AnyMemory)],
        out: Option<Output>,
        workers: Vec<Worker>,
    ) -> Result<Self> {
        let pool = bound.iter().map(|(_, memory)| memory.len()).min();
        let config = Config {
            until: Until::Peers(args.connections),
            keepalive: (!args.keepalive.is_zero()).then(|| Keepalive::after(args.keepalive)),
            idle_timeout: args.idle_timeout.filter(|limit| !limit.is_zero()),
            from: args.from,
            refuse_unsteered: args.refuse_unsteered,
            refuse_linear: args.refuse_linear,
            patience: Duration::from_millis(args.threads.patience.into()),
            busy_poll: args
                .threads
                .busy_poll
                .map(|time| Duration::from_micros(time.into())),
            ..Config::for_pool_in(pool.unwrap_or(0), super::niov(args), args.connections)
        };
        let reader = args
            .sinks
            .reader(bound.iter().map(|(binding, memory)| (binding, *memory)))?;
        let open = args.sinks.maker(reader, out)?;
        if workers.is_empty() {
            let mut listeners = listeners.into_iter();
            let first = listeners.next().context("--listen")?;
            let mut engine = Engine::new(first, config, Box::new(open) as Open)?;
            listeners.try_for_each(|listener| engine.listen_too(listener))?;
            return Ok(Self::One(Box::new(engine)));
        }
        let open = Mutex::new(open);
        let open = move |peer: &Peer| (open.lock().unwrap_or_else(PoisonError::into_inner))(peer);
        let workers = Workers::new(listeners, config, workers, Box::new(open) as OpenShared)?;
        Ok(Self::Many(Box::new(workers)))
    }

    pub(super) fn stop_handle(&self) -> StopHandle {
        match self {
            Self::One(engine) => engine.stop_handle(),
            Self::Many(workers) => workers.stop_handle(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::One(engine) => engine.progress(),
            Self::Many(workers) => workers.progress(),
        }
    }

    pub(super) fn monitor(&self) -> Monitor {
        match self {
            Self::One(engine) => engine.monitor(),
            Self::Many(workers) => workers.monitor(),
        }
    }

    pub(super) fn run(self) -> Result<Report<AnySink>, EngineError> {
        match self {
            Self::One(engine) => engine.run(),
            Self::Many(workers) => workers.run(),
        }
    }
}

/// The threads that were asked for; none if that of the caller will do.
pub(super) fn workers(
    args: &ThreadArgs,
    queues: &[QueueId],
    nic: Option<&NicBehind>,
) -> Result<Vec<Worker>> {
    let napi_ids: Vec<Vec<u32>> = match args.thread_per_queue {
        false if args.pin.is_empty() => return Ok(Vec::new()),
        false => vec![Vec::new()],
        true => match nic {
            Some(nic) => napi_ids(nic)?,
            // Out of reach: connections are shared out by their number.
            None => vec![Vec::new(); queues.len()],
        },
    };
    let cpu = |number: usize| match args.pin.len() {
        0 => None,
        len => Some(args.pin[number % len]),
    };
    let workers = napi_ids.into_iter().enumerate();
    let workers = workers.map(|(number, napi_ids)| Worker {
        napi_ids,
        cpu: cpu(number),
    });
    Ok(workers.collect())
}

/// Those of a NIC's queues, one after the other.
fn napi_ids(nic: &NicBehind) -> Result<Vec<Vec<u32>>> {
    let mut all = Netdev::open_in(&nic.netns)?.queues(Some(nic.ifindex))?;
    all.retain(|queue| queue.kind == QueueType::Rx);
    let of = |id: &QueueId| {
        let queue = all.iter().find(|queue| queue.id == *id);
        let napi = queue.and_then(|queue| queue.napi);
        napi.map(|napi| napi.get()).into_iter().collect()
    };
    Ok(nic.queues.iter().map(of).collect())
}
