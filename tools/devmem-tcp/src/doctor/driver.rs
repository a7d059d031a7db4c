//! Checks of the driver and of header split.

use netdev::ethtool::HeaderSplit;
use netdev::shell_word;

use super::check::{Area, Check, Finding};
use super::nic::Nic;
use super::probe::{QueueApi, Settable};

pub(super) const CHECKS: &[Check<Nic>] = &[
    Check {
        id: "driver.queue-api",
        areas: &[Area::Rx, Area::Lease],
        what: "the driver can restart one queue on other memory (queue_mgmt_ops)",
        run: check_queue_api,
    },
    Check {
        id: "driver.dma",
        areas: &[Area::Rx, Area::Lease],
        what: "the device has a DMA device",
        run: check_dma_device,
    },
    Check {
        id: "driver.netmem-tx",
        areas: &[Area::Tx],
        what: "the driver sends from unreadable memory (netmem_tx), in pieces",
        run: check_sending,
    },
    Check {
        id: "split.settable",
        areas: &[Area::Rx],
        what: "the driver can split headers from payload",
        run: check_split_settable,
    },
    Check {
        id: "split.on",
        areas: &[Area::Rx],
        what: "tcp-data-split is on",
        run: check_split_on,
    },
    Check {
        id: "split.threshold",
        areas: &[Area::Rx],
        what: "hds-thresh is 0",
        run: check_split_threshold,
    },
];

fn check_queue_api(nic: &Nic) -> Option<Finding> {
    let driver = &nic.driver;
    let lacks = "no setting helps: take a NIC whose driver has queue_mgmt_ops (bnxt, fbnic, gve, \
                 mlx5 …), or a later kernel";
    Some(match &nic.queue_api {
        QueueApi::There => Finding::ok(format!("{driver} has a queue API")),
        QueueApi::Likely(why) => Finding::ok(format!("{driver} may have a queue API; {why}")),
        QueueApi::Missing => Finding::fail(format!("{driver} has no queue API")).remedy(lacks),
        QueueApi::NoDma => return None,
        QueueApi::NoDevmem => Finding::fail("the kernel refuses any dmabuf")
            .remedy("boot a kernel with CONFIG_NET_DEVMEM=y"),
        QueueApi::Unknown(why) => Finding::warn(format!("not known: {why}")),
    })
}

fn check_dma_device(nic: &Nic) -> Option<Finding> {
    Some(match nic.queue_api {
        QueueApi::NoDma => {
            Finding::fail("no DMA device").remedy("no setting helps: devmem needs a NIC on a bus")
        }
        QueueApi::Missing | QueueApi::Unknown(_) | QueueApi::NoDevmem => return None,
        _ => Finding::ok(nic.link.parent.clone().unwrap_or_default()),
    })
}

fn check_sending(nic: &Nic) -> Option<Finding> {
    const GATHER: &str = "tx-scatter-gather";
    let lacks = "no setting helps: take a NIC whose driver sends netmem";
    Some(match (&nic.netmem_tx, nic.feature(GATHER)) {
        (Ok(()), (true, _)) => Finding::ok("the driver sends netmem"),
        (Ok(()), (false, true)) => {
            Finding::fail("scatter-gather is off").remedy(nic.ethtool("-K", "sg on"))
        }
        (Ok(()), (false, false)) => Finding::fail("no scatter-gather").remedy(lacks),
        (Err(error), _) => Finding::fail(
            error
                .message()
                .map_or_else(|| error.to_string(), str::to_owned),
        )
        .remedy(lacks),
    })
}

fn split_is_on(nic: &Nic) -> bool {
    let split = nic
        .rings
        .as_ref()
        .ok()
        .and_then(|rings| rings.tcp_data_split);
    split == Some(HeaderSplit::Enabled)
}

/// Command that switches header split on and the threshold off: ethtool 6.14 can't do the latter.
fn apply_command(nic: &Nic) -> String {
    let arguments = format!("apply {} --header-split", shell_word(nic.name()));
    nic.namespace.own_command(&arguments)
}

/// Checks that header split can be set: a binding requires that it was set, whatever the driver
/// does by itself (`netif_mp_open_rxq`).
fn check_split_settable(nic: &Nic) -> Option<Finding> {
    Some(match &nic.splits {
        Settable::No(why) => Finding::fail(why.clone())
            .remedy("no setting helps: take a NIC whose driver splits headers"),
        _ if split_is_on(nic) => Finding::ok("the driver splits headers"),
        Settable::Yes => Finding::ok("header split can be set"),
        Settable::Unknown(why) => Finding::warn(format!("not known: {why}")),
    })
}

fn check_split_on(nic: &Nic) -> Option<Finding> {
    let split = nic.rings.as_ref().ok()?.tcp_data_split?;
    Some(match &nic.splits {
        Settable::No(_) => return None,
        _ if split_is_on(nic) => Finding::ok("on"),
        _ => Finding::warn(format!("{split}; `recv` switches it on by itself"))
            .remedy(apply_command(nic)),
    })
}

fn check_split_threshold(nic: &Nic) -> Option<Finding> {
    let bytes = nic.rings.as_ref().ok()?.hds_thresh?;
    Some(match &nic.splits {
        _ if bytes == 0 => Finding::ok("0"),
        Settable::No(why) => Finding::fail(format!("{bytes}: {why}")),
        _ => Finding::warn(format!("{bytes}; `recv` sets it to 0 by itself"))
            .remedy(apply_command(nic)),
    })
}
