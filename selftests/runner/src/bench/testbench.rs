//! NIC, namespaces and netkit as all benchmark transfers use them, so that nothing is set up
//! between two of them.
//!
//! RSS keeps to the lower half of the queues. Payload comes by the upper half: the address and port
//! that it is sent to say whether by the last one, by the last two or four, with the source ports
//! dealt out among them, or through a netkit, by one that is leased out.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use netdev::ethtool::{Action, FlowRule, PortMatch};
use netdev::queues::BindOptions;
use netdev::{Ethtool, Ifindex, Link, NetNs, Netdev, QueueId, QueueType};
use nic::{Applied, Plan};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use udmabuf::{HugePage, Udmabuf};

use super::contender::{Contender, Place};
use super::meters::LossCounters;
use super::sweep::Point;
use super::transfer::{MeasureOptions, transfer};
use super::{Cost, MIB, Parts};
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS, PEER, SENDER};
use framework::tool::{command, finish, ours, until};

/// Number of rx queues of each end of the wire.
const QUEUES: u32 = 16;
/// Number of the rx queue that the netkit leases.
const LEASED_QUEUE: u32 = 8;
/// The container's address, in the subnet of the wire.
const BOX_ADDRESS: &str = "192.0.2.9";
/// Port of the receiver on one queue; with N queues it is this port plus N - 1.
const PORT: u16 = 5000;
/// Number of huge pages to reserve, enough for the buffers of two receivers: the last one's are
/// given back some time after its end.
const HUGE_PAGES: u32 = 80;
/// Number of source ports set aside for each transfer.
const PORTS_PER_TRANSFER: u16 = 256;
const FIRST_PORT: u16 = 10 * 1024;

/// The NIC, namespaces and netkit that all measurements share.
pub(super) struct Testbench {
    nic: Ifindex,
    netns: [NetNs; 3],
    applied: Applied,
    gro: Option<bool>,
    /// Number of transfers so far.
    transfers: u16,
}

impl Testbench {
    pub(super) fn prepare() -> Result<Self> {
        let path = "/proc/sys/vm/nr_hugepages";
        fs::write(path, HUGE_PAGES.to_string()).context(path)?;
        testbed::wire_with(QUEUES, "")?;
        move_nic_work_to_threads()?;
        testbed::container()?;
        let nic = Link::open()?.by_name(NIC)?.ifindex;
        let lease = format!(
            "lease --phys {NIC} --queue {LEASED_QUEUE} --netkit {GUEST} --netns {BOX} --address {BOX_ADDRESS}"
        );
        finish(command(None, &ours("devmem-tcp"), &lease))?.good(&lease)?;
        let payload: Vec<QueueId> = (QUEUES / 2..QUEUES).map(QueueId::new).collect();
        let mut plan = Plan::new(NIC, nic).header_split().reserve(&payload);
        for queues in [1, 2, 4] {
            let to = SocketAddr::new(NIC_ADDRESS.parse()?, port_for_queues(queues));
            for (at, queue) in last_queues(queues).into_iter().enumerate() {
                let rule = FlowRule {
                    src_port: Some(PortMatch {
                        port: u16::try_from(at)?,
                        mask: u16::try_from(queues - 1)?,
                    })
                    .filter(|_| queues > 1),
                    ..FlowRule::tcp_to(to, Action::Drop)
                };
                plan = plan.steer(rule, &[QueueId::new(queue)]);
            }
        }
        let rule = FlowRule::tcp_to(
            SocketAddr::new(BOX_ADDRESS.parse()?, port_for_queues(1)),
            Action::Drop,
        );
        let here = NetNs::current()?;
        Ok(Self {
            nic,
            applied: plan
                .steer(rule, &[QueueId::new(LEASED_QUEUE)])
                .apply(&here)?,
            netns: [here, NetNs::by_name(PEER)?, NetNs::by_name(BOX)?],
            gro: None,
            transfers: 0,
        })
    }

    /// Runs one transfer to one receiver, and adds the NIC's and TCP's loss counters to its cost.
    pub(super) fn transfer(
        &mut self,
        contender: &Contender,
        point: &Point,
        bytes: u64,
        look: MeasureOptions,
    ) -> Result<Cost> {
        self.set_coalescing(point.gro)?;
        let place = receiver_place(point)?;
        self.wait_until_free(&place)?;
        // Whoever does not bind the queue finds it bound.
        let _bound = match contender.bound {
            true => Some(self.bind_small_pages(&place, point)?),
            false => None,
        };
        let port = FIRST_PORT + self.transfers % 128 * PORTS_PER_TRANSFER;
        self.transfers = self.transfers.wrapping_add(1);
        let before = LossCounters::read(self.nic, &self.netns)?;
        let cost = transfer(contender, &place, point, bytes, port, look)?;
        let meters = LossCounters::read(self.nic, &self.netns)?.since(&before);
        Ok(Cost {
            alloc_fail: meters.alloc_fail,
            retransmitted: meters.retransmitted,
            reasons: meters.reasons,
            ..cost
        })
    }

    /// Waits until the queues are free: io_uring gives a queue back some time after its process has
    /// ended.
    pub(super) fn wait_until_free(&self, place: &Place) -> Result<()> {
        let taken = |queue: &netdev::queues::Queue| {
            let of = queue.kind == QueueType::Rx && place.queues.contains(&queue.id.get());
            of && (queue.io_uring.is_some() || queue.dmabuf.is_some())
        };
        // A netkit's queues are another device's.
        let nic = self.nic;
        until("a free queue", Duration::from_secs(20), || {
            let queues = Netdev::open()?.queues(Some(nic))?;
            Ok(place.netns.is_some() || !queues.iter().any(taken))
        })
    }

    /// Measures the kernel's part of a receiver's set-up and tear-down: CPU seconds to make memory
    /// of these pages, to bind a queue to it, to unbind it, and to free the memory.
    pub(super) fn measure_setup_parts(&self, pages: HugePage) -> Result<Parts> {
        let point = Point::default();
        let queues: Vec<QueueId> = last_queues(1).into_iter().map(QueueId::new).collect();
        self.wait_until_free(&receiver_place(&point)?)?;
        let mut at = vec![thread_cpu_seconds()?];
        let memory = Udmabuf::builder(point.pool * MIB)
            .hugepages(pages)
            .build()?;
        at.push(thread_cpu_seconds()?);
        let binding =
            Netdev::open()?.bind_rx(self.nic, &memory, &queues, BindOptions::default())?;
        at.push(thread_cpu_seconds()?);
        binding.unbind();
        at.push(thread_cpu_seconds()?);
        drop(memory);
        at.push(thread_cpu_seconds()?);
        let [make, bind, unbind, free] = [0, 1, 2, 3].map(|part| at[part + 1] - at[part]);
        Ok(Parts {
            huge: pages != HugePage::None,
            make,
            bind,
            unbind,
            free,
        })
    }

    /// Switches receive coalescing of the NIC on or off.
    pub(super) fn set_coalescing(&mut self, gro: bool) -> Result<()> {
        if self.gro != Some(gro) {
            Ethtool::open()?.set_feature(self.nic, "rx-gro-hw", gro)?;
            self.gro = Some(gro);
        }
        Ok(())
    }

    /// Binds the queues to memory of 4 KiB pages, which all kernels and NICs support.
    fn bind_small_pages(
        &self,
        place: &Place,
        point: &Point,
    ) -> Result<(netdev::queues::Binding, Udmabuf)> {
        let memory = Udmabuf::builder(point.pool * MIB)
            .hugepages(HugePage::None)
            .build()?;
        let queues: Vec<QueueId> = place.queues.iter().copied().map(QueueId::new).collect();
        let binding =
            Netdev::open()?.bind_rx(self.nic, &memory, &queues, BindOptions::default())?;
        Ok((binding, memory))
    }

    pub(super) fn restore(self) -> Result<()> {
        self.applied.restore()?;
        let unlease = format!("unlease {GUEST} --netns {BOX}");
        finish(command(None, &ours("devmem-tcp"), &unlease))?.good(&unlease)?;
        Ok(())
    }
}

/// Returns the CPU seconds of this thread.
fn thread_cpu_seconds() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Returns the numbers of the NIC's last `queues` queues.
pub(super) fn last_queues(queues: u32) -> Vec<u32> {
    (QUEUES - queues..QUEUES).collect()
}

/// Returns the port of the receivers on this many queues.
fn port_for_queues(queues: u32) -> u16 {
    PORT - 1 + u16::try_from(queues).unwrap_or(1)
}

pub(super) fn receiver_place(point: &Point) -> Result<Place> {
    let listen = |address: &str, queues| -> Result<SocketAddr> {
        let address: IpAddr = address.parse()?;
        Ok(SocketAddr::new(address, port_for_queues(queues)))
    };
    Ok(match point.netkit {
        false => Place {
            device: NIC,
            netns: None,
            queues: last_queues(point.queues),
            listen: listen(NIC_ADDRESS, point.queues)?,
        },
        true => Place {
            device: GUEST,
            netns: Some(BOX),
            queues: vec![1],
            listen: listen(BOX_ADDRESS, 1)?,
        },
    })
}

/// End of the wire whose processor a thread is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Sender,
    Receiver,
}

/// Pins a thread to the processor of its end of the wire, where there are two: the ends play two
/// machines. Its children inherit that.
pub(super) fn pin(thread: Pid, side: Side) -> Result<()> {
    let all = sched_getaffinity(Pid::from_raw(1))?;
    if !all.is_set(1)? {
        return Ok(());
    }
    let mut one = CpuSet::new();
    one.set(match side {
        Side::Sender => 0,
        Side::Receiver => 1,
    })?;
    Ok(sched_setaffinity(thread, &one)?)
}

/// Moves the NIC's work to NAPI threads on both ends, and keeps the sender from losing packets: a
/// long queue that drops none for waiting, and no probes for lost tails, because an emulated
/// machine is slow.
fn move_nic_work_to_threads() -> Result<()> {
    fs::write(format!("/sys/class/net/{NIC}/threaded"), "1").context("threaded NAPI")?;
    // `ip netns exec` mounts the namespace's own /sys.
    let line = format!(
        "echo 1 > /sys/class/net/{SENDER}/threaded && \
         echo 0 > /proc/sys/net/ipv4/tcp_early_retrans && \
         tc qdisc replace dev {SENDER} root pfifo limit 100000"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", PEER, "sh", "-c", &line]);
    finish(command)?.good(&line)?;
    pin(Pid::from_raw(0), Side::Receiver)?;
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let Ok(pid) = process.file_name().to_string_lossy().parse() else {
            continue;
        };
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        // napi/eth0-8193: one for each queue that is up.
        match name.strip_prefix("napi/") {
            Some(device) if device.starts_with(NIC) => pin(Pid::from_raw(pid), Side::Receiver)?,
            Some(device) if device.starts_with(SENDER) => pin(Pid::from_raw(pid), Side::Sender)?,
            _ => {}
        }
    }
    Ok(())
}
