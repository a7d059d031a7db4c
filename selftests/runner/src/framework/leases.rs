//! Helpers for leases: guests that lease queues of the NIC, and what the kernel reports about a lease.

use anyhow::{Context, Result, bail, ensure};
use netdev::link::{NetkitMode, NetkitPair};
use netdev::queues::{Lease, LeaseInfo};
use netdev::{Ifindex, Link, NetNs, Netdev, NsId, QueueId, QueueType};

use crate::summary::{self, Leased};
use crate::testbed::NIC;
use crate::tool::{command, finish};
use crate::transfer::devmem_tcp;
use crate::{ifindex, println_line};

/// A device that leases queues, mostly a netkit's guest end, with a netlink socket in its
/// namespace.
pub struct Guest {
    pub ifindex: Ifindex,
    pub netns: NetNs,
    /// Number of this process's namespace, which is the NIC's, as the guest's namespace knows it;
    /// `None` if both are one.
    pub nsid: Option<NsId>,
    pub netdev: Netdev,
}

impl Guest {
    /// Makes a netkit pair with its guest end in an existing namespace, both ends up. The host end
    /// stays here, with an `h` appended to the name.
    pub fn pair(name: &str, rx_queues: u32, netns: &str) -> Result<Self> {
        Self::pair_with(name, rx_queues, netns, NetkitMode::default())
    }

    /// Makes a netkit pair as [`Guest::pair`] does, for layer 2 or layer 3.
    pub fn pair_with(name: &str, rx_queues: u32, netns: &str, mode: NetkitMode) -> Result<Self> {
        let guest = Self::pair_down(name, rx_queues, netns, mode)?;
        set_link_up(None, &format!("{name}h"))?;
        set_link_up(Some(netns), name)?;
        Ok(guest)
    }

    /// Makes a netkit pair as [`Guest::pair_with`] does, with both ends down.
    pub fn pair_down(name: &str, rx_queues: u32, netns: &str, mode: NetkitMode) -> Result<Self> {
        let mut pair = NetkitPair::new(format!("{name}h"), name);
        pair.rx_queues = Some(rx_queues);
        pair.mode = mode;
        pair.peer_netns = Some(NetNs::by_name(netns)?);
        Link::open()?.create_netkit(&pair)?;
        Self::find(name, Some(netns))
    }

    /// Makes a single netkit in this namespace, and sets it up.
    pub fn single(name: &str, rx_queues: u32) -> Result<Self> {
        crate::netkit(name, rx_queues)?;
        set_link_up(None, name)?;
        Self::find(name, None)
    }

    /// Finds an existing device, in this namespace unless one is named.
    pub fn find(name: &str, netns: Option<&str>) -> Result<Self> {
        let apart = netns.is_some();
        let netns = self::netns(netns)?;
        let mut link = Link::open_in(&netns)?;
        Ok(Self {
            ifindex: link.by_name(name)?.ifindex,
            nsid: match apart {
                true => Some(link.nsid_or_assign(&NetNs::current()?)?),
                false => None,
            },
            netdev: Netdev::open_in(&netns)?,
            netns,
        })
    }

    /// Deletes the netkit by its guest end.
    pub fn delete(&self) -> Result<()> {
        Ok(Link::open_in(&self.netns)?.delete(self.ifindex)?)
    }

    /// Leases a queue of the NIC to this guest. The inner result is the kernel's answer.
    pub fn lease(&mut self, queue: u32) -> Result<netdev::Result<QueueId>> {
        Ok(self.lease_of(ifindex(NIC)?, queue))
    }

    /// Leases a queue of a device in this namespace to this guest.
    pub fn lease_of(&mut self, of: Ifindex, queue: u32) -> netdev::Result<QueueId> {
        self.netdev.lease(self.ifindex, self.request(of, queue))
    }

    /// Builds the request for a lease, with the number of the NIC's namespace.
    pub fn request(&self, of: Ifindex, queue: u32) -> Lease {
        Lease {
            of,
            queue: QueueId::new(queue),
            netns_id: self.nsid,
        }
    }

    /// Leases a queue of the NIC, and checks that it became the guest's queue `own`.
    pub fn lease_as(&mut self, queue: u32, own: u32) -> Result<()> {
        let answer = self.lease(queue)??;
        ensure!(
            answer == QueueId::new(own),
            "rx {queue} of {NIC} became queue {answer}, not {own}"
        );
        self.check_lease(queue, own)
    }

    /// Checks that the NIC reports its queue `queue` as leased to the guest's queue `own`.
    pub fn check_lease(&self, queue: u32, own: u32) -> Result<()> {
        self.check_lease_from(&NetNs::current()?, queue, own)
    }

    /// Checks as [`Guest::check_lease`] does, with the NIC in another namespace.
    pub fn check_lease_from(&self, nic_netns: &NetNs, queue: u32, own: u32) -> Result<()> {
        let lease = reported_lease(nic_netns, queue)?.context("no lease is reported")?;
        // The NIC's namespace knows the guest's by a number, which the question gave it.
        let nsid = match nic_netns.is_same(&self.netns)? {
            true => None,
            false => Link::open_in(nic_netns)?.nsid(&self.netns)?,
        };
        let told = (lease.ifindex, lease.queue, lease.kind, lease.netns_id);
        let expected = (self.ifindex, QueueId::new(own), QueueType::Rx, nsid);
        ensure!(told == expected, "{told:?} is told, not {expected:?}");
        ensure!(
            nsid.is_none() == nic_netns.is_same(&self.netns)?,
            "the guest's namespace has no number"
        );
        Ok(())
    }
}

/// Opens the namespace of this name, or the current one.
fn netns(name: Option<&str>) -> Result<NetNs> {
    Ok(match name {
        Some(name) => NetNs::by_name(name)?,
        None => NetNs::current()?,
    })
}

/// Sets a device up: `ip -n NETNS link set NAME up`.
pub fn set_link_up(from: Option<&str>, name: &str) -> Result<()> {
    let mut link = Link::open_in(&netns(from)?)?;
    let ifindex = link.by_name(name)?.ifindex;
    Ok(link.set_up(ifindex)?)
}

/// Sets a device down: `ip -n NETNS link set NAME down`.
pub fn set_link_down(from: Option<&str>, name: &str) -> Result<()> {
    let mut link = Link::open_in(&netns(from)?)?;
    let ifindex = link.by_name(name)?.ifindex;
    Ok(link.set_down(ifindex)?)
}

/// Moves a device to another namespace: `ip -n NETNS link set NAME netns TO`.
pub fn move_to(from: Option<&str>, name: &str, to: Option<&str>) -> Result<()> {
    let mut link = Link::open_in(&netns(from)?)?;
    let ifindex = link.by_name(name)?.ifindex;
    Ok(link.set_netns(ifindex, &netns(to)?)?)
}

/// Deletes a device in this namespace: `ip link delete NAME`.
pub fn delete(name: &str) -> Result<()> {
    let mut link = Link::open()?;
    let ifindex = link.by_name(name)?.ifindex;
    Ok(link.delete(ifindex)?)
}

/// Reads the lease that the kernel reports for a queue of the NIC.
fn reported_lease(nic_netns: &NetNs, queue: u32) -> Result<Option<LeaseInfo>> {
    let nic = Link::open_in(nic_netns)?.by_name(NIC)?.ifindex;
    let mut netdev = Netdev::open_in(nic_netns)?;
    let told = netdev.queue(nic, QueueType::Rx, QueueId::new(queue))?;
    Ok(told.lease)
}

/// Whether a queue of the NIC is leased to no device.
pub fn is_free(queue: u32) -> Result<bool> {
    Ok(reported_lease(&NetNs::current()?, queue)?.is_none())
}

/// Checks that a queue of the NIC is leased to no device.
pub fn check_free(queue: u32) -> Result<()> {
    ensure!(is_free(queue)?, "rx {queue} of {NIC} is leased");
    Ok(())
}

/// Checks that this namespace has no device of this name.
pub fn check_no_device(name: &str) -> Result<()> {
    check_denied(
        Link::open()?.by_name(name),
        nix::libc::ENODEV,
        ExpectedAck::Nothing,
    )
}

/// What the kernel's extended ack must contain beside the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedAck {
    Nothing,
    /// Exactly this error text.
    Text(&'static str),
    /// No text, but the offset of the refused attribute, in bytes from the start of the request.
    Attribute(u32),
}

/// Checks that the kernel refused with this errno and exactly this extended ack.
pub fn check_denied<T>(result: netdev::Result<T>, errno: i32, said: ExpectedAck) -> Result<()> {
    let Err(error) = result else {
        bail!("not refused, expected errno {errno}, {said:?}")
    };
    println_line(&format!("{error}"));
    let ack = error.ext_ack();
    let text = error.message();
    let offset = ack.and_then(|ack| ack.offset());
    let as_said = match said {
        ExpectedAck::Nothing => text.is_none() && offset.is_none(),
        ExpectedAck::Text(expected) => text == Some(expected),
        ExpectedAck::Attribute(expected) => text.is_none() && offset == Some(expected),
    };
    ensure!(
        error.raw_os_error() == Some(errno) && as_said,
        "expected errno {errno} and {said:?}, got: {error}, {ack:?}"
    );
    Ok(())
}

/// Runs `devmem-tcp lease --json` on the NIC, which must succeed, and returns its output.
pub fn run_lease(line: &str) -> Result<Leased> {
    let line = format!("lease --json --phys {NIC} {line}");
    let text = finish(command(None, &devmem_tcp(), &line))?.good(&line)?;
    println_line(text.trim_end());
    summary::parse(&text)
}

/// Checks that `devmem-tcp lease` on the NIC ends with status 1 and exactly this error, apart from
/// the remedy.
pub fn check_lease_denied(line: &str, error: &str) -> Result<()> {
    let line = format!("lease --phys {NIC} {line}");
    let complaint = finish(command(None, &devmem_tcp(), &line))?.refused(1)?;
    println_line(complaint.trim_end());
    let first = complaint.lines().next();
    ensure!(
        first == Some(&format!("devmem-tcp: {error}")),
        "expected {error:?}"
    );
    Ok(())
}
