//! Journals of a NIC that are damaged, foreign or out of date.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, RssChange};
use netdev::{Ethtool, Link, NetNs, QueueId};

use framework::doctor::{Report, run_remedy};
use framework::ifindex;
use framework::nic_state::{self, Observer, State};
use framework::println_line;
use framework::receiver::{STEP, kill_with_guardian, recv, restore, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS, PEER};
use framework::tool::{Finished, Running, finish};

/// A NIC as a killed receiver and its killed guardian left it.
struct CrashedNic {
    observer: Observer,
    /// State of the NIC before the receiver; [`bent`](Self::bent) is the one after it.
    before: State,
    bent: State,
    journal: PathBuf,
    written: Vec<u8>,
}

/// Kills a receiver and its guardian, and returns what they left: the NIC's states and the journal.
fn crash_receiver() -> Result<CrashedNic> {
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let receiver = start_bound(recv(5000))?;
    kill_with_guardian(receiver)?;
    let journal = nic_state::journal()?;
    Ok(CrashedNic {
        before,
        bent: observer.state()?,
        observer,
        written: fs::read(&journal)?,
        journal,
    })
}

impl CrashedNic {
    /// Writes the original journal back, and restores the NIC by it.
    fn restore_journal(&mut self) -> Result<()> {
        fs::write(&self.journal, &self.written)?;
        println_line(restore()?.good("restore")?.trim_end());
        self.observer.soon_same(&self.before)
    }
}

/// Checks that a command failed with an error that contains `what`.
fn check_fails_naming(end: Finished, what: &str) -> Result<()> {
    let said = end.refused(1)?;
    println_line(said.trim_end());
    ensure!(said.contains(what), "it does not name {what:?}: {said}");
    Ok(())
}

case!(damaged);
/// Truncates or replaces the journal in several ways. `restore`, `doctor` and `recv` must name the
/// file and change nothing.
fn damaged() -> Result<()> {
    testbed::wire()?;
    let mut left = crash_receiver()?;
    let written = String::from_utf8(left.written.clone())?;
    let name = left.journal.file_name().context("a file")?;
    let name = name.to_string_lossy().into_owned();
    let versions: Vec<Vec<u8>> = [
        "",
        "{",
        &written[..written.len() / 2],
        &written[..written.trim_end().len() - 1],
        "null",
        "[]",
        "\0\0\0\0",
        &format!("{written}{written}"),
        &written.replacen("\"version\"", "\"vision\"", 1),
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([left.written.iter().map(|byte| byte ^ 0x80).collect()])
    .collect();
    for (turn, version) in versions.iter().enumerate() {
        fs::write(&left.journal, version)?;
        check_fails_naming(restore()?, &name).with_context(|| format!("version {turn}"))?;
        left.observer.same(&left.bent)?;
        ensure!(fs::read(&left.journal)? == *version, "it was written anew");
    }
    // The doctor says so of this NIC, and how to go on; that names the file.
    let report = Report::of(NIC)?;
    ensure!(report.status("journal.nic") == "fail", "{}", report.json);
    let remedy = report.remedy("journal.nic")?;
    let rm = format!("rm {}", left.journal.display());
    ensure!(remedy.ends_with(&rm), "{remedy}");
    run_remedy(&rm)?;
    ensure!(!left.journal.exists(), "{rm}: it is still there");
    fs::write(&left.journal, b"[]")?;
    // Nor is anything changed on top of it.
    check_fails_naming(Running::start(recv(5001))?.end_within(STEP)?, &name)?;
    left.observer.same(&left.bent)?;
    left.restore_journal()
}

case!(of_another_boot);
/// Makes the journal one of another boot, whose settings are gone. `restore` must remove it, and
/// not change the NIC.
fn of_another_boot() -> Result<()> {
    testbed::wire()?;
    let mut left = crash_receiver()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim();
    let written = String::from_utf8(left.written.clone())?;
    ensure!(written.contains(boot), "no boot id in {written}");
    let other = written.replace(boot, "01234567-89ab-cdef-0123-456789abcdef");

    fs::write(&left.journal, &other)?;
    let said = restore()?.good("restore")?;
    println_line(said.trim_end());
    ensure!(said.contains("boot"), "it does not name the boot: {said}");
    left.observer.same(&left.bent)?;
    nic_state::check_nothing_left()?;

    // A receiver is not hindered by it, and leaves what it found.
    fs::write(&left.journal, &other)?;
    let receiver = start_bound(recv(5001))?;
    receiver.stop()?;
    left.observer.soon_same(&left.bent)?;
    left.restore_journal()
}

case!(of_another_nic);
/// Replaces the NIC by a new one of the same name with the same settings. `restore` must say that
/// the old one is gone, and leave the new one alone.
fn of_another_nic() -> Result<()> {
    for again in [false, true] {
        testbed::wire()?;
        let left = crash_receiver()?;
        testbed::clear()?;
        testbed::wire()?;
        set_up_like_receiver()?;
        let mut observer = Observer::of(NIC)?;
        let before = observer.state()?;
        if again {
            // A receiver on the new one minds its own.
            let receiver = start_bound(recv(5001))?;
            receiver.stop()?;
            observer.same(&before)?;
        }
        check_reported_gone(&left)?;
        observer.soon_same(&before)?;
        testbed::clear()?;
    }
    Ok(())
}

/// Sets the NIC up as [`recv`] does: header split, a queue without RSS, and a rule to the queue.
fn set_up_like_receiver() -> Result<()> {
    testbed::enable_header_split()?;
    let (mut ethtool, nic) = (Ethtool::open()?, ifindex(NIC)?);
    let last = testbed::QUEUES - 1;
    let others = (0..last).map(QueueId::new);
    let len = ethtool.rss(nic)?.table.len();
    let change = RssChange {
        table: Some(others.cycle().take(len).collect()),
        ..RssChange::default()
    };
    ethtool.set_rss(nic, None, &change)?;
    let to = format!("{NIC_ADDRESS}:5000").parse()?;
    testbed::insert_rule(&FlowRule::tcp_to(to, Action::Queue(QueueId::new(last)))).map(drop)
}

/// Checks that `restore` reports the NIC as gone and removes its journal.
fn check_reported_gone(left: &CrashedNic) -> Result<()> {
    ensure!(left.journal.exists(), "the journal went by itself");
    let said = restore()?.good("restore")?;
    println_line(said.trim_end());
    ensure!(said.contains("gone"), "it does not say so: {said}");
    nic_state::check_nothing_left()
}

case!(of_a_nic_that_is_gone);
/// Removes the NIC. `restore` must report it as gone and remove its journal.
fn of_a_nic_that_is_gone() -> Result<()> {
    testbed::wire()?;
    let left = crash_receiver()?;
    testbed::clear()?;
    check_reported_gone(&left)
}

case!(of_a_nic_that_moved);
/// Moves the NIC to another namespace. `restore` must find and restore it there.
fn of_a_nic_that_moved() -> Result<()> {
    testbed::wire()?;
    let left = crash_receiver()?;
    let peer = NetNs::by_name(PEER)?;
    let mut link = Link::open()?;
    let nic = link.by_name(NIC)?.ifindex;
    link.set_netns(nic, &peer)?;
    println_line(restore()?.good("restore")?.trim_end());
    nic_state::check_nothing_left()?;
    let mut observer = Observer::in_namespace(&peer, NIC)?;
    observer.same(&left.before)
}

case!(no_place_for_it);
/// Makes the runtime directory unusable, or writable for others. `recv` must refuse and change
/// nothing.
fn no_place_for_it() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for place in ["/proc/no/place", "/dev/null", "/tmp/anybodys"] {
        if place == "/tmp/anybodys" {
            fs::create_dir_all(place)?;
            fs::set_permissions(place, fs::Permissions::from_mode(0o777))?;
        }
        let mut receiver = recv(5000);
        receiver.env("DEVMEM_TCP_RUNTIME_DIR", place);
        check_fails_naming(finish(receiver)?, place)?;
        observer.soon_same(&before)?;
    }
    Ok(())
}
