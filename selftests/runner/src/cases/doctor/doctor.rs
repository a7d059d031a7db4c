//! `doctor` on healthy machines and NICs; it changes nothing.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use netdev::{Link, NetNs, Netdev};

use framework::command_line::Recv;
use framework::doctor::{Report, as_user};
use framework::driver::Driver;
use framework::leases::Guest;
use framework::nic_state::Observer;
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS, PEER, SENDER};
use framework::tool::{command, finish, sh};
use framework::transfer::{devmem_tcp, validated};

case!(healthy);
/// Runs `doctor` on a healthy NIC. It must report that receiving, sending and leasing work, and
/// receiving must work.
fn healthy() -> Result<()> {
    testbed::wire()?;
    let report = Report::of(NIC)?;
    report.healthy()?;
    for area in ["receives", "sends", "leases"] {
        ensure!(report.json[area] == true, "not {area}: {}", report.json);
    }
    let to = format!("{NIC_ADDRESS}:5000");
    validated(Recv::on(NIC), &to, 1 << 20).map(drop)
}

case!(of_all_nics);
/// Runs `doctor` without a device. It must have a line for each NIC, and exit with 0 only if one of
/// them can receive.
fn of_all_nics() -> Result<()> {
    testbed::wire()?;
    let report = Report::of("")?;
    report.healthy()?;
    let nics = report.json["nics"].as_array().context("nics")?;
    let nic = nics.iter().find(|nic| nic["device"] == NIC);
    let nic = nic.with_context(|| format!("no {NIC} in {nics:?}"))?;
    ensure!(nic["receives"] == true && nic["driver"] == "swnic", "{nic}");
    sh(&format!("ip link set dev {NIC} down"))?;
    let report = Report::of("")?;
    ensure!(report.code == Some(1), "with its only NIC down");
    ensure!(
        report.json["nics"][0]["failed"][0] == "link.up",
        "{}",
        report.json
    );
    Ok(())
}

case!(in_another_namespace);
fn in_another_namespace() -> Result<()> {
    testbed::wire()?;
    Report::of(&format!("{SENDER} --netns {PEER}"))?.healthy()?;
    Report::of(&format!("{SENDER} --netns /run/netns/{PEER}"))?.healthy()
}

case!(schema);
/// Checks the JSON of `doctor`: each check has a name of its own and says what must be true, and
/// each that is not ok has a remedy.
fn schema() -> Result<()> {
    testbed::wire()?;
    let report = Report::of(NIC)?;
    let checks = report.json["checks"].as_array().context("checks")?;
    let mut seen = HashSet::new();
    for check in checks {
        let text = |key: &str| {
            check[key]
                .as_str()
                .with_context(|| format!("{key} of {check}"))
        };
        ensure!(seen.insert(text("id")?), "twice: {check}");
        ensure!(
            !text("what")?.is_empty() && !text("found")?.is_empty(),
            "{check}"
        );
        ensure!(["ok", "warn", "fail"].contains(&text("status")?), "{check}");
        let areas = check["areas"].as_array().context("areas")?;
        ensure!(!areas.is_empty(), "{check}");
        let known = |area| ["rx", "tx", "lease"].iter().any(|known| area == known);
        ensure!(areas.iter().all(known), "{check}");
        let needs = check["status"] != "ok";
        ensure!(!needs || check["remedy"].is_string(), "no remedy: {check}");
        ensure!(
            check["device"].is_null() || check["device"] == NIC,
            "{check}"
        );
    }
    ensure!(seen.len() > 30, "{} checks", seen.len());
    Ok(())
}

case!(changes_nothing);
/// Runs `doctor` in several states of the NIC. It must change neither the NIC nor the machine's
/// settings.
fn changes_nothing() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let mut nic = Observer::of(NIC)?;
    let look = |line: &str| -> Result<()> {
        finish(command(None, &devmem_tcp(), &format!("doctor {line}"))).map(drop)
    };
    for prepare in [
        "",
        "ethtool -K eth1 ntuple off",
        "ip link set dev eth1 down",
    ] {
        let fixed = prepare.contains("ntuple") && Driver::imitated() == Driver::Fbnic;
        if !prepare.is_empty() && !fixed {
            sh(prepare)?;
        }
        let before = (nic.state()?, settings_as_text()?, devices_as_text()?);
        look(NIC)?;
        look("")?;
        finish(as_user(&devmem_tcp(), &format!("doctor {NIC}"), false))?;
        nic.same(&before.0)?;
        check_same_text(&before.1, &settings_as_text()?)?;
        check_same_text(&before.2, &devices_as_text()?)?;
    }
    sh(&format!("ip link set dev {NIC} up"))?;
    // Split on is what a bind wants: here a trial would succeed if it could.
    testbed::enable_header_split()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(3, 1)?;
    let before = (nic.state()?, devices_as_text()?);
    look(NIC)?;
    look(&format!("{GUEST} --netns {BOX}"))?;
    // Who may not enter the guest's namespace gets a report, too.
    let said = finish(as_user(&devmem_tcp(), &format!("doctor {NIC}"), true))?;
    ensure!(
        said.stdout.contains("this machine:") || said.stdout.contains(&format!("{NIC}:")),
        "{}{}",
        said.stdout,
        said.stderr
    );
    nic.same(&before.0)?;
    check_same_text(&before.1, &devices_as_text()?)
}

/// Checks that two texts are equal, and prints the lines that differ.
fn check_same_text(before: &str, after: &str) -> Result<()> {
    let gone = before.lines().filter(|line| !after.contains(line));
    let new = after.lines().filter(|line| !before.contains(line));
    let changes: Vec<_> = gone
        .map(|line| ("before", line))
        .chain(new.map(|line| ("now", line)))
        .collect();
    ensure!(before == after, "{changes:#?}");
    Ok(())
}

/// Lists devices, namespace numbers and page pools as text, without what changes by itself. A pool
/// whose device is gone is left out, because it ends by itself (`page_pool_release_retry`).
fn devices_as_text() -> Result<String> {
    let mut link = Link::open()?;
    let mut text = String::new();
    for one in link.list()? {
        let (netkit, xdp) = (one.netkit, one.xdp);
        text += &format!("{} {} {} {netkit:?} {xdp:?}\n", one.name, one.up, one.mtu);
    }
    for netns in [PEER, BOX] {
        text += &format!("{netns} {:?}\n", link.nsid(&NetNs::by_name(netns)?)?);
    }
    for pool in Netdev::open()?.page_pools(None)? {
        if let Some(ifindex) = pool.ifindex {
            text += &format!("pool {} of {ifindex}\n", pool.id);
        }
    }
    Ok(text)
}

/// Reads the settings under `/proc/sys` that a check reads or a remedy sets, and those of udmabuf,
/// as text.
fn settings_as_text() -> Result<String> {
    let mut text = String::new();
    for folder in [
        "/proc/sys/net/core",
        "/proc/sys/net/ipv4",
        "/proc/sys/net/ipv4/conf/all",
        "/proc/sys/net/ipv4/conf/eth1",
        "/proc/sys/net/ipv6/conf/all",
        "/proc/sys/vm",
        "/sys/module/udmabuf/parameters",
    ] {
        let mut files: Vec<_> = fs::read_dir(folder)?
            .flatten()
            .map(|file| file.path())
            .collect();
        files.sort();
        for file in files {
            // Some cannot be read, some change by themselves.
            let value = fs::read_to_string(&file).unwrap_or_default();
            if !Path::new("/proc/sys/net/ipv4")
                .join("tcp_fastopen_key")
                .eq(&file)
            {
                text += &format!("{} {value}", file.display());
            }
        }
    }
    Ok(text)
}
