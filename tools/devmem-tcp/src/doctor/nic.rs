//! State of a physical NIC, read once for all checks.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use netdev::ethtool::{Channels, Features, FlowRule, Rings, Rss, RuleTable};
use netdev::link::LinkInfo;
use netdev::queues::{PagePool, Queue};
use netdev::{Ethtool, Ifindex, Link, NetNs, Netdev, QueueId, QueueType, Result, shell_word};
use nic::Held;

use super::machine::Machine;
use super::namespace::Namespace;
use super::probe::{self, QueueApi, Settable};

/// State of a NIC, from which the checks are made.
#[derive(Debug)]
pub(super) struct Nic {
    pub(super) namespace: Namespace,
    pub(super) link: LinkInfo,
    /// Queues to receive on: those that were requested, or the last free one.
    pub(super) wanted: Vec<QueueId>,
    /// Whether the queues were requested.
    pub(super) asked: bool,
    /// Whether the queues are leased to the netkit that is checked.
    pub(super) through_netkit: bool,
    /// Addresses at which the NIC's payload is received: its own, and those of all netkits that
    /// lease from it.
    pub(super) receiving: Vec<Receiving>,
    /// Rx queues of the NIC; none while the link is down.
    pub(super) queues: Vec<Queue>,
    pub(super) rings: Result<Rings>,
    pub(super) channels: Result<Channels>,
    /// RSS settings of the device, then of its contexts.
    pub(super) rss: Result<Vec<Rss>>,
    pub(super) features: Result<Features>,
    pub(super) table: Result<RuleTable>,
    pub(super) rules: Vec<FlowRule>,
    /// Whether an address to listen on was given to `doctor`.
    pub(super) listens: bool,
    /// Flow rules, RSS contexts and queues that receivers have.
    pub(super) held: Held,
    /// Result of `recv` up to its first change of the NIC.
    pub(super) preview: std::result::Result<(), nic::Error>,
    pub(super) pools: Vec<PagePool>,
    pub(super) driver: String,
    pub(super) queue_api: QueueApi,
    pub(super) netmem_tx: Result<()>,
    pub(super) splits: Settable,
    /// Size of the dmabuf in bytes.
    pub(super) size: u64,
    /// PCI address of the GPU whose memory is to be used, such as `0000:3b:00.0`.
    pub(super) gpu: Option<String>,
}

/// Netkit queue that a NIC's queue is leased to, and that a dmabuf is bound to.
#[derive(Debug, Clone)]
pub(super) struct LeasedThrough {
    pub(super) namespace: Namespace,
    pub(super) link: LinkInfo,
    pub(super) queue: QueueId,
}

/// Addresses of a device, and the device's namespace.
#[derive(Debug, Clone)]
pub(super) struct Receiving {
    pub(super) namespace: Namespace,
    pub(super) addresses: Vec<IpAddr>,
}

impl Receiving {
    fn of(links: &mut Link, namespace: Namespace, device: Ifindex) -> Result<Self> {
        let addresses = links.addresses(Some(device))?.into_iter();
        let addresses = addresses.map(|one| one.prefix.addr);
        Ok(Self {
            namespace,
            addresses: addresses.collect(),
        })
    }
}

impl Nic {
    /// Reads the state of the NIC. A value that the driver does not report is stored as an error,
    /// which the checks read.
    pub(super) fn look(
        machine: &Machine,
        namespace: Namespace,
        link: LinkInfo,
        asked: &[QueueId],
        through: Option<&LeasedThrough>,
    ) -> Result<Self> {
        let link = wait_for_carrier(&namespace, link)?;
        let mut netdev = Netdev::open_in(&namespace.netns)?;
        let mut ethtool = Ethtool::open_in(&namespace.netns)?;
        let at = link.ifindex;
        let mut queues = netdev.queues(Some(at))?;
        queues.retain(|queue| queue.kind == QueueType::Rx);
        let last = queues.iter().rfind(|queue| is_free(queue));
        let wanted = match asked {
            [] => last.map(|queue| queue.id).into_iter().collect(),
            asked => asked.to_vec(),
        };
        let rings = ethtool.rings(at);
        let queue_api = match through {
            Some(LeasedThrough {
                namespace,
                link,
                queue,
            }) => probe::queue_api(machine, namespace, link, *queue),
            // A lease or a binding requires a queue API (`netdev_can_lease_queue`,
            // `netif_mp_open_rxq`).
            None if queues
                .iter()
                .any(|queue| queue.lease.is_some() || queue.dmabuf.is_some()) =>
            {
                QueueApi::There
            }
            None => {
                let queue = last.map_or(QueueId::new(0), |queue| queue.id);
                probe::queue_api(machine, &namespace, &link, queue)
            }
        };
        let receiving = receiving_addresses(&namespace, &link, &queues)?;
        let held = nic::held(&namespace.netns, at).unwrap_or_default();
        let preview = machine
            .wanted
            .plan(&link, &wanted)
            .preview(&namespace.netns);
        Ok(Self {
            held,
            preview: preview.map(drop),
            listens: !machine.wanted.listen.is_empty(),
            asked: !asked.is_empty(),
            wanted,
            through_netkit: through.is_some(),
            receiving,
            queue_api,
            netmem_tx: probe::netmem_tx(&namespace, &link),
            splits: probe::splits(&mut ethtool, at, rings.as_ref().ok()),
            rings,
            channels: ethtool.channels(at),
            rss: ethtool.rss_contexts(at),
            features: ethtool.features(at),
            table: ethtool.rule_table(at),
            rules: ethtool.rules(at).unwrap_or_default(),
            pools: netdev.page_pools(Some(at)).unwrap_or_default(),
            driver: driver_name(&mut ethtool, &link),
            queues,
            namespace,
            link,
            size: machine.wanted.size,
            gpu: machine.wanted.gpu(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.link.name
    }

    /// Command `ethtool FLAG IF REST` for the NIC, to be pasted into a shell.
    pub(super) fn ethtool(&self, flag: &str, rest: &str) -> String {
        let command = format!("ethtool {flag} {} {rest}", shell_word(self.name()));
        self.namespace.command(&command)
    }

    /// Whether a feature of the NIC is on, and whether it can be set.
    pub(super) fn feature(&self, name: &str) -> (bool, bool) {
        let features = self.features.as_ref().ok();
        let in_set = |set: Option<&std::collections::BTreeSet<String>>| {
            set.is_some_and(|set| set.contains(name))
        };
        (
            in_set(features.map(|features| &features.active)),
            in_set(features.map(|features| &features.hw)),
        )
    }
}

/// Finds the addresses at which the NIC's payload is received: those of the NIC, and those of the
/// netkits that lease its queues, where they can be seen.
fn receiving_addresses(
    namespace: &Namespace,
    nic: &LinkInfo,
    queues: &[Queue],
) -> Result<Vec<Receiving>> {
    let mut links = Link::open_in(&namespace.netns)?;
    let mut all = vec![Receiving::of(&mut links, namespace.clone(), nic.ifindex)?];
    let mut netkits: Vec<_> = queues
        .iter()
        .filter_map(|queue| queue.lease.map(|lease| (lease.netns_id, lease.ifindex)))
        .collect();
    netkits.sort();
    netkits.dedup();
    if netkits.is_empty() {
        return Ok(all);
    }
    let visible = NetNs::visible()?.namespaces;
    for (id, netkit) in netkits {
        let guest = match id {
            None => Some(namespace.clone()),
            Some(id) => match links.find_namespace(id, &visible)? {
                Some(netns) => Some(Namespace::new(netns)?),
                None => None,
            },
        };
        let Some(guest) = guest else { continue };
        let of_guest = Link::open_in(&guest.netns)
            .and_then(|mut links| Receiving::of(&mut links, guest, netkit));
        match of_guest {
            Ok(guest) => all.push(guest),
            // It may not be entered, or has gone meanwhile.
            Err(error) => tracing::debug!("a guest's addresses are not known: {error}"),
        }
    }
    Ok(all)
}

/// Waits a moment for the link's carrier: the kernel reports it up to a second late
/// (`linkwatch_schedule_work`).
fn wait_for_carrier(namespace: &Namespace, mut link: LinkInfo) -> Result<LinkInfo> {
    let end = Instant::now() + Duration::from_millis(1500);
    let mut asker = None;
    while link.up && !link.running && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
        let asker = match &mut asker {
            Some(asker) => asker,
            none => none.insert(Link::open_in(&namespace.netns)?),
        };
        link = asker.get(link.ifindex)?;
    }
    Ok(link)
}

/// Whether the queue is free: no memory provider, no lease, no AF_XDP socket.
pub(super) fn is_free(queue: &Queue) -> bool {
    queue.dmabuf.is_none() && queue.io_uring.is_none() && queue.lease.is_none() && !queue.xsk
}

fn driver_name(ethtool: &mut Ethtool, link: &LinkInfo) -> String {
    let driver = ethtool.driver(link.ifindex).map(|info| info.driver);
    driver.unwrap_or_else(|_| link.kind.clone().unwrap_or_else(|| "?".to_owned()))
}
