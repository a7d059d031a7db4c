//! However a receiver ends, the NIC is restored to what it was.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdev::ethtool::HeaderSplit;
use nix::sys::signal::Signal;

use framework::far_end::{Flood, connect, pattern};
use framework::nic_state::{self, Observer, kill_guardian};
use framework::println_line;
use framework::probe_receiver::{Probe, SinkKind, probe_receiver};
use framework::receiver::{STEP, bound_queues, crash, restore, start_bound};
use framework::rounds::{Round, rounds, slow_rounds, somebody_elses};
use framework::testbed::{self, BOX, BOX_ADDRESS, NIC, NIC_ADDRESS};
use framework::tool::{command, finish, sh, signal};
use framework::transfer::devmem_tcp;

case!(after_return);
/// The peer closes.
fn after_return() -> Result<()> {
    rounds(|round| {
        let receiver = round.recv("--validate 251")?;
        let mut stream = connect(receiver.address)?;
        ensure!(
            round.observer.same(&round.before).is_err(),
            "the receiver did not set the NIC up"
        );
        stream.write_all(&pattern(200_000, None)?)?;
        drop(stream);
        receiver.end()?.good("recv").map(drop)
    })
}

case!(after_error);
/// In turn: a byte is wrong, the port is taken, the bind is refused, the output can't be written.
fn after_error() -> Result<()> {
    rounds(|round| {
        let taken = match round.number % 4 {
            1 => Some(TcpListener::bind(round.address()?)?),
            _ => None,
        };
        let line = match round.number % 4 {
            2 => "--rx-page-size 1G",
            3 => "--output /dev/full",
            _ => "--validate 251",
        };
        let receiver = round.recv(line)?;
        if matches!(round.number % 4, 0 | 3) {
            let mut stream = connect(receiver.address)?;
            // It may end before it has read all of this.
            let _reset = stream.write_all(&pattern(200_000, Some(100_000))?);
            receiver.end()?.refused(1)?;
        } else {
            receiver.end()?.refused(1)?;
        }
        drop(taken);
        Ok(())
    })
}

case!(after_panic);
/// A sink panics while payload flows, in a receiver that is no more than the crates.
fn after_panic() -> Result<()> {
    rounds(|round| {
        let receiver = round.start(probe(round, SinkKind::Panic)?)?;
        let flood = Flood::start(connect(receiver.address)?)?;
        let end = receiver.end()?;
        ensure!(end.status.code() == Some(101), "no panic: {end:?}");
        drop(flood);
        Ok(())
    })
}

case!(after_abort);
/// Nothing unwinds, and only the guardian is left: `abort`, a bad instruction, the terminal's quit
/// key and its end, and an output that grows beyond the size that is allowed (`SIGXFSZ`), in
/// the midst of payload.
fn after_abort() -> Result<()> {
    rounds(|round| {
        let by = match round.number % 5 {
            0 => Signal::SIGABRT,
            1 => Signal::SIGILL,
            2 => Signal::SIGQUIT,
            3 => Signal::SIGHUP,
            _ => return after_file_size_limit(round),
        };
        let receiver = round.recv("")?;
        let flood = round.under_way(&receiver)?;
        receiver.signal(by)?;
        receiver.killed_by(by)?;
        drop(flood);
        Ok(())
    })
}

/// The limit is set once its memory is there: to that, it applies, too.
fn after_file_size_limit(round: &Round) -> Result<()> {
    const LIMIT: u64 = 100_000;
    let output = "/tmp/limited";
    let receiver = round.recv(&format!("--output {output}"))?;
    round.until_bound()?;
    let pid = receiver.running.id();
    sh(&format!("prlimit --pid {pid} --fsize={LIMIT}"))?;
    let flood = Flood::start(connect(receiver.address)?)?;
    receiver.killed_by(Signal::SIGXFSZ)?;
    drop(flood);
    let written = fs::metadata(output)?.len();
    ensure!(written == LIMIT, "{written} bytes were written");
    Ok(fs::remove_file(output)?)
}

case!(after_stderr_was_full);
/// Where the diagnostics go is full: whatever becomes of the receiver.
fn after_stderr_was_full() -> Result<()> {
    rounds(|round| {
        let mut command = round.recv_line(Command::new(devmem_tcp()), "")?;
        command.stderr(fs::File::options().write(true).open("/dev/full")?);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        // If it gets as far as that.
        let until_end = Instant::now() + STEP;
        while child.try_wait()?.is_none() && bound_queues()? < round.queues().len() {
            ensure!(Instant::now() < until_end, "no binding, and no end");
            thread::sleep(Duration::from_millis(5));
        }
        let _ended = signal(i32::try_from(child.id())?, Signal::SIGTERM);
        let end = child.wait()?;
        ensure!(!end.success(), "it ended well");
        Ok(())
    })
}

/// A probe receiver whose sinks do this.
fn probe(round: &Round, kind: SinkKind) -> Result<Command> {
    let addresses = round.addresses()?.into_iter();
    let probe = addresses.fold(Probe::of(kind), Probe::listen);
    let probe = round.queues().into_iter().fold(probe, Probe::queue);
    Ok(command(None, &probe_receiver(), &probe.line()?))
}

case!(after_sigint);
fn after_sigint() -> Result<()> {
    after_signal(Signal::SIGINT)
}

case!(after_sigterm);
fn after_sigterm() -> Result<()> {
    after_signal(Signal::SIGTERM)
}

/// A signal that the receiver ends by in good order.
fn after_signal(signal: Signal) -> Result<()> {
    rounds(|round| {
        let receiver = round.recv("")?;
        let flood = round.under_way(&receiver)?;
        receiver.signal(signal)?;
        let said = receiver.end()?.refused(1)?;
        ensure!(said.contains("signal"), "no signal in {said:?}");
        drop(flood);
        Ok(())
    })
}

case!(after_sigterm_while_setting_up);
/// A signal at any moment of the set-up, from the start of the process on.
fn after_sigterm_while_setting_up() -> Result<()> {
    slow_rounds(|round| {
        let receiver = round.recv("")?;
        round.setting_up()?;
        receiver.signal(Signal::SIGTERM)?;
        // By the signal itself where it came before the handlers.
        let end = receiver.end()?;
        ensure!(!end.status.success(), "it ended well: {end:?}");
        Ok(())
    })
}

case!(after_sigkill);
/// Nothing in the process can do anything any more; the guardian can.
fn after_sigkill() -> Result<()> {
    rounds(|round| {
        let receiver = round.recv("")?;
        let flood = round.under_way(&receiver)?;
        receiver.signal(Signal::SIGKILL)?;
        receiver.killed_by(Signal::SIGKILL)?;
        drop(flood);
        Ok(())
    })
}

case!(after_sigkill_while_setting_up);
/// Killed between two changes, or in one.
fn after_sigkill_while_setting_up() -> Result<()> {
    slow_rounds(|round| {
        let receiver = round.recv("")?;
        round.setting_up()?;
        receiver.signal(Signal::SIGKILL)?;
        receiver.killed_by(Signal::SIGKILL)
    })
}

case!(after_sigkill_of_both);
/// Both are killed, in either order or at once.
fn after_sigkill_of_both() -> Result<()> {
    rounds(|round| {
        let receiver = round.recv("")?;
        let flood = round.under_way(&receiver)?;
        let guardian = nic_state::guardian()?;
        if round.number % 2 == 0 {
            signal(guardian, Signal::SIGKILL)?;
            receiver.signal(Signal::SIGKILL)?;
        } else {
            signal(guardian, Signal::SIGSTOP)?;
            receiver.signal(Signal::SIGKILL)?;
            signal(guardian, Signal::SIGKILL)?;
        }
        receiver.killed_by(Signal::SIGKILL)?;
        drop(flood);
        left_then_restored(round)
    })
}

case!(after_sigkill_of_both_while_setting_up);
/// Both are killed between two changes, or in one.
fn after_sigkill_of_both_while_setting_up() -> Result<()> {
    let mut cuts = BTreeMap::<_, u32>::new();
    slow_rounds(|round| {
        let receiver = round.recv("")?;
        round.setting_up()?;
        for guardian in nic_state::guardians()? {
            signal(guardian, Signal::SIGKILL)?;
        }
        receiver.signal(Signal::SIGKILL)?;
        receiver.killed_by(Signal::SIGKILL)?;
        let now = round.observer.state()?;
        *cuts.entry(round.before.differs(&now)).or_default() += 1;
        restore()?.good("restore").map(drop)
    })?;
    // On a machine of another speed the moments are others.
    println_line(&format!("changed when it was killed, how often: {cuts:?}"));
    Ok(())
}

case!(after_sigkill_of_both_while_asking_for_split);
/// Header split was set before; both are killed before it is noted that it was set, and not the driver's
/// choice. That moment is too short to be met: the journal is made what it is then.
fn after_sigkill_of_both_while_asking_for_split() -> Result<()> {
    testbed::wire()?;
    testbed::rings(HeaderSplit::Enabled, 0)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("recv -f {NIC} --queue 3 --size 4M -l {NIC_ADDRESS}:5000");
    crash(command(None, &devmem_tcp(), &line))?;
    let journal = nic_state::journal()?;
    let text = fs::read_to_string(&journal)?;
    let noted = "\"split_was_auto\":false";
    ensure!(text.contains(noted), "{text}");
    fs::write(&journal, text.replace(noted, "\"split_was_auto\":true"))?;
    restore()?.good("restore")?;
    observer.same(&before)?;
    nic_state::nothing_left()
}

case!(after_sigkill_of_both_while_restoring);
/// The guardian is killed while it puts the NIC back.
fn after_sigkill_of_both_while_restoring() -> Result<()> {
    slow_rounds(|round| {
        let receiver = round.recv("")?;
        round.until_bound()?;
        let guardian = nic_state::guardian()?;
        receiver.signal(Signal::SIGKILL)?;
        receiver.killed_by(Signal::SIGKILL)?;
        thread::sleep(Duration::from_millis(u64::from(round.number) * 6));
        // It may have finished.
        let _gone = signal(guardian, Signal::SIGKILL);
        restore()?.good("restore").map(drop)
    })
}

case!(after_sigkill_of_the_guardian);
/// A guardian that is killed leaves the receiver to put the NIC back itself.
fn after_sigkill_of_the_guardian() -> Result<()> {
    rounds(|round| {
        let receiver = round.recv("")?;
        let flood = round.under_way(&receiver)?;
        kill_guardian()?;
        receiver.signal(Signal::SIGTERM)?;
        receiver.end()?.refused(1)?;
        drop(flood);
        Ok(())
    })
}

case!(of_a_leased_queue);
/// Bound through a lease: what is set up is the NIC behind the netkit.
fn of_a_leased_queue() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let last = testbed::QUEUES - 1;
    let line = format!("lease --phys {NIC} --queue {last} --netkit nk0 --netns {BOX}");
    finish(command(None, &devmem_tcp(), &line))?.good("lease")?;
    testbed::route_to_container()?;
    somebody_elses()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("recv --netns {BOX} -f nk0 --size 4M -l {BOX_ADDRESS}:5000");
    for turn in 0..6 {
        let receiver = start_bound(command(None, &devmem_tcp(), &line))?;
        ensure!(observer.same(&before).is_err(), "nothing was set up");
        let by = if turn % 3 == 0 {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        if turn % 3 == 2 {
            kill_guardian()?;
        }
        receiver.signal(by)?;
        receiver.end_within(STEP)?;
        if turn % 3 == 2 {
            restore()?.good("restore")?;
        }
        observer
            .soon_same(&before)
            .with_context(|| format!("turn {turn}"))?;
    }
    Ok(())
}

/// The NIC is as the receiver left it, until `restore` is called, twice.
fn left_then_restored(round: &mut Round) -> Result<()> {
    ensure!(
        round.observer.same(&round.before).is_err(),
        "the NIC is as it was, though nobody was left to put it back"
    );
    ensure!(
        !nic_state::journals()?.is_empty(),
        "nothing is written down"
    );
    let said = restore()?.good("restore")?;
    if round.number == 0 {
        println_line(said.trim_end());
    }
    round.observer.same(&round.before)?;
    if round.number == 1 {
        let said = restore()?.good("restore with nothing to do")?;
        println_line(said.trim_end());
    }
    Ok(())
}
