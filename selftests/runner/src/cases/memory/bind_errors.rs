//! Bindings that the kernel refuses (`bind-rx`): the error number and the text.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use netdev::ethtool::{HeaderSplit, RingsChange};
use netdev::queues::{BindOptions, Binding, Lease};
use netdev::{Ethtool, Ifindex, Netdev, QueueId};
use nix::libc::{EBUSY, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, ERANGE};
use udmabuf::{HugePage, Udmabuf};

use framework::sysctl;
use framework::testbed::{self, NIC};
use framework::tool::sh;
use framework::xdp;
use framework::{Skip, ifindex, netkit, refused};

const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);

fn make_memory() -> Result<Udmabuf> {
    Ok(Udmabuf::builder(1 << 20).build()?)
}

fn bind(ifindex: Ifindex, memory: impl AsFd, queue: QueueId) -> netdev::Result<Binding> {
    Netdev::open()?.bind_rx(ifindex, memory, &[queue], BindOptions::default())
}

fn bind_nic() -> Result<netdev::Result<Binding>> {
    Ok(bind(ifindex(NIC)?, make_memory()?, LAST))
}

case!(split_off);
fn split_off() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Disabled, 0)?;
    refused(bind_nic()?, EINVAL, Some("tcp-data-split is disabled"))
}

case!(threshold_not_zero);
fn threshold_not_zero() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Enabled, 128)?;
    refused(bind_nic()?, EINVAL, Some("hds-thresh is not zero"))
}

case!(queue_out_of_range);
fn queue_out_of_range() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let queue = QueueId::new(testbed::QUEUES);
    refused(bind(ifindex(NIC)?, make_memory()?, queue), EINVAL, None)
}

case!(no_such_device);
fn no_such_device() -> Result<()> {
    refused(
        bind(Ifindex::new(4242), make_memory()?, QueueId::new(0)),
        ENODEV,
        None,
    )
}

case!(device_without_queue_ops);
fn device_without_queue_ops() -> Result<()> {
    refused(
        bind(ifindex("lo")?, make_memory()?, QueueId::new(0)),
        EOPNOTSUPP,
        None,
    )
}

case!(netkit_without_a_lease);
/// Binds a queue of a netkit that leases nothing. The kernel must refuse, because no NIC that could
/// do DMA is behind the queue.
fn netkit_without_a_lease() -> Result<()> {
    let netkit = netkit("nk0", 2)?;
    refused(
        bind(netkit, make_memory()?, QueueId::new(0)),
        EOPNOTSUPP,
        Some("DMA"),
    )
}

case!(not_a_dmabuf);
fn not_a_dmabuf() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let null = File::open("/dev/null")?;
    refused(bind(ifindex(NIC)?, null, LAST), EINVAL, None)
}

case!(xdp_attached);
fn xdp_attached() -> Result<()> {
    testbed::wire()?;
    let _program = xdp::attach(ifindex(NIC)?.get())?;
    testbed::enable_header_split()?;
    refused(bind_nic()?, EEXIST, Some("XDP program attached"))
}

case!(already_bound);
fn already_bound() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let _first = bind_nic()??;
    refused(bind_nic()?, EEXIST, Some("already memory provider bound"))
}

case!(in_use_by_af_xdp);
fn in_use_by_af_xdp() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let _socket = xdp::socket(ifindex(NIC)?.get(), LAST.get()).context("AF_XDP socket")?;
    refused(bind_nic()?, EBUSY, Some("AF_XDP"))
}

case!(leased_out);
fn leased_out() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let netkit = netkit("nk0", 2)?;
    Netdev::open()?.lease(
        netkit,
        Lease {
            of: ifindex(NIC)?,
            queue: LAST,
            netns_id: None,
        },
    )?;
    // The look-up of the DMA device (`netdev_queue_get_dma_dev`) fails before the check that would
    // say EBUSY and "leased to a virtual netdev" (`netif_mp_open_rxq`).
    refused(bind_nic()?, EOPNOTSUPP, Some("doesn't support DMA"))?;
    // The same queue by its lease: granted.
    bind(netkit, make_memory()?, QueueId::new(1))?.unbind();
    Ok(())
}

case!(split_stays_on_while_bound);
fn split_stays_on_while_bound() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    let _binding = bind_nic()??;
    let off = RingsChange {
        tcp_data_split: Some(HeaderSplit::Disabled),
        ..RingsChange::default()
    };
    refused(
        Ethtool::open()?.set_rings(ifindex(NIC)?, &off),
        EINVAL,
        None,
    )
}

case!(channels_stay_while_bound);
fn channels_stay_while_bound() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    sh(&format!("ethtool -X {NIC} equal 1"))?;
    let _binding = bind_nic()??;
    refused(testbed::set_nic_channels(1)?, EINVAL, None)
}

fn bind_with_page_size(bytes: u32, pages: HugePage) -> Result<netdev::Result<Binding>> {
    let memory = Udmabuf::builder(4 << 20).hugepages(pages).build()?;
    let options = BindOptions {
        rx_page_size: Some(bytes),
    };
    Ok(Netdev::open()?.bind_rx(ifindex(NIC)?, memory, &[LAST], options))
}

fn require_linux_7_3() -> Result<()> {
    if testbed::kernel()? < (7, 3) {
        return Err(Skip("rx-page-size is of Linux 7.3".into()).into());
    }
    testbed::wire()?;
    testbed::enable_header_split()
}

case!(rx_page_size_not_a_power_of_two);
fn rx_page_size_not_a_power_of_two() -> Result<()> {
    require_linux_7_3()?;
    let _reserved = sysctl::set("vm.nr_hugepages", "8")?;
    refused(bind_with_page_size(12_288, HugePage::Mb2)?, EINVAL, None)?;
    refused(bind_with_page_size(2048, HugePage::Mb2)?, ERANGE, None)?;
    // More than the NIC can fill.
    let too_large = bind_with_page_size(1 << 20, HugePage::Mb2)?;
    refused(
        too_large,
        ERANGE,
        Some("rx page size must be a power of two from 4096 to 65536"),
    )
}

case!(rx_page_size_unaligned_memory);
/// Binds with `rx-page-size` 64 KiB to memory of 4 KiB pages, which are not contiguous. The kernel
/// must refuse, because the scatter-gather entries are smaller.
fn rx_page_size_unaligned_memory() -> Result<()> {
    require_linux_7_3()?;
    refused(
        bind_with_page_size(65_536, HugePage::None)?,
        EINVAL,
        Some("align"),
    )
}

case!(rx_page_size_unsupported_by_kernel);
/// Binds with an `rx-page-size` on a kernel before 7.3. The kernel must refuse the unknown
/// attribute, not ignore it.
fn rx_page_size_unsupported_by_kernel() -> Result<()> {
    if testbed::kernel()? >= (7, 3) {
        return Err(Skip("this kernel knows rx-page-size".into()).into());
    }
    testbed::wire()?;
    testbed::enable_header_split()?;
    refused(bind_with_page_size(4096, HugePage::None)?, EINVAL, None)
}
