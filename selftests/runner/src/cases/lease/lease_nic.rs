//! Changes to the NIC and the netkit while a queue is leased: which the kernel grants and refuses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{ChannelsChange, RssChange, equal_table};
use netdev::queues::BindOptions;
use netdev::{Ethtool, Ifindex, Netdev, QueueId, QueueType};
use nix::libc::{EBUSY, EINVAL, EOPNOTSUPP};
use udmabuf::Udmabuf;

use framework::ifindex;
use framework::leases::{ExpectedAck, Guest, check_denied, check_free, delete};
use framework::testbed::{self, BOX, GUEST, HOST, NIC};
use framework::tool::until;
use framework::xdp;

// netdev_queue_busy, asked by ethnl_set_channels for each queue that would go.
const LEASED: ExpectedAck = ExpectedAck::Text("Device queue in use due to queue leasing");

/// Makes a netkit in a container that leases queue 1, on a NIC whose RSS uses queue 0 only.
fn make_leasing_guest() -> Result<Guest> {
    testbed::container()?;
    set_rss_on_queue_zero()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    guest.lease_as(1, 1)?;
    Ok(guest)
}

/// Sets an RSS table that uses queue 0 only, as `ethtool -X NIC equal 1` does.
fn set_rss_on_queue_zero() -> Result<()> {
    let mut ethtool = Ethtool::open()?;
    let nic = ifindex(NIC)?;
    let entries = ethtool.rss(nic)?.table.len();
    let change = RssChange {
        table: Some(equal_table(entries, 1)),
        ..RssChange::default()
    };
    Ok(ethtool.set_rss(nic, None, &change)?)
}

case!(channels_stay);
fn channels_stay() -> Result<()> {
    testbed::wire()?;
    let guest = make_leasing_guest()?;
    check_denied(testbed::set_nic_channels(1)?, EINVAL, LEASED)?;
    guest.check_lease(1, 1)
}

case!(channels_stay_until_the_end);
fn channels_stay_until_the_end() -> Result<()> {
    testbed::wire()?;
    make_leasing_guest()?;
    check_denied(testbed::set_nic_channels(1)?, EINVAL, LEASED)?;
    delete(HOST)?;
    testbed::set_nic_channels(1)??;
    Ok(())
}

case!(channels_as_they_are);
/// Sets the channels to their present number. The kernel must accept, and the lease stay.
fn channels_as_they_are() -> Result<()> {
    testbed::wire()?;
    let guest = make_leasing_guest()?;
    testbed::set_nic_channels(testbed::QUEUES)??;
    guest.check_lease(1, 1)
}

case!(channels_shrink_down_to_the_lease);
/// Reduces the channels. Queues above the leased one may go, the leased one must not.
fn channels_shrink_down_to_the_lease() -> Result<()> {
    testbed::wire()?;
    let guest = make_leasing_guest()?;
    for count in [3, 2] {
        testbed::set_nic_channels(count)??;
        guest.check_lease(1, 1)?;
    }
    check_denied(testbed::set_nic_channels(1)?, EINVAL, LEASED)?;
    guest.check_lease(1, 1)
}

case!(channels_grow);
/// Adds channels. The lease must stay, and the new queue be free.
fn channels_grow() -> Result<()> {
    testbed::wire()?;
    testbed::set_nic_channels(2)??;
    let guest = make_leasing_guest()?;
    testbed::set_nic_channels(3)??;
    guest.check_lease(1, 1)?;
    check_free(2)
}

case!(netkit_has_no_channels);
/// Sets the channels of a netkit at either end. The kernel must refuse.
fn netkit_has_no_channels() -> Result<()> {
    testbed::wire()?;
    let guest = make_leasing_guest()?;
    let change = ChannelsChange {
        combined: Some(1),
        ..ChannelsChange::default()
    };
    let answer = Ethtool::open()?.set_channels(ifindex(HOST)?, &change);
    check_denied(answer, EOPNOTSUPP, ExpectedAck::Nothing)?;
    let answer = Ethtool::open_in(&guest.netns)?.set_channels(guest.ifindex, &change);
    check_denied(answer, EOPNOTSUPP, ExpectedAck::Nothing)?;
    guest.check_lease(1, 1)
}

case!(bind_of_leased_queue);
/// Binds a leased queue on the NIC, alone and with a free one. The kernel must refuse, because a
/// leased queue has no DMA device (`netdev_queue_get_dma_dev`).
fn bind_of_leased_queue() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let guest = make_leasing_guest()?;
    let memory = Udmabuf::builder(1 << 20).build()?;
    let bind = |queues: &[u32]| -> Result<netdev::Result<netdev::queues::Binding>> {
        let queues: Vec<QueueId> = queues.iter().copied().map(QueueId::new).collect();
        Ok(Netdev::open()?.bind_rx(ifindex(NIC)?, &memory, &queues, BindOptions::default()))
    };
    let mismatch = "DMA device mismatch between queue 1 and 0 (multi-PF device?)";
    check_denied(bind(&[0, 1])?, EOPNOTSUPP, ExpectedAck::Text(mismatch))?;
    let no_dma = "Device doesn't support DMA";
    check_denied(bind(&[1])?, EOPNOTSUPP, ExpectedAck::Text(no_dma))?;
    bind(&[0])??.unbind();
    guest.check_lease(1, 1)
}

case!(af_xdp_of_leased_queue);
/// Opens an AF_XDP socket on a leased queue. The NIC must refuse and the netkit grant it; then
/// binding through the netkit must be refused (`xsk_reg_pool_at_qid`).
fn af_xdp_of_leased_queue() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let mut guest = Guest::single(GUEST, 2)?;
    guest.lease_as(1, 1)?;
    let refused = xdp::socket(ifindex(NIC)?.get(), 1).err();
    let errno = refused.and_then(|error| error.raw_os_error());
    ensure!(errno == Some(EBUSY), "expected EBUSY, got {errno:?}");
    let socket = xdp::socket(guest.ifindex.get(), 1).context("AF_XDP socket of the netkit")?;
    let queue = |device: Ifindex| Netdev::open()?.queue(device, QueueType::Rx, QueueId::new(1));
    ensure!(queue(ifindex(NIC)?)?.xsk, "the NIC does not tell of it");
    ensure!(queue(guest.ifindex)?.xsk, "the netkit does not tell of it");
    let memory = Udmabuf::builder(1 << 20).build()?;
    let bind = || -> netdev::Result<netdev::queues::Binding> {
        let queues = [QueueId::new(1)];
        Netdev::open()?.bind_rx(guest.ifindex, &memory, &queues, BindOptions::default())
    };
    let in_use = ExpectedAck::Text("designated queue already in use by AF_XDP");
    check_denied(bind(), EBUSY, in_use)?;
    drop(socket);
    // The kernel lets go of the queue later (`xp_release_deferred`).
    until("a free queue", Duration::from_secs(30), || {
        Ok(!queue(ifindex(NIC)?)?.xsk)
    })?;
    bind()?.unbind();
    guest.check_lease(1, 1)
}
