//! Resources that a receiver can't get, or loses: the error says which, and the NIC is what it was.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::cases::tools::remedies::run_remedies;
use framework::nic_state::Observer;
use framework::println_line;
use framework::receiver::{STEP, bound_queues, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, ours, sh, until};
use framework::transfer::devmem_tcp;

/// A control group for the receivers of a case.
const GROUP: &str = "/sys/fs/cgroup/few";

fn recv(line: &str) -> Command {
    let line = format!("recv -f {NIC} --size 4M -l {NIC_ADDRESS}:5000 {line}");
    command(None, &devmem_tcp(), &line)
}

fn listening() -> Result<bool> {
    Ok(sh("ss -tlnH sport = :5000")?.contains("LISTEN"))
}

case!(listener_is_killed);
/// Kills the listening socket from outside by `ss --kill`. The receiver must end with an error that
/// says so, and restore the NIC.
fn listener_is_killed() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for line in ["", "--queue 2 --queue 3 --thread-per-queue"] {
        let receiver = Running::start(recv(line))?;
        until("a listener", STEP, listening)?;
        sh("ss -K -tln sport = :5000")?;
        let said = receiver.end_within(STEP)?.refused(1)?;
        println_line(said.trim_end());
        ensure!(
            said.contains("accept a connection: Invalid argument"),
            "it does not say what went wrong: {said}"
        );
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(runtime_directory_is_locked);
/// Holds the lock of the runtime directory for ever. Every command must give up after 30 s, name
/// the lock, and change nothing.
fn runtime_directory_is_locked() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let directory = Path::new("/run/devmem-tcp");
    fs::DirBuilder::new().mode(0o755).create(directory)?;
    let file = File::create(directory.join("lock"))?;
    let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let began = Instant::now();
    let lines = [
        format!("recv -f {NIC} -l {NIC_ADDRESS}:5000"),
        format!("apply {NIC} --header-split"),
        format!("restore {NIC}"),
        format!("lease --phys {NIC} --queue 1 --netkit nk0"),
        "unlease --all-stale".to_owned(),
    ];
    let all = lines.map(|line| {
        let running = Running::start(command(None, &devmem_tcp(), &line));
        (line, running)
    });
    for (line, running) in all {
        let end = running?.end_within(Duration::from_secs(60));
        let said = end
            .and_then(|end| end.refused(1))
            .with_context(|| line.clone())?;
        println_line(said.trim_end());
        ensure!(
            said.contains("/run/devmem-tcp/lock: locked by another process for 30 s"),
            "{line}: it does not say what it waited for: {said}"
        );
        ensure!(run_remedies(&said)? > 0, "{line}: nothing to paste");
    }
    let waited = began.elapsed();
    ensure!(waited >= Duration::from_secs(30), "only {waited:?}");
    observer.same(&before)?;
    ensure!(framework::ifindex("nk0").is_err(), "a netkit is left");
    drop(held);
    let receiver = start_bound(recv(""))?;
    receiver.stop()?;
    observer.soon_same(&before)
}

case!(no_process_to_spare);
/// Limits the number of processes and threads, at each step of a receiver's start. Every failed
/// start must say what could not be started, and restore the NIC.
fn no_process_to_spare() -> Result<()> {
    let line = "--queue 1 --queue 2 --queue 3 --thread-per-queue";
    let said = in_control_group(|| raise_process_limit(|| recv(line), 3))?;
    for words in [
        "starting the guardian: Resource temporarily unavailable",
        "start a worker: Resource temporarily unavailable",
    ] {
        ensure!(
            said.iter().any(|said| said.contains(words)),
            "{words:?} was never said: {said:?}"
        );
    }
    Ok(())
}

case!(no_process_to_spare_for_ncdevmem);
/// Limits the number of processes and threads, at each step of the start of `ncdevmem`. Every
/// failed start must restore the NIC.
fn no_process_to_spare_for_ncdevmem() -> Result<()> {
    let line = format!("-l -f {NIC} -s {NIC_ADDRESS} -p 5000 -t 3 -q 1");
    let said =
        in_control_group(|| raise_process_limit(|| command(None, &ours("ncdevmem"), &line), 1))?;
    ensure!(!said.is_empty(), "room for one process was enough");
    Ok(())
}

case!(no_process_to_spare_for_the_doctor);
/// Limits the number of processes and threads for `doctor`, which asks some questions in a thread.
/// It must end with status 0 or 1, not crash.
fn no_process_to_spare_for_the_doctor() -> Result<()> {
    in_control_group(|| {
        for room in 1..=3 {
            let doctor = command(None, &devmem_tcp(), &format!("doctor {NIC}"));
            let end = Running::start(limited_to(room, doctor)?)?.end_within(STEP)?;
            println_line(&format!(
                "room for {room}: {}, {}",
                end.status,
                end.stderr.trim_end()
            ));
            let code = end.status.code();
            ensure!(matches!(code, Some(0 | 1)), "room for {room}: {code:?}");
        }
        Ok(())
    })
}

/// Runs a case on the testbed's wire, with a control group that limits its number of processes.
fn in_control_group<T>(case: impl FnOnce() -> Result<T>) -> Result<T> {
    const CONTROL: &str = "/sys/fs/cgroup/cgroup.subtree_control";
    testbed::wire()?;
    fs::write(CONTROL, "+pids").context("+pids")?;
    fs::create_dir(GROUP).context(GROUP)?;
    let outcome = case();
    // What a failed case left in it goes with the case.
    let empty = until("an empty group", STEP, || Ok(fs::remove_dir(GROUP).is_ok()));
    let done = outcome?;
    empty?;
    fs::write(CONTROL, "-pids").context("-pids")?;
    Ok(done)
}

/// Wraps a command so that it runs in the control group, limited to `room` processes and threads.
fn limited_to(room: u32, program: Command) -> Result<Command> {
    fs::write(Path::new(GROUP).join("pids.max"), room.to_string())?;
    let mut shell = Command::new("sh");
    let line = format!("echo $$ >{GROUP}/cgroup.procs && exec \"$@\"");
    shell
        .args(["-c", &line, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    Ok(shell)
}

/// Runs one receiver after the other, each with room for one process more, until one keeps running
/// with all queues bound. Each must restore the NIC. Returns the errors of those that failed.
fn raise_process_limit(receiver: impl Fn() -> Command, queues: usize) -> Result<Vec<String>> {
    /// Upper limit of processes: more than any receiver needs, with its guardian.
    const ENOUGH: u32 = 16;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let mut complaints = Vec::new();
    for room in 1..=ENOUGH {
        let mut running = Running::start(limited_to(room, receiver())?)?;
        let mut listens = false;
        until("an end, or a listener", STEP, || {
            listens = listening()? && bound_queues()? == queues;
            Ok(listens || running.has_ended()?)
        })?;
        if listens {
            // Workers are started some time later.
            thread::sleep(Duration::from_millis(300));
            // It may have ended.
            let _ended = running.signal(Signal::SIGTERM);
        }
        let end = running.end_within(STEP)?;
        let said = end.refused(1).with_context(|| format!("room for {room}"))?;
        println_line(&format!("room for {room}: {}", said.trim_end()));
        observer
            .soon_same(&before)
            .with_context(|| format!("room for {room}"))?;
        if said.contains("ended by signal") {
            return Ok(complaints);
        }
        complaints.push(said);
    }
    bail!("room for {ENOUGH} was not enough")
}
