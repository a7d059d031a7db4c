//! `devmem-tcp show`: queues, leases, bindings and page pools.

mod events;
mod namespace_watch;
mod tables;
mod watch;

use std::collections::BTreeMap;

use anyhow::Result;
use netdev::link::LinkInfo;
use netdev::queues::{PagePool, Queue};
use netdev::{Ethtool, QueueId};
use serde::Serialize;

use crate::remedy::Hint;
use crate::report;
use crate::snapshot::{LeaseEnd, LeaseView, NamespaceSnapshot, Snapshot};
use crate::style::Style;
use tables::{PoolCells, QueueCells, Tables};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this device, and all of its queues
    device: Option<String>,
    /// All queues, also those that are neither leased nor bound
    #[arg(long)]
    all: bool,
    /// Go on and print each change, in a line of its own, until Ctrl-C
    #[arg(long, short, conflicts_with = "all")]
    watch: bool,
    /// Print JSON; with --watch an object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    queues: Vec<Row<'a>>,
    leases: &'a [LeaseView],
    page_pools: Vec<PoolRow<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    netns: &'a str,
    device: &'a str,
    driver: String,
    #[serde(flatten)]
    queue: &'a Queue,
    /// Netkit queue that this queue is leased to.
    leased_to: Option<&'a LeaseEnd>,
    /// Physical queue that this queue is a lease of.
    leased_from: Option<&'a LeaseEnd>,
    /// Dmabuf that the queue is bound to, also where only the other end of the lease shows it.
    bound: Option<netdev::DmabufId>,
}

#[derive(Serialize)]
struct PoolRow<'a> {
    netns: &'a str,
    device: &'a str,
    #[serde(flatten)]
    pool: &'a PagePool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.watch {
        let device = match &args.device {
            Some(name) => Some(own_name(&Snapshot::take()?, name)),
            None => None,
        };
        return watch::run(device.as_deref(), args.json);
    }
    let snapshot = Snapshot::take()?;
    let leases = snapshot.leases()?;
    let shown = select(args, &snapshot, &leases)?;
    if args.json {
        report::json(&shown)
    } else {
        let tables = shown.tables();
        report::text(&tables.text(Style::stdout(), report::columns()))
    }
}

/// Primary name of the device that is called `name`, as events have it; `name` itself if there is
/// no such device yet.
fn own_name(snapshot: &Snapshot, name: &str) -> String {
    let mut links = snapshot
        .namespaces
        .iter()
        .flat_map(|namespace| &namespace.links);
    let link = links.find(|link| link.is_called(name));
    link.map_or_else(|| name.to_owned(), |link| link.name.clone())
}

/// Selects the queues and leases that the options request.
fn select<'a>(args: &Args, snapshot: &'a Snapshot, leases: &'a [LeaseView]) -> Result<Shown<'a>> {
    let wanted = |link: &LinkInfo| {
        let device = args.device.as_deref();
        device.is_none_or(|device| link.is_called(device))
    };
    let mut shown = Shown {
        queues: Vec::new(),
        leases,
        page_pools: Vec::new(),
    };
    let mut found = false;
    for namespace in &snapshot.namespaces {
        let mut drivers = BTreeMap::new();
        found |= namespace.links.iter().any(wanted);
        for queue in &namespace.queues {
            let Some(link) = namespace.device(queue.ifindex).filter(|link| wanted(link)) else {
                continue;
            };
            let (leased_to, leased_from, bound) = other_end_and_binding(leases, namespace, queue);
            let plain = leased_to.is_none() && leased_from.is_none() && bound.is_none();
            if plain && !args.all && args.device.is_none() {
                continue;
            }
            let driver = drivers
                .entry(queue.ifindex)
                .or_insert_with(|| driver_or_kind(namespace, queue));
            shown.queues.push(Row {
                netns: &namespace.name,
                device: &link.name,
                driver: driver.clone(),
                queue,
                leased_to,
                leased_from,
                bound,
            });
        }
        for pool in &namespace.pools {
            let link = pool.ifindex.and_then(|ifindex| namespace.device(ifindex));
            let device = link.map_or("", |link| link.name.as_str());
            let interesting = pool.dmabuf.is_some() || args.all || args.device.is_some();
            if interesting && link.map_or(args.device.is_none(), wanted) {
                shown.page_pools.push(PoolRow {
                    netns: &namespace.name,
                    device,
                    pool,
                });
            }
        }
    }
    match &args.device {
        Some(device) if !found => Err(Hint::new(
            format!("show {device}: no such device (ENODEV), here or in another namespace that can be seen"),
            "`ip link` lists the devices of this namespace, `ip netns` the named ones",
        )
        .into()),
        _ => Ok(shown),
    }
}

/// Other end of the queue's lease, if it has one, and the binding of either end.
fn other_end_and_binding<'a>(
    leases: &'a [LeaseView],
    namespace: &NamespaceSnapshot,
    queue: &Queue,
) -> (
    Option<&'a LeaseEnd>,
    Option<&'a LeaseEnd>,
    Option<netdev::DmabufId>,
) {
    let is = |end: &LeaseEnd| {
        end.netns.as_deref() == Some(&namespace.name)
            && end.ifindex == queue.ifindex
            && end.queue == queue.id
    };
    let to = leases.iter().find(|lease| is(&lease.phys));
    let from = leases.iter().find(|lease| is(&lease.virt));
    let bound = queue.dmabuf.or_else(|| from.and_then(|lease| lease.dmabuf));
    (
        to.map(|lease| &lease.virt),
        from.map(|lease| &lease.phys),
        bound,
    )
}

/// Name of the driver, or the kind of a device without one.
fn driver_or_kind(namespace: &NamespaceSnapshot, queue: &Queue) -> String {
    let opened = namespace.netns.open().and_then(|it| Ethtool::open_in(&it));
    let driver = opened.and_then(|mut tool| tool.driver(queue.ifindex));
    match driver {
        Ok(driver) => driver.driver,
        Err(_) => namespace
            .device(queue.ifindex)
            .and_then(|link| link.kind.clone())
            .unwrap_or_else(|| "-".to_owned()),
    }
}

impl Shown<'_> {
    fn tables(&self) -> Tables {
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let queue = |row: &Row<'_>| QueueCells {
            netns: some(row.netns),
            device: row.device.to_owned(),
            driver: row.driver.clone(),
            rxq: row.queue.id.get(),
            napi: row.queue.napi.map(|napi| napi.get()),
            lease: match (row.leased_to, row.leased_from) {
                (Some(to), _) => Some(format!("to {}", lease_end_text(to))),
                (None, Some(from)) => Some(format!("from {}", lease_end_text(from))),
                (None, None) => None,
            },
            dmabuf: row.bound.map(|dmabuf| dmabuf.get()),
        };
        let pool = |row: &PoolRow<'_>| PoolCells {
            netns: some(row.netns),
            device: some(row.device),
            id: row.pool.id.get(),
            napi: row.pool.napi.map(|napi| napi.get()),
            inflight: row.pool.inflight,
            inflight_bytes: row.pool.inflight_mem,
            dmabuf: row.pool.dmabuf.map(|dmabuf| dmabuf.get()),
        };
        Tables {
            queues: self.queues.iter().map(queue).collect(),
            pools: self.page_pools.iter().map(pool).collect(),
        }
    }
}

/// Describes an end of a lease: `box/nk0 rx 1`.
fn lease_end_text(end: &LeaseEnd) -> String {
    let LeaseEnd {
        netns,
        device,
        ifindex,
        queue,
        identity: _,
    } = end;
    let device = device
        .clone()
        .unwrap_or_else(|| format!("ifindex {ifindex}"));
    let queue: &QueueId = queue;
    match netns.as_deref() {
        Some("") => format!("{device} rx {queue}"),
        Some(netns) => format!("{netns}/{device} rx {queue}"),
        None => format!("{device} in a namespace without a name, rx {queue}"),
    }
}
