//! The commands of `docs/operators.md` that undo by hand what the tools have changed. What only the machine
//! knows (a rule's number, what a setting was before) is filled in.

use std::fs;

use anyhow::{Context, Result, ensure};
use netdev::Ethtool;
use netdev::ethtool::RingsChange;

use super::docs::wire;
use super::documents::commands;
use framework::console::{Shell, Shown};
use framework::driver::Driver;
use framework::ifindex;
use framework::nic_state::{self, Observer};
use framework::sysctl::Snapshot;
use framework::testbed::{self, NIC};
use framework::tool::{says, sh};

const RUNTIME: &str = "/run/devmem-tcp";

/// The runtime directory, put aside while commands run that must not need it.
struct Aside;

impl Aside {
    const PATH: &str = "/run/devmem-tcp.aside";

    fn put() -> Result<Self> {
        fs::rename(RUNTIME, Self::PATH).context(RUNTIME)?;
        Ok(Self)
    }

    fn back(self) -> Result<()> {
        fs::rename(Self::PATH, RUNTIME).context(RUNTIME)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // It is not there any more where it was put back.
        let _gone = fs::remove_dir_all(Self::PATH);
    }
}

/// Runs these commands one by one, each filled in by what the ones before it printed, without the journal:
/// that comes back for a command that removes it. `None` leaves a command out.
fn by_hand(
    commands: Vec<Shown>,
    mut fill: impl FnMut(Shown, &str) -> Result<Option<Shown>>,
) -> Result<()> {
    let shell = Shell::new()?;
    let mut aside = Some(Aside::put()?);
    let mut printed = String::new();
    for command in commands {
        let Some(command) = fill(command, &printed)? else {
            continue;
        };
        if command.code().starts_with("rm ") {
            aside.take().context("already back")?.back()?;
        }
        let placeholder = command.code().split_whitespace().any(|word| word == "N");
        ensure!(!placeholder, "not filled in: {}", command.line);
        printed.extend(shell.run(&[command])?);
    }
    ensure!(aside.is_none(), "no command removes the journal");
    let left = nic_state::runtime_files()?;
    ensure!(left.is_empty(), "{left:?} are left");
    Ok(())
}

/// The word behind these.
fn behind<'t>(text: &'t str, words: &str) -> Result<&'t str> {
    let rest = text.split_once(words).map(|(_, rest)| rest);
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.with_context(|| format!("no {words:?} in {text}"))
}

case!(nic);
/// What `apply` does at most, with the rules of each driver that can do it.
fn nic() -> Result<()> {
    for driver in [
        Driver::Swnic,
        Driver::Mlx5,
        Driver::Gve,
        Driver::Bnxt,
        Driver::Fbnic,
    ] {
        driver.imitate();
        nic_of(driver).with_context(|| format!("as {}", driver.name()))?;
        testbed::clear()?;
    }
    Ok(())
}

fn nic_of(driver: Driver) -> Result<()> {
    const RX: &str = "512";
    const CHANNELS: &str = "8";
    testbed::wire_with(16, "")?;
    testbed::set_nic_channels(CHANNELS.parse()?)??;
    let nic = ifindex(NIC)?;
    let mut ethtool = Ethtool::open()?;
    let rx = RingsChange {
        rx: Some(RX.parse()?),
        ..RingsChange::default()
    };
    ethtool.set_rings(nic, &rx)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let (rings, features) = (ethtool.rings(nic)?, ethtool.features(nic)?);
    let apart = ethtool.channels(nic)?.combined_max.unwrap_or(0) == 0;
    let queues = match driver.contexts() {
        0 => "--queue 6",
        _ => "--queue 6 --queue 7",
    };
    let line = format!(
        "devmem-tcp apply {NIC} {queues} --flow 192.0.2.2:5000 --channels 12 --rx-ring 1024"
    );
    let said = Shell::new()?.run(&[Shown::between(line)])?;
    says(&said[0], &["ntuple rule", " rx ", "channels"])?;
    by_hand(commands("docs_undone.nic")?, |command, printed| {
        let code = command.code().to_owned();
        let was_off = |name: &str| !features.active.contains(name);
        let filled = |placeholder: &str, value: &str| {
            let name = placeholder.trim_end_matches('N');
            command.clone().with(placeholder, format!("{name}{value}"))
        };
        Ok(match &code[..] {
            "ethtool -N eth1 delete N" => Some(filled("delete N", behind(printed, "Filter: ")?)?),
            "ethtool -X eth1 context N delete" if driver.contexts() == 0 => None,
            "ethtool -X eth1 context N delete" => {
                Some(filled("context N", behind(printed, "RSS Context ")?)?)
            }
            "ethtool -G eth1 tcp-data-split auto" if driver == Driver::Gve => {
                Some(command.with("auto", "off")?)
            }
            "ethtool -G eth1 rx N" => Some(filled("rx N", RX)?),
            "ethtool -L eth1 combined N" if apart => {
                let both = format!("rx {CHANNELS} tx {CHANNELS}");
                Some(command.with("combined N", both)?)
            }
            "ethtool -L eth1 combined N" => Some(filled("combined N", CHANNELS)?),
            "ethtool -K eth1 rx-gro-hw off" => was_off("rx-gro-hw").then_some(command),
            "ethtool -K eth1 ntuple off" => was_off("rx-ntuple-filter").then_some(command),
            _ => Some(command),
        })
    })?;
    if driver.has_threshold() {
        // The VM's ethtool does not know it, as the document says.
        let threshold = RingsChange {
            hds_thresh: rings.hds_thresh,
            ..RingsChange::default()
        };
        ethtool.set_rings(nic, &threshold)?;
    }
    observer.same(&before)
}

/// Routes, rules, neighbours that are answered for, and the container's devices.
fn routing() -> Result<String> {
    let mut all = String::new();
    for line in [
        "ip route",
        "ip -6 route",
        "ip rule",
        "ip -6 rule",
        "ip neigh show proxy",
        "ip -6 neigh show proxy",
        "ip -n box -br link",
    ] {
        all += &sh(line)?;
    }
    Ok(all)
}

case!(lease);
/// One with an address of each kind, on a NIC with LRO.
fn lease() -> Result<()> {
    let _sender = wire()?;
    sh(&format!("ethtool -K {NIC} lro on"))?;
    let mut observer = Observer::of(NIC)?;
    let (before, routes, settings) = (observer.state()?, routing()?, Snapshot::take()?);
    let shell = Shell::new()?;
    let line = "devmem-tcp lease --phys eth1 --queue 15 --netkit nk0 --netns box \
                 --address 192.0.2.9 --address 2001:db8:2::9";
    shell.run(&[Shown::between(line)])?;
    ensure!(!before.differs(&observer.state()?).is_empty(), "LRO is on");
    let mut steps = commands("docs_undone.lease")?;
    // The journal goes last, after the other address, too.
    let rm = steps.iter().position(|step| step.code().starts_with("rm "));
    let rm = steps.remove(rm.context("nothing removes the journal")?);
    steps.push(rm);
    by_hand(steps, |command, _| Ok(Some(command)))?;
    let now = routing()?;
    ensure!(now == routes, "before:\n{routes}\nnow:\n{now}");
    // The runner looks at those of all devices only: a NIC's go with it.
    let changed = Snapshot::take()?.differences(&settings);
    ensure!(changed.is_empty(), "other settings: {changed:?}");
    let shown = shell.run(&[Shown::between("devmem-tcp show")])?;
    ensure!(!shown[0].contains("nk0"), "{}", shown[0]);
    observer.same(&before)
}
