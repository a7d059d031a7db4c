//! The README's commands, as they stand there.

use std::fs;

use anyhow::{Result, ensure};

use super::documents::{SenderName, commands};
use framework::console::Shell;
use framework::nic_state::{self, Observer};
use framework::sysctl::Snapshot;
use framework::testbed::{self, NIC};

/// Numbers of the README's outputs that differ from run to run.
const VARYING: &[&str] = &[
    "Linux #",
    "in # s",
    "dmabuf #: # sends",
    "at most # and # MiB",
    "nk0 (ifindex #,",
    "swnic 15 # to",
    "to box/nk0 rx 1 #",
    "from eth1 rx 15 #",
];

case!(on_your_nic);
/// One block after the other, in the NIC and namespaces of `make vm`: each works, prints what the README
/// shows, and all is as before.
fn on_your_nic() -> Result<()> {
    testbed::wire_with(16, "")?;
    testbed::container()?;
    let _sender = SenderName::new()?;
    let mut observer = Observer::of(NIC)?;
    let (before, settings) = (observer.state()?, Snapshot::take()?);
    let commands = commands("readme.on_your_nic")?;
    ensure!(commands.len() > 15, "{} commands", commands.len());
    let shell = Shell::new()?.varying(VARYING);
    shell.run(&commands)?;
    let received = fs::metadata(shell.file("payload.bin"))?.len();
    ensure!(received == 64 << 20, "not 64 MiB");
    observer.same(&before)?;
    let changed = Snapshot::take()?.differences(&settings);
    ensure!(changed.is_empty(), "other settings: {changed:?}");
    nic_state::check_nothing_left()
}
