//! The runtime directory, which has the journals: where it is, and which users can lock it.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use framework::doctor::{Report, Severity, check_named_by};
use framework::nic_state::Observer;
use framework::println_line;
use framework::receiver::{STEP, bound_queues, recv, restore, start_bound};
use framework::testbed::{self, NIC};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;

const RUNTIME: &str = "/run/devmem-tcp";
const LOCK: &str = "/run/devmem-tcp/lock";

/// Runs a shell script as a user without privileges.
fn as_ordinary_user(script: &str) -> Command {
    let mut run = Command::new("setpriv");
    run.args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c"]);
    run.arg(script).stdin(Stdio::null());
    run
}

case!(lock_is_for_root_alone);
/// Locks the runtime directory as an ordinary user, also through a file opened when the lock's mode
/// was wrong. Root must not have to wait.
fn lock_is_for_root_alone() -> Result<()> {
    restore()?.good("restore")?;
    let mode = || -> Result<u32> { Ok(fs::metadata(LOCK)?.permissions().mode() & 0o777) };
    ensure!(mode()? == 0o600, "mode {:o}", mode()?);
    let script = format!("exec 9<{LOCK} && flock 9 && exec sleep 60");
    let said = finish(as_ordinary_user(&script))?.refused(2)?;
    println_line(said.trim_end());

    // As earlier versions made it.
    fs::set_permissions(LOCK, fs::Permissions::from_mode(0o644))?;
    let script = format!("exec 9<{LOCK}; touch /tmp/open; sleep 2; flock 9; exec sleep 60");
    let user = Running::start(as_ordinary_user(&script))?;
    until("the user's file", STEP, || {
        Ok(Path::new("/tmp/open").exists())
    })?;
    restore()?.good("restore")?;
    ensure!(mode()? == 0o600, "mode {:o}", mode()?);
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    restore()?.good("restore")?;
    ensure!(began.elapsed() < STEP, "it waited {:?}", began.elapsed());
    user.kill()?;
    fs::remove_file("/tmp/open")?;
    Ok(())
}

case!(full);
/// Fills the runtime directory's file system while a receiver runs. The receiver, or its guardian
/// after SIGKILL, must restore the NIC nevertheless.
fn full() -> Result<()> {
    const DIR: &str = "/tmp/full";
    testbed::wire()?;
    fs::create_dir(DIR)?;
    sh(&format!("mount -t tmpfs -o size=64k,mode=0755 none {DIR}"))?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for last in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut receiver = recv(5000);
        receiver.env("DEVMEM_TCP_RUNTIME_DIR", DIR);
        let receiver = Running::start(receiver)?;
        until("a binding", STEP, || Ok(bound_queues()? == 1))?;
        let filled = fs::write(format!("{DIR}/filler"), [7; 1 << 16]);
        ensure!(filled.is_err(), "there was room");
        receiver.signal(last)?;
        let end = receiver.end_within(STEP)?;
        println_line(end.stderr.trim_end());
        observer
            .soon_same(&before)
            .with_context(|| last.to_string())?;
        fs::remove_file(format!("{DIR}/filler"))?;
    }
    sh(&format!("umount {DIR}"))?;
    Ok(fs::remove_dir(DIR)?)
}

case!(nobody_reads_the_log);
/// Blocks a `lease -v` on a standard error that is not read. Other commands must not have to wait
/// for it.
fn nobody_reads_the_log() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line =
        format!("-v lease --phys {NIC} --queue 3 --netkit nk0 --netns box --address 192.0.2.9");
    let mut lease = command(None, &devmem_tcp(), &line);
    let (reader, writer) = nix::unistd::pipe()?;
    let mut reader = fs::File::from(reader);
    fill_pipe(&writer)?;
    lease.stderr(writer.try_clone()?).stdout(Stdio::piped());
    let mut child = lease.spawn()?;
    let made = until("the lease", STEP, || {
        Ok(sh("ip -n box link show dev nk0").is_ok())
    });
    let began = Instant::now();
    let other = restore();
    let waited = began.elapsed();
    // Now somebody does.
    drop((writer, lease));
    let drained = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    let ended = child.wait()?;
    let said = drained.join().ok().context("reader")??;
    made?;
    other?.good("restore")?;
    println_line(&format!("{} bytes were told", said.len()));
    ensure!(waited < STEP, "another waited {waited:?}");
    ensure!(ended.success(), "lease: {ended}");
    // The lease's rules would drop what comes for the guests of later cases.
    finish(command(None, &devmem_tcp(), "unlease nk0 --netns box"))?
        .good("unlease")
        .map(drop)
}

/// Fills a pipe until it takes no more bytes.
fn fill_pipe(writer: &OwnedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(writer, FcntlArg::F_GETFL)?);
    fcntl(writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    while nix::unistd::write(writer, &[b'.'; 4096]).is_ok() {}
    fcntl(writer, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

case!(relative_directory);
/// Names the runtime directory by a relative path. Receiver and guardian must use the same one.
fn relative_directory() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    fs::create_dir_all("/tmp/here")?;
    let mut receiver = recv(5000);
    receiver.current_dir("/tmp/here");
    receiver.env("DEVMEM_TCP_RUNTIME_DIR", "run");
    let receiver = start_bound(receiver)?;
    ensure!(observer.same(&before).is_err(), "nothing was set up");
    receiver.kill()?;
    observer.soon_same(&before)?;
    fs::remove_dir_all("/tmp/here")?;
    Ok(())
}

case!(files_of_others_stay);
/// Leaves temporary files in the runtime directory. Only those of a killed writer of this program
/// may be removed.
fn files_of_others_stay() -> Result<()> {
    restore()?.good("restore")?;
    let others = ["notes.tmp", "nic.tmp", "report.json.tmp"].map(|it| Path::new(RUNTIME).join(it));
    let ours = Path::new(RUNTIME).join("nic-1-2.json.tmp");
    for file in others.iter().chain([&ours]) {
        fs::write(file, "{")?;
    }
    restore()?.good("restore")?;
    for file in &others {
        ensure!(file.exists(), "{} is gone", file.display());
        fs::remove_file(file)?;
    }
    ensure!(!ours.exists(), "{} is left", ours.display());
    Ok(())
}

case!(doctor_finds_no_place);
/// Makes the runtime directory unusable. `doctor` must say so, as `recv` would fail.
fn doctor_finds_no_place() -> Result<()> {
    testbed::wire()?;
    fs::create_dir_all("/tmp/anybodys")?;
    fs::set_permissions("/tmp/anybodys", fs::Permissions::from_mode(0o777))?;
    fs::create_dir_all("/tmp/full")?;
    sh("mount -t tmpfs -o size=4k tmpfs /tmp/full")?;
    fs::write("/tmp/full/it", [0; 4096])?;
    let result = check_places();
    sh("umount /tmp/full")?;
    result?;
    Report::of(NIC)?.healthy()
}

fn check_places() -> Result<()> {
    for place in [
        "/proc/no/place",
        "/dev/null",
        "/dev/null/x",
        "/tmp/anybodys",
        "/tmp/full/here",
    ] {
        let with = |line: &str| {
            let mut doctor = command(None, &devmem_tcp(), line);
            doctor.env("DEVMEM_TCP_RUNTIME_DIR", place);
            doctor
        };
        check_named_by(with, NIC, "journal.place", Severity::NoRx).context(place)?;
        let mut receiver = recv(5000);
        receiver.env("DEVMEM_TCP_RUNTIME_DIR", place);
        finish(receiver)?.refused(1).context(place)?;
    }
    // Read-only, as in a container.
    let read_only = |line: &str| {
        let mut doctor = Command::new("unshare");
        let tool = devmem_tcp();
        let script = format!(
            "mount -t tmpfs -o ro tmpfs /run && exec {} {line}",
            tool.display()
        );
        doctor
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::null());
        doctor
    };
    check_named_by(read_only, NIC, "journal.place", Severity::NoRx)?;
    Ok(())
}
