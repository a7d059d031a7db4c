//! NICs and namespaces that exist but can't be found: `restore` does not take them for gone.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use netdev::{Ifindex, Link, NetNs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use framework::nic_state::{self, Observer, State};
use framework::println_line;
use framework::receiver::{STEP, crash, recv, restore};
use framework::testbed::{self, BOX, NIC, PEER};
use framework::tool::{Finished, Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;

const NONE: Option<&Path> = None;

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

/// Kills a receiver and its guardian, and returns the NIC's state before them.
fn crash_receiver() -> Result<State> {
    let before = Observer::of(NIC)?.state()?;
    crash(recv(5000))?;
    Ok(before)
}

/// Makes a network namespace that is kept only by a mount on the file `at`.
fn mount_new_namespace(at: &Path) -> Result<()> {
    fs::File::create(at)?;
    let path = at.to_owned();
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &path, NONE, MsFlags::MS_BIND, NONE)
    });
    let made = made.join().map_err(|_| anyhow!("the thread panicked"))?;
    made.with_context(|| at.display().to_string())
}

case!(too_few_descriptors);
/// Moves the NIC to the last of 2,000 namespaces, and runs `restore` with 64 file descriptors. It
/// must find the NIC.
fn too_few_descriptors() -> Result<()> {
    const MANY: u32 = 2000;
    testbed::wire()?;
    let before = crash_receiver()?;
    fs::create_dir_all("/tmp/many")?;
    let path = |number: u32| Path::new("/tmp/many").join(format!("{number:04}"));
    for number in 0..MANY {
        mount_new_namespace(&path(number))?;
    }
    let last = NetNs::by_path(path(MANY - 1))?;
    let mut link = Link::open()?;
    let nic = link.by_name(NIC)?.ifindex;
    link.set_netns(nic, &last)?;
    let mut few = Command::new("sh");
    let line = format!("ulimit -n 64 && exec {} restore", devmem_tcp().display());
    few.args(["-c", &line]).stdin(Stdio::null());
    let result = check_restored_in(finish(few)?, &last, &before);
    drop(last);
    for number in 0..MANY {
        umount2(&path(number), MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir_all("/tmp/many")?;
    result
}

fn check_restored_in(end: Finished, there: &NetNs, before: &State) -> Result<()> {
    println_line(end.stdout.trim_end());
    end.good("restore")?;
    Observer::in_namespace(there, NIC)?.same(before)?;
    nic_state::check_nothing_left()
}

case!(under_another_number);
/// Moves the NIC away and back, so that its ifindex and name change. `restore` must know it again.
fn under_another_number() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let before = crash_receiver()?;
    let mut link = Link::open()?;
    let nic = link.by_name(NIC)?.ifindex;
    sh(&format!("ip -n {BOX} link add nkz index {nic} type netkit"))?;
    let container = NetNs::by_name(BOX)?;
    link.set_netns(nic, &container)?;
    let mut inside = Link::open_in(&container)?;
    let there = inside.by_name(NIC)?.ifindex;
    ensure!(there != nic, "it kept its number");
    sh(&format!("ip -n {BOX} link set dev {NIC} name rail0"))?;
    inside.set_netns(there, &NetNs::current()?)?;
    let home = link.by_name("rail0")?.ifindex;
    println_line(&format!("ifindex {nic}, {there} in {BOX}, {home} at home"));
    ensure!(home != nic, "it has its number again");
    // Its old name goes to nobody: it is not there.
    let said = tool(&format!("restore {NIC}"))?.good("restore")?;
    ensure!(said.contains("nothing to restore"), "{said}");
    let said = tool("restore rail0")?.good("restore")?;
    println_line(said.trim_end());
    ensure!(said.contains("as it was before"), "{said}");
    before.same_in_words(&Observer::of("rail0")?.state()?)?;
    nic_state::check_nothing_left()
}

case!(not_to_be_entered);
/// Runs `restore` without the right to enter the NIC's namespace. It must keep the journal.
fn not_to_be_entered() -> Result<()> {
    testbed::wire()?;
    let before = crash_receiver()?;
    let peer = NetNs::by_name(PEER)?;
    let mut link = Link::open()?;
    let nic = link.by_name(NIC)?.ifindex;
    link.set_netns(nic, &peer)?;
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
    weak.arg(devmem_tcp()).arg("restore").stdin(Stdio::null());
    let said = finish(weak)?.refused(1)?;
    println_line(said.trim_end());
    ensure!(said.contains("stays noted"), "{said}");
    nic_state::journal().context("the journal is gone")?;
    check_restored_in(restore()?, &peer, &before)
}

case!(held_by_a_descriptor);
/// Moves the NIC to a namespace that only an open file descriptor keeps. `restore` must find the
/// NIC.
fn held_by_a_descriptor() -> Result<()> {
    testbed::wire()?;
    let before = crash_receiver()?;
    let mut holder = Command::new("unshare");
    let script = "exec 9</proc/self/ns/net && exec nsenter --net=/proc/1/ns/net sleep 100";
    holder
        .args(["--net", "sh", "-c", script])
        .stdin(Stdio::null());
    let holder = Running::start(holder)?;
    let fd = format!("/proc/{}/fd/9", holder.id());
    let ours = NetNs::current()?;
    until("the holder", STEP, || {
        let it = NetNs::by_pid(holder.id()).and_then(|it| it.is_same(&ours));
        Ok(it.unwrap_or(false) && Path::new(&fd).exists())
    })?;
    let there = NetNs::by_path(&fd)?;
    ensure!(!there.is_same(&ours)?, "it holds ours");
    let mut link = Link::open()?;
    let nic = link.by_name(NIC)?.ifindex;
    link.set_netns(nic, &there)?;
    let result = check_restored_in(restore()?, &there, &before);
    holder.kill()?;
    result
}

case!(kept_by_a_mount);
/// Leases to a namespace that only a mount keeps, as container engines make them; then the mount is
/// in another mount namespace only. The lease must be seen as alive in both.
fn kept_by_a_mount() -> Result<()> {
    testbed::wire()?;
    let place = Path::new("/tmp/kept");
    mount_new_namespace(place)?;
    let line = format!("lease --phys {NIC} --queue 3 --netkit nk0 --kind single --netns /tmp/kept");
    tool(&line)?.good(&line)?;
    let lives = || -> Result<()> {
        let said = tool("unlease --all-stale")?.good("unlease")?;
        ensure!(said.contains("no lease left anything"), "{said}");
        let shown = tool("show")?.good("show")?;
        println_line(shown.trim_end());
        ensure!(shown.contains("/kept/nk0 rx 1"), "{shown}");
        Ok(())
    };
    lives()?;
    // Another's mount namespace alone has it from now on.
    let mut engine = Command::new("unshare");
    let script = "mount --make-rprivate / && echo ready && exec sleep 100";
    engine.args(["-m", "sh", "-c", script]).stdin(Stdio::null());
    let engine = Running::start(engine)?;
    until("the engine", STEP, || {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", engine.id()));
        let ours = fs::read_link("/proc/self/ns/mnt")?;
        let its = fs::read_link(format!("/proc/{}/ns/mnt", engine.id()))?;
        Ok(
            ours != its
                && table.is_ok_and(|it| it.contains("/tmp/kept") && !it.contains("shared:")),
        )
    })?;
    umount2(place, MntFlags::MNT_DETACH)?;
    let result = lives();
    let gone = tool("unlease nk0")?.good("unlease");
    engine.kill()?;
    fs::remove_file(place)?;
    result?;
    let gone = gone?;
    println_line(gone.trim_end());
    ensure!(gone.contains("deleted netkit nk0"), "{gone}");
    Ok(())
}

case!(journal_of_another_under_our_name);
/// Renames a NIC's journal to the file name that another NIC's would have. The other NIC's journal
/// must not overwrite it.
fn journal_of_another_under_our_name() -> Result<()> {
    testbed::wire()?;
    let before = crash_receiver()?;
    let journal = nic_state::journal()?;
    let peer = NetNs::by_name(PEER)?;
    let mut link = Link::open()?;
    let mut inside = Link::open_in(&peer)?;
    // The sender's end comes home and gets the number that the name tells.
    let sender = inside.by_name(testbed::SENDER)?.ifindex;
    inside.set_netns(sender, &NetNs::current()?)?;
    let sender = link.by_name(testbed::SENDER)?.ifindex;
    let name = journal.file_name().context("name")?.to_string_lossy();
    let (stem, _) = name.rsplit_once('-').context("name")?;
    let theirs = journal.with_file_name(format!("{stem}-{sender}.json"));
    fs::rename(&journal, &theirs)?;
    let written = fs::read(&theirs)?;
    sh("ip link set dev eth0 up")?;
    let mut other = Observer::of(testbed::SENDER)?;
    let others = other.state()?;
    tool("apply eth0 --header-split")?.good("apply")?;
    ensure!(fs::read(&theirs)? == written, "it was written over");
    let said = tool("restore eth0")?.good("restore")?;
    println_line(said.trim_end());
    other.same(&others)?;
    ensure!(fs::read(&theirs)? == written, "it was written over");
    println_line(restore()?.good("restore")?.trim_end());
    Observer::of(NIC)?.same(&before)?;
    nic_state::check_nothing_left()
}

case!(names_that_were_swapped);
/// Swaps the names of two NICs. `restore` must know each by its device.
fn names_that_were_swapped() -> Result<()> {
    testbed::wire()?;
    let peer = NetNs::by_name(PEER)?;
    let mut inside = Link::open_in(&peer)?;
    let sender: Ifindex = inside.by_name(testbed::SENDER)?.ifindex;
    inside.set_netns(sender, &NetNs::current()?)?;
    sh("ip link set dev eth0 up")?;
    let (mut eth0, mut eth1) = (Observer::of("eth0")?, Observer::of("eth1")?);
    let (was0, was1) = (eth0.state()?, eth1.state()?);
    for nic in ["eth0", "eth1"] {
        tool(&format!("apply {nic} --queue 3"))?.good("apply")?;
    }
    for (from, to) in [("eth0", "x"), ("eth1", "eth0"), ("x", "eth1")] {
        sh(&format!("ip link set dev {from} name {to}"))?;
    }
    let would = tool("restore eth1 --dry-run")?.good("restore")?;
    println_line(would.trim_end());
    ensure!(would.lines().all(|line| line.starts_with("eth")), "{would}");
    println_line(tool("restore eth1")?.good("restore")?.trim_end());
    // What is called eth1 now was eth0.
    was0.same_in_words(&eth0.state()?)?;
    ensure!(
        was1.same_in_words(&eth1.state()?).is_err(),
        "both were restored"
    );
    println_line(tool("restore eth0")?.good("restore")?.trim_end());
    was1.same_in_words(&eth1.state()?)?;
    nic_state::check_nothing_left()
}
