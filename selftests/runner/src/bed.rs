//! The test bed of a case: the software NIC loaded afresh, its two ends in two namespaces.
//!
//! ```text
//! netns peer: eth0 192.0.2.1 ──wire── eth1 192.0.2.2 :this netns: nk0h ──netkit── nk0 198.51.100.2 :netns box
//! ```

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netdev::{Ethtool, HeaderSplit, Link, RingsChange};

use crate::tool::{self, sh};

/// The end of the wire that sends, in namespace [`PEER`].
pub(crate) const SENDER: &str = "eth0";
/// The end of the wire that receives, in this namespace: the NIC under test.
pub(crate) const NIC: &str = "eth1";
/// Rx queues of each end, unless a case asks for more.
pub(crate) const QUEUES: u32 = 4;
/// The namespace of the sender.
pub(crate) const PEER: &str = "peer";
/// The namespace of the container.
pub(crate) const BOX: &str = "box";
/// The sender's address.
pub(crate) const SENDER_ADDRESS: &str = "192.0.2.1";
/// The NIC's address.
pub(crate) const NIC_ADDRESS: &str = "192.0.2.2";
/// The NIC's IPv6 address; the sender's ends in 1.
pub(crate) const NIC_ADDRESS6: &str = "2001:db8:2::2";
/// The container's address.
pub(crate) const BOX_ADDRESS: &str = "198.51.100.2";
/// The netkit's end in the container.
pub(crate) const GUEST: &str = "nk0";
/// The netkit's end in this namespace.
pub(crate) const HOST: &str = "nk0h";

/// Where a parameter of the software NIC can be read and written.
const PARAMETERS: &str = "/sys/module/swnic/parameters";

/// Loads the software NIC and connects its ends.
pub(crate) fn wire() -> Result<()> {
    wire_with(QUEUES, "")
}

/// As [`wire`], with so many queues and further module parameters.
pub(crate) fn wire_with(queues: u32, parameters: &str) -> Result<()> {
    sh(&format!(
        "insmod {} pairs=1 queues={queues} {parameters}",
        module().display()
    ))?;
    sh(&format!("ip netns add {PEER}"))?;
    sh(&format!("ip link set {SENDER} netns {PEER}"))?;
    for line in [
        format!("-n {PEER} address add {SENDER_ADDRESS}/24 dev {SENDER}"),
        format!("-n {PEER} address add 2001:db8:2::1/64 dev {SENDER} nodad"),
        format!("-n {PEER} link set {SENDER} up"),
        format!("address add {NIC_ADDRESS}/24 dev {NIC}"),
        format!("address add {NIC_ADDRESS6}/64 dev {NIC} nodad"),
        format!("link set {NIC} up"),
    ] {
        sh(&format!("ip {line}"))?;
    }
    Ok(())
}

/// The container's namespace, with nothing in it yet.
pub(crate) fn container() -> Result<()> {
    sh(&format!("ip netns add {BOX}"))?;
    sh(&format!("ip -n {BOX} link set lo up"))?;
    Ok(())
}

/// Address and routes of a netkit pair whose guest end is already in the container.
pub(crate) fn route_to_container() -> Result<()> {
    for line in [
        format!("link set {HOST} up"),
        format!("-n {BOX} address add {BOX_ADDRESS}/32 dev {GUEST}"),
        format!("-n {BOX} link set {GUEST} up"),
        format!("-n {BOX} route add default dev {GUEST}"),
        format!("route add {BOX_ADDRESS}/32 dev {HOST}"),
        format!("-n {PEER} route add {BOX_ADDRESS}/32 via {NIC_ADDRESS}"),
    ] {
        sh(&format!("ip {line}"))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    Ok(())
}

/// Header split on, threshold 0, as a bind wants it.
pub(crate) fn split() -> Result<()> {
    rings(HeaderSplit::Enabled, 0)
}

/// Header split and threshold; not every ethtool command knows the threshold.
pub(crate) fn rings(split: HeaderSplit, threshold: u32) -> Result<()> {
    let change = RingsChange {
        tcp_data_split: Some(split),
        hds_thresh: Some(threshold),
        ..RingsChange::default()
    };
    let nic = Link::open()?.by_name(NIC)?.ifindex;
    Ok(Ethtool::open()?.set_rings(nic, &change)?)
}

/// Sets a run-time parameter of the software NIC.
pub(crate) fn parameter(name: &str, value: u64) -> Result<()> {
    fs::write(Path::new(PARAMETERS).join(name), value.to_string())
        .with_context(|| format!("swnic parameter {name}"))
}

/// Removes what a case may have left: namespaces, netkits, the software NIC. Fails if it stays.
pub(crate) fn clear() -> Result<()> {
    for netns in [PEER, BOX] {
        if Path::new("/run/netns").join(netns).exists() {
            sh(&format!("ip netns delete {netns}"))?;
        }
    }
    // A namespace is torn down some time after its name is gone, a killed receiver's sockets too.
    let gone = |path: &str| !Path::new(path).exists();
    tool::until("unloading swnic", Duration::from_secs(20), || {
        Ok(gone("/sys/module/swnic") || sh("rmmod swnic").is_ok())
    })?;
    for line in sh("ip -o link show")?.lines() {
        let name = line.split([':', '@']).nth(1).unwrap_or("").trim();
        if name.starts_with("nk") && !gone(&format!("/sys/class/net/{name}")) {
            sh(&format!("ip link delete {name}"))?;
        }
    }
    Ok(())
}

/// The module, beside the runner's folder.
fn module() -> std::path::PathBuf {
    let mut path = tool::ours("swnic.ko");
    if let Some(above) = path.parent().and_then(Path::parent).map(Path::to_owned) {
        path = above.join("swnic.ko");
    }
    path
}

/// The running kernel's version: major, minor.
pub(crate) fn kernel() -> Result<(u32, u32)> {
    let name = nix::sys::utsname::uname().context("uname")?;
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-', '+']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("kernel release {release:?}"),
    }
}
