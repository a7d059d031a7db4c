//! The journal of a lease that ends unexpectedly: by itself, under a receiver, by another program, or
//! half made.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netdev::{Link, NetNs};
use nix::sys::signal::Signal;

use super::lease_rounds::{BESIDE, BESIDE6, LAST, ROUTED, leased, receive, unlease, unleased};
use super::lease_way::{
    container_options, make_foreign_netkit, prepare_containers, read_forwarding, says,
    unlease_refused,
};
use framework::command_line::Recv;
use framework::footprint::Footprint;
use framework::leases::{check_free, check_no_device, delete, is_free};
use framework::receiver::bound_queues;
use framework::testbed::{self, BOX, BOX2, GUEST, HOST, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};
use framework::{machine, nic_state};

/// Time limit for the kernel to tear a namespace down after its name is gone.
const TEARDOWN: Duration = Duration::from_secs(30);

/// Returns the files of the lease journal.
fn lease_files() -> Result<Vec<PathBuf>> {
    let mut files = nic_state::runtime_files()?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("lease-") && name.ends_with(".json")
    });
    Ok(files)
}

/// Returns the only file of the lease journal.
fn lease_file() -> Result<PathBuf> {
    lease_files()?.pop().context("no note of a lease")
}

case!(netkits_that_went);
/// Lets two leased netkits disappear, one with its container and one deleted. `unlease` must remove
/// what each left, and keep what the other needs.
fn netkits_that_went() -> Result<()> {
    let before = prepare_containers()?;
    leased(&container_options(&format!(
        "--queue 2 --address {ROUTED} --address {BESIDE6}"
    )))?;
    leased(&format!(
        "--netkit nk1 --netns {BOX2} --queue 3 --address {BESIDE}"
    ))?;
    let nothing = unlease("--all-stale")?.good("unlease")?;
    says(&nothing, "no lease left anything")?;
    machine::delete_namespace(BOX)?;
    until("the end of the lease", TEARDOWN, || is_free(2))?;
    let would = unlease("--all-stale --dry-run")?.good("unlease")?;
    println_line(&would);
    says(&would, "would remove proxy entry 2001:db8:2::77 on eth1")?;
    let done = unlease("--all-stale")?.good("unlease")?;
    println_line(&done);
    says(&done, "nk1 still needs it")?;
    says(&done, "removed proxy entry 2001:db8:2::77 on eth1")?;
    ensure!(read_forwarding()? == "1", "the other's way is cut");
    delete("nk1h")?;
    // A new lease takes over what the old one noted of the NIC.
    testbed::container()?;
    leased(&container_options(&format!("--queue 3 --address {ROUTED}")))?;
    let gone = unlease("nk1 --netns box2")?.good("unlease")?;
    println_line(&gone);
    says(&gone, "was already gone")?;
    ensure!(read_forwarding()? == "1", "the other's way is cut");
    unleased(&format!("{GUEST} --netns {BOX}"))?;
    before.same()?;

    // A netkit of the same name: what the old one left is cleared away before its note is lost.
    leased(&container_options(&format!(
        "--queue 2 --address {BESIDE6}"
    )))?;
    delete(HOST)?;
    leased(&container_options(&format!("--queue 2 --address {ROUTED}")))?;
    unleased(&format!("{GUEST} --netns {BOX}"))?;
    before.same()
}

case!(netkit_of_somebody_else);
/// Leases to a netkit that another program made. `unlease` must refuse to delete it without
/// `--delete`.
fn netkit_of_somebody_else() -> Result<()> {
    let before = prepare_containers()?;
    make_foreign_netkit(2)?;
    let line = container_options(&format!(
        "--queue {LAST} --address {ROUTED} --address {BESIDE}"
    ));
    let leased = leased(&line)?;
    ensure!(!leased.made, "{leased:?}");
    receive(BOX, GUEST, format!("{ROUTED}:5000").parse()?, 64 << 10)?;
    let complaint = unlease_refused(&format!("{GUEST} --netns {BOX}"))?;
    says(&complaint, "was not made by")?;
    says(&complaint, "eth1 rx 3")?;
    says(&complaint, "--delete")?;
    ensure!(!is_free(LAST)?, "the lease has ended");
    receive(BOX, GUEST, format!("{ROUTED}:5001").parse()?, 64 << 10)?;
    unleased(&format!("{HOST} --delete"))?;
    before.same()?;
    // One that nothing is known of, and that leases nothing.
    make_foreign_netkit(1)?;
    unlease_refused(&format!("{GUEST} --netns {BOX}"))?;
    unleased(&format!("{GUEST} --netns {BOX} --delete"))?;
    before.same()?;
    says(&unlease_refused(NIC)?, "a physical device, not a netkit")?;
    says(&unlease_refused("nk0")?, "(ENODEV)")?;
    says(&unlease_refused("nk0 --netns none")?, "(ENOENT)")
}

case!(bound);
/// Ends a lease while a receiver uses it. `unlease` must refuse and name the receiver, and end both
/// with `--force`.
fn bound() -> Result<()> {
    let before = prepare_containers()?;
    leased(&container_options(&format!(
        "--queue {LAST} --address {ROUTED}"
    )))?;
    let receiver = Recv::on(GUEST)
        .netns(BOX)
        .listen(format!("{ROUTED}:5000"))
        .start_bound()?;
    let complaint = unlease_refused(&format!("{GUEST} --netns {BOX}"))?;
    says(&complaint, "dmabuf")?;
    says(&complaint, "devmem-tcp (pid ")?;
    let would = unlease(&format!("{GUEST} --netns {BOX} --dry-run"))?.refused(1)?;
    says(&would, "without --force")?;
    ensure!(!is_free(LAST)?, "the lease has ended");
    println_line(&unlease(&format!("{GUEST} --netns {BOX} --force"))?.good("unlease")?);
    check_free(LAST)?;
    let end = receiver.end_within(Duration::from_secs(30))?;
    println_line(end.stderr.trim_end());
    ensure!(end.status.code() == Some(4), "{}", end.status);
    before.soon_again()
}

case!(stopped_half_way);
/// Kills or ends `lease` at different moments. After SIGKILL `unlease` must remove what is left;
/// after SIGTERM nothing must be left.
fn stopped_half_way() -> Result<()> {
    let before = prepare_containers()?;
    let way = format!("--address {ROUTED} --address {BESIDE} --address {BESIDE6}");
    let line = format!(
        "lease --phys {NIC} {}",
        container_options(&format!("--queue {LAST} {way}"))
    );
    let (mut done, mut taken_back, mut half) = (0, 0, 0);
    for turn in 0..24 {
        let signal = [Signal::SIGKILL, Signal::SIGTERM][turn % 2];
        let running = Running::start(command(None, &devmem_tcp(), &line))?;
        // From the moment on at which it has noted what it will change.
        until("a note, or the end", TEARDOWN, || {
            Ok(!lease_files()?.is_empty())
        })?;
        thread::sleep(Duration::from_millis(turn as u64));
        // It may have ended already.
        let _ended = running.signal(signal);
        let end = running.end_within(TEARDOWN)?;
        let noted = !lease_files()?.is_empty();
        let what = format!("turn {turn}, {signal}, {}", end.status);
        match (end.status.success(), noted) {
            (true, _) => done += 1,
            (false, false) if signal == Signal::SIGTERM => taken_back += 1,
            (false, false) => bail!("{what}: killed, and nothing is noted any more"),
            (false, true) if signal == Signal::SIGKILL => half += 1,
            (false, true) => bail!("{what}: something is left"),
        }
        if noted {
            unlease(&format!("{GUEST} --netns {BOX}"))?.good(&what)?;
        } else {
            ensure!(!end.status.success(), "{what}: without a note");
        }
        remove_temporary_files()
            .and_then(|()| before.same())
            .context(what)?;
    }
    println_line(&format!(
        "{done} were done, {taken_back} were taken back, {half} left half done"
    ));
    ensure!(
        taken_back > 0 && half > 0,
        "none was stopped half-way by each signal"
    );
    Ok(())
}

/// Removes the temporary files of killed writers, by taking the runtime directory's lock once.
fn remove_temporary_files() -> Result<()> {
    unlease("--all-stale")?.good("unlease").map(drop)
}

case!(damaged_notes);
/// Damages the file of a lease, then makes it one of another boot. `unlease` must treat the netkit
/// as those of another program, and keep the damaged file aside.
fn damaged_notes() -> Result<()> {
    let before = prepare_containers()?;
    let line = container_options(&format!("--queue {LAST} --address {BESIDE}"));
    let end = format!("{GUEST} --netns {BOX}");
    leased(&line)?;
    let note = self::lease_file()?;
    let whole = fs::read_to_string(&note)?;
    fs::write(&note, &whole[..whole.len() / 2])?;
    let complaint = unlease_refused(&end)?;
    says(&complaint, "is damaged")?;
    says(&complaint, "was not made by")?;
    let aside = note.with_extension("damaged");
    ensure!(aside.exists() && !note.exists(), "not put aside");
    // Mended by hand, it counts again.
    fs::remove_file(&aside)?;
    fs::write(&note, &whole)?;
    unleased(&end)?;
    before.same()?;

    leased(&line)?;
    let whole = fs::read_to_string(&note)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    ensure!(whole.contains(boot.trim()), "no boot in {whole}");
    fs::write(&note, whole.replace(boot.trim(), "another"))?;
    says(&unlease_refused(&end)?, "was not made by")?;
    ensure!(!note.exists(), "a note of another boot stays");
    fs::write(&note, &whole)?;
    unleased(&end)?;
    before.same()
}

case!(nic_that_went);
/// Removes the NIC of a lease. `unlease` must say that the netkit was already gone, and remove the
/// lease's file.
fn nic_that_went() -> Result<()> {
    prepare_containers()?;
    leased(&container_options(&format!(
        "--queue {LAST} --address {ROUTED} --address {BESIDE6}"
    )))?;
    machine::unload()?;
    check_no_device(HOST)?;
    let gone = unlease(&format!("{GUEST} --netns {BOX}"))?.good("unlease")?;
    println_line(&gone);
    says(&gone, "was already gone")?;
    let left = nic_state::runtime_files()?;
    ensure!(left.is_empty(), "{left:?}");
    unlease_refused(&format!("{GUEST} --netns {BOX}")).map(drop)
}

case!(ended_from_elsewhere);
/// Ends a lease from a third namespace. A running receiver must be noticed, settings restored in
/// the right namespace, and a local device with the NIC's ifindex left alone.
fn ended_from_elsewhere() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let rail = NetNs::by_name(BOX2)?;
    let nic = ifindex(NIC)?;
    Link::open()?.set_netns(nic, &rail)?;
    sh(&format!(
        "ip -n {BOX2} address add {NIC_ADDRESS}/24 dev {NIC}"
    ))?;
    sh(&format!("ip -n {BOX2} link set dev {NIC} up"))?;
    sh(&format!(
        "ip link add nkz index {nic} type netkit peer name nky"
    ))?;
    testbed::forward(&["nkz"])?;
    let before = rail.run(Footprint::settled)??;
    let line = format!("--queue {LAST} --address {ROUTED} --address {BESIDE}");
    let line = format!("lease --phys {NIC} {}", container_options(&line));
    let lease = || finish(command(Some(BOX2), &devmem_tcp(), &line))?.good("lease");
    let as_before = |what: &str| -> Result<()> {
        rail.run(|| before.soon_again())?.context(what.to_owned())?;
        let here = fs::read_to_string("/proc/sys/net/ipv4/conf/nkz/forwarding")?;
        ensure!(here.trim() == "1", "{what}: a device of this namespace");
        ensure!(lease_files()?.is_empty(), "{what}: the note stays");
        Ok(())
    };
    let host = format!("{HOST} --netns {BOX2}");
    let guest = format!("{GUEST} --netns {BOX}");
    for end in [GUEST, &host, &guest] {
        lease()?;
        let would = unlease(&format!("{end} --dry-run"))?.good(end)?;
        says(&would, "would put back net.ipv4.conf.eth1.forwarding = 0")?;
        let receiver = Recv::on(GUEST).netns(BOX).within(BOX2);
        let receiver = receiver.listen(format!("{ROUTED}:5000")).start()?;
        until("a binding", TEARDOWN, || Ok(rail.run(bound_queues)?? > 0))?;
        says(&unlease_refused(end)?, "devmem-tcp (pid ")?;
        receiver.signal(Signal::SIGTERM)?;
        receiver.end_within(TEARDOWN)?;
        let done = unleased(end)?;
        println_line(&format!("{done:?}"));
        ensure!(done.phys_queues() == [LAST], "{done:?}");
        as_before(end)?;
    }
    lease()?;
    rail.run(|| delete(HOST))??;
    let gone = unlease(GUEST)?.good("unlease")?;
    says(&gone, "was already gone")?;
    as_before("a netkit that had gone")?;
    // With its namespace goes all but the note.
    lease()?;
    let stale = unlease("--all-stale")?.good("unlease")?;
    says(&stale, "no lease left anything")?;
    drop((before, rail));
    machine::delete_namespace(BOX2)?;
    until("the end of the namespace", TEARDOWN, || {
        Ok(ifindex(NIC).is_ok())
    })?;
    let stale = unlease("--all-stale")?.good("unlease")?;
    says(&stale, "netkit nk0 (namespace box) was already gone")?;
    ensure!(
        lease_files()?.is_empty(),
        "the note of a namespace that is gone"
    );
    delete("nkz")
}
