//! The testbed of a case: the software NIC loaded afresh, its two ends in two namespaces.
//!
//! ```text
//! netns peer: eth0 192.0.2.1 ──wire── eth1 192.0.2.2 :this netns: nk0h ──netkit── nk0 198.51.100.2 :netns box
//! ```

use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netdev::ethtool::{ChannelsChange, FlowRule, HeaderSplit, RingsChange};
use netdev::link::{AddressOptions, Route};
use netdev::{Ethtool, Link, NetNs, Prefix};

use crate::driver::Driver;
use crate::{machine, tool};

/// Device name of the sending end of the wire, in namespace [`PEER`].
pub const SENDER: &str = "eth0";
/// Device name of the receiving end of the wire, in this namespace: the NIC under test.
pub const NIC: &str = "eth1";
/// Number of rx queues of each end of the wire, unless a case asks for more.
pub const QUEUES: u32 = 4;
/// Name of the sender's network namespace.
pub const PEER: &str = "peer";
/// Name of the container's network namespace.
pub const BOX: &str = "box";
/// Name of the network namespace of a second container, which few cases have.
pub const BOX2: &str = "box2";
/// IPv4 address of the sender.
pub const SENDER_ADDRESS: &str = "192.0.2.1";
/// IPv6 address of the sender.
pub const SENDER_ADDRESS6: &str = "2001:db8:2::1";
/// IPv4 address of the NIC.
pub const NIC_ADDRESS: &str = "192.0.2.2";
/// IPv6 address of the NIC.
pub const NIC_ADDRESS6: &str = "2001:db8:2::2";
/// IPv4 address of the container.
pub const BOX_ADDRESS: &str = "198.51.100.2";
/// Name of the netkit's end in the container.
pub const GUEST: &str = "nk0";
/// Name of the netkit's end in this namespace.
pub const HOST: &str = "nk0h";

/// Directory of the software NIC's module parameters.
const PARAMETERS: &str = "/sys/module/swnic/parameters";

/// Formats the NIC's IPv4 address with a port.
pub fn at(port: u16) -> String {
    format!("{NIC_ADDRESS}:{port}")
}

/// Loads the software NIC, moves the sender's end to its namespace, and sets both ends up.
pub fn wire() -> Result<()> {
    wire_with(QUEUES, "")
}

/// Loads the software NIC as [`wire`] does, with this many queues and further module parameters.
pub fn wire_with(queues: u32, parameters: &str) -> Result<()> {
    wire_as(Driver::imitated(), queues, parameters)
}

/// Loads the software NIC as [`wire_with`] does, imitating this driver.
pub fn wire_as(driver: Driver, queues: u32, parameters: &str) -> Result<()> {
    let driver = driver.parameter();
    let parameters = format!("pairs=1 queues={queues} {driver} {parameters}");
    machine::load(&module(), &parameters)?;
    machine::add_namespace(PEER)?;
    let peer = NetNs::by_name(PEER)?;
    let mut link = Link::open()?;
    let sender = link.by_name(SENDER)?.ifindex;
    link.set_netns(sender, &peer)?;
    set_up_end(
        &mut Link::open_in(&peer)?,
        SENDER,
        &[
            &format!("{SENDER_ADDRESS}/24"),
            &format!("{SENDER_ADDRESS6}/64"),
        ],
    )?;
    let addresses = [
        &format!("{NIC_ADDRESS}/24"),
        &format!("{NIC_ADDRESS6}/64") as &str,
    ];
    set_up_end(&mut link, NIC, &addresses)
}

/// Adds addresses to an end of the wire and sets it up.
fn set_up_end(link: &mut Link, name: &str, addresses: &[&str]) -> Result<()> {
    let ifindex = link.by_name(name)?.ifindex;
    for address in addresses {
        let options = AddressOptions { nodad: true };
        link.add_address(ifindex, address.parse()?, options)?;
    }
    Ok(link.set_up(ifindex)?)
}

/// Makes the container's network namespace, with nothing but `lo`.
pub fn container() -> Result<()> {
    namespace(BOX)
}

/// Makes a network namespace, [`BOX`] or [`BOX2`], with nothing but `lo`.
pub fn namespace(name: &str) -> Result<()> {
    machine::add_namespace(name)?;
    let mut link = Link::open_in(&NetNs::by_name(name)?)?;
    let lo = link.by_name("lo")?.ifindex;
    Ok(link.set_up(lo)?)
}

/// Adds the address and routes of a netkit pair whose guest end is already in the container, and
/// switches forwarding on.
pub fn route_to_container() -> Result<()> {
    let container: Prefix = format!("{BOX_ADDRESS}/32").parse()?;
    let mut link = Link::open()?;
    let host = link.by_name(HOST)?.ifindex;
    link.set_up(host)?;
    let mut inside = Link::open_in(&NetNs::by_name(BOX)?)?;
    let guest = inside.by_name(GUEST)?.ifindex;
    inside.add_address(guest, container, AddressOptions::default())?;
    inside.set_up(guest)?;
    inside.add_route(&Route::on_link("0.0.0.0/0".parse()?, guest))?;
    link.add_route(&Route::on_link(container, host))?;
    let router: IpAddr = NIC_ADDRESS.parse()?;
    Link::open_in(&NetNs::by_name(PEER)?)?.add_route(&Route::over(container, router))?;
    forward(&[NIC, HOST])
}

/// Switches IPv4 forwarding on for these devices; not `ip_forward`, which is for all devices and
/// would stay.
pub fn forward(devices: &[&str]) -> Result<()> {
    for device in devices {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
        fs::write(&path, "1").context(path)?;
    }
    Ok(())
}

/// Switches header split on with threshold 0, as binding needs it.
pub fn enable_header_split() -> Result<()> {
    set_header_split(HeaderSplit::Enabled, 0)
}

/// Sets header split and its threshold, as far as the driver can: not all have a threshold, or can
/// switch header split off.
pub fn set_header_split(split: HeaderSplit, threshold: u32) -> Result<()> {
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    let mut ethtool = Ethtool::open()?;
    let driver = Driver::imitated();
    if split == HeaderSplit::Enabled && driver.splits_by_hw_gro() {
        ethtool.set_feature(nic, "rx-gro-hw", true)?;
    }
    let off = split == HeaderSplit::Disabled && !driver.switches_split_off();
    let limit = ethtool.rings(nic)?.hds_thresh_max;
    let change = RingsChange {
        tcp_data_split: Some(if off { HeaderSplit::Auto } else { split }),
        hds_thresh: limit.map(|limit| threshold.min(limit)),
        ..RingsChange::default()
    };
    Ok(ethtool.set_rings(nic, &change)?)
}

/// Sets ring sizes, rounded as the driver takes them, and header split and its threshold.
pub fn set_rings(rx: u32, tx: u32, split: HeaderSplit, threshold: u32) -> Result<()> {
    let driver = Driver::imitated();
    let change = RingsChange {
        rx: Some(driver.ring(rx)),
        tx: Some(driver.ring(tx)),
        ..RingsChange::default()
    };
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    Ethtool::open()?.set_rings(nic, &change)?;
    set_header_split(split, threshold)
}

/// Sets the number of the NIC's channels: combined ones, or rx and tx where the driver has only
/// those.
pub fn set_nic_channels(count: u32) -> Result<netdev::Result<()>> {
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    let mut ethtool = Ethtool::open()?;
    Ok(set_channels(&mut ethtool, nic, count))
}

/// Sets the number of a device's channels: combined ones, or rx and tx where the driver has only
/// those.
pub fn set_channels(ethtool: &mut Ethtool, nic: netdev::Ifindex, count: u32) -> netdev::Result<()> {
    let apart = ethtool.channels(nic)?.combined_max.unwrap_or(0) == 0;
    let change = match apart {
        true => ChannelsChange {
            rx: Some(count),
            tx: Some(count),
            ..ChannelsChange::default()
        },
        false => ChannelsChange {
            combined: Some(count),
            ..ChannelsChange::default()
        },
    };
    ethtool.set_channels(nic, &change)
}

/// Inserts a flow rule as another program would; switches ntuple rules on where the driver has them
/// off.
pub fn insert_rule(rule: &FlowRule) -> Result<u32> {
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    let mut ethtool = Ethtool::open()?;
    if Driver::imitated().switches_ntuple_on() {
        ethtool.set_feature(nic, "rx-ntuple-filter", true)?;
    }
    Ok(ethtool.insert_rule(nic, rule)?)
}

/// Sets a run-time parameter of the software NIC.
pub fn parameter(name: &str, value: impl Display) -> Result<()> {
    // Nothing at all would not be written.
    fs::write(Path::new(PARAMETERS).join(name), format!("{value}\n"))
        .with_context(|| format!("swnic parameter {name}"))
}

/// Removes what a case may have left: namespaces, netkits, the software NIC. An error if the NIC
/// can't be unloaded.
pub fn clear() -> Result<()> {
    for netns in [PEER, BOX, BOX2] {
        machine::delete_namespace(netns)?;
    }
    // A namespace is torn down some time after its name is gone, a killed receiver's sockets too.
    tool::until("unloading swnic", Duration::from_secs(20), || {
        Ok(!Path::new("/sys/module/swnic").exists() || machine::unload().is_ok())
    })?;
    let mut link = Link::open()?;
    for left in link.list()? {
        if !left.name.starts_with("nk") && left.kind.as_deref() != Some("veth") {
            continue;
        }
        match link.delete(left.ifindex) {
            // The other end went before it: with its namespace, at any moment, or in this loop.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {}
            deleted => deleted?,
        }
    }
    delete_rules(&mut link)
}

/// Deletes policy routing rules that leases add, because they would drop packets of the next case.
/// An error if there are any.
fn delete_rules(link: &mut Link) -> Result<()> {
    let left = link.rules()?;
    for rule in &left {
        link.delete_rule(rule)?;
    }
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    ensure!(left.is_empty(), "rules were left: {}", left.join(", "));
    Ok(())
}

/// Returns the path of the software NIC's module, in the directory above the runner's.
fn module() -> std::path::PathBuf {
    let mut path = tool::ours("swnic.ko");
    if let Some(above) = path.parent().and_then(Path::parent).map(Path::to_owned) {
        path = above.join("swnic.ko");
    }
    path
}

/// Returns the running kernel's version as (major, minor).
pub fn kernel() -> Result<(u32, u32)> {
    let name = nix::sys::utsname::uname().context("uname")?;
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("kernel release {release:?}"),
    }
}
