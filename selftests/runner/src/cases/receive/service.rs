//! A receiver that serves without end, as under a service manager.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use framework::command_line::{Recv, Sender};
use framework::far_end::{connect, pattern};
use framework::nic_state::Observer;
use framework::summary::Summary;
use framework::testbed::{self, NIC, at};
use framework::tool::{Running, until};

use crate::cases::tools::json::check_documented;

/// Socket of a service manager that plays systemd.
const MANAGER: &str = "/tmp/notify";
const MIB: u64 = 1 << 20;
const END: Duration = Duration::from_secs(20);

/// The service manager's end of `sd_notify`.
struct Manager(UnixDatagram);

impl Manager {
    fn new() -> Result<Self> {
        let socket = UnixDatagram::bind(MANAGER).context(MANAGER)?;
        socket.set_read_timeout(Some(END))?;
        Ok(Self(socket))
    }

    /// The next notification.
    fn notified(&self) -> Result<String> {
        let mut message = [0; 256];
        let len = self.0.recv(&mut message).context("no notification")?;
        Ok(String::from_utf8_lossy(message.get(..len).unwrap_or_default()).into_owned())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(MANAGER);
    }
}

/// Starts a receiver under a service manager, and waits until it says that it is ready.
fn start(manager: &Manager, receiver: &Recv) -> Result<Running> {
    let mut command = receiver.command()?;
    command.env("NOTIFY_SOCKET", MANAGER);
    let running = Running::start(command)?;
    let notified = manager.notified()?;
    ensure!(notified.trim_end() == "READY=1", "notified {notified:?}");
    Ok(running)
}

fn receiver() -> Recv {
    let receiver = Recv::on(NIC).listen(at(5000)).connections("unlimited");
    receiver.options("--at-a-time 2").size("4M").validate(251)
}

case!(serves_until_told, on any_memory);
/// It is ready when it says so: the first sender does not wait. Each connection is a line when it ends, also one
/// that brings wrong bytes, which ends no other; SIGTERM is a good end, and the NIC is as before.
fn serves_until_told() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let manager = Manager::new()?;
    let running = start(&manager, &receiver())?;
    let sender = Sender::to(at(5000)).bytes(MIB);
    for _ in 0..2 {
        sender.run()?;
    }
    let _refused = Sender::to(at(5000)).bytes(MIB).pattern(7).run();
    let together = (0..4).map(|_| sender.start()).collect::<Result<Vec<_>>>()?;
    for sender in together {
        sender.end_within(END)?.good("send")?;
    }
    until("all others ended", END, || Ok(sockets(&running)? == 0))?;
    let mut open = connect(at(5000).parse()?)?;
    open.write_all(&pattern(1, None)?)?;
    until("the last one accepted", END, || Ok(sockets(&running)? == 1))?;
    running.signal(Signal::SIGTERM)?;
    let notified = manager.notified()?;
    ensure!(notified.trim_end() == "STOPPING=1", "notified {notified:?}");
    let printed = running.end_within(END)?.good("recv")?;
    observer.same(&before)?;
    let (lines, last) = printed.trim_end().rsplit_once('\n').context("one line")?;
    check_documented("recv --connections unlimited", lines)?;
    check_documented("recv", last)?;
    let (lines, summary) = split(&printed)?;
    let of = |key: &str| lines.iter().filter(|line| line[key] == true).count();
    ensure!(lines.len() == 8 && of("closed") == 6, "{printed}");
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| !line["error"].is_null())
        .collect();
    ensure!(
        matches!(failed[..], [one] if one["validated_bytes"] == 6),
        "{failed:?}"
    );
    let Summary {
        ended, connections, ..
    } = &summary;
    ensure!(
        (ended.closed, ended.failed, ended.stopped, ended.unprinted) == (6, 1, 1, 0),
        "{ended:?}"
    );
    ensure!(connections.is_empty() && summary.complete, "{summary:?}");
    ensure!(summary.signal == Some(15), "signal {:?}", summary.signal);
    summary.tokens_came_back()
}

/// The lines of connections, and the summary behind them.
fn split(printed: &str) -> Result<(Vec<Value>, Summary)> {
    let (lines, summary) = printed.trim_end().rsplit_once('\n').context("one line")?;
    let lines = lines.lines().map(serde_json::from_str);
    Ok((lines.collect::<Result<_, _>>()?, Summary::parse(summary)?))
}

case!(keeps_nothing_of_the_ended);
/// Its memory does not grow with the connections that have ended.
fn keeps_nothing_of_the_ended() -> Result<()> {
    testbed::wire()?;
    let manager = Manager::new()?;
    let running = start(&manager, &receiver())?;
    serve(300)?;
    let resident = resident_kib(&running)?;
    serve(1500)?;
    let then = resident_kib(&running)?;
    framework::println_line(&format!("{resident} KiB, then {then} KiB"));
    running.signal(Signal::SIGTERM)?;
    let printed = running.end_within(END)?.good("recv")?;
    let (lines, _) = split(&printed)?;
    ensure!(lines.len() == 1800, "{} lines", lines.len());
    // Of each connection 200 bytes would be these.
    ensure!(then < resident + 300, "{resident} KiB, then {then} KiB");
    Ok(())
}

/// Connects so often, sends a little each time, and waits until it was received.
fn serve(connections: usize) -> Result<()> {
    for _ in 0..connections {
        let mut stream = connect(at(5000).parse()?)?;
        stream.write_all(&pattern(4, None)?)?;
        framework::peers::close(stream)?;
    }
    Ok(())
}

/// Number of connections that a receiver has open: its TCP sockets that don't listen.
fn sockets(running: &Running) -> Result<usize> {
    let listed = framework::tool::sh("ss -Htnp state established state close-wait")?;
    let own = format!("pid={},", running.id());
    Ok(listed.lines().filter(|line| line.contains(&own)).count())
}

case!(waiting_connections_leave_memory);
/// Ten connections wait, each with more to send than there is memory, while both places are taken by slow ones. The
/// slow ones must end, and then all others, each validated.
fn waiting_connections_leave_memory() -> Result<()> {
    testbed::wire()?;
    let manager = Manager::new()?;
    let running = start(&manager, &receiver())?;
    let payload = pattern(2 << 20, None)?;
    let (first, rest) = payload.split_at(1000);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(at(5000).parse()?)?;
        stream.write_all(first)?;
        slow.push(stream);
    }
    until("both places taken", END, || Ok(sockets(&running)? == 2))?;
    let sender = Sender::to(at(5000)).bytes(8 * MIB);
    let waiting = (0..10)
        .map(|_| sender.start())
        .collect::<Result<Vec<_>>>()?;
    // What they send fills their receive buffers.
    std::thread::sleep(Duration::from_secs(2));
    for mut stream in slow {
        stream.write_all(rest)?;
        framework::peers::close(stream)?;
    }
    for sender in waiting {
        sender.end_within(3 * END)?.good("send")?;
    }
    running.signal(Signal::SIGTERM)?;
    let printed = running.end_within(END)?.good("recv")?;
    let (lines, summary) = split(&printed)?;
    ensure!(lines.len() == 12 && summary.ended.closed == 12, "{printed}");
    summary.all_validated()
}

/// Resident memory of a process.
fn resident_kib(running: &Running) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("RssAnon")?.parse()?)
}

case!(interrupted_lines_in_words);
/// Without JSON, the lines are on standard error, with what to do about an error.
fn interrupted_lines_in_words() -> Result<()> {
    testbed::wire()?;
    let manager = Manager::new()?;
    let line = format!(
        "recv -f {NIC} --listen {} --connections unlimited --validate 251",
        at(5000)
    );
    let mut command = framework::tool::command(None, &framework::transfer::devmem_tcp(), &line);
    command.env("NOTIFY_SOCKET", MANAGER);
    let running = Running::start(command)?;
    manager.notified()?;
    Sender::to(at(5000)).bytes(MIB).run()?;
    let _refused = Sender::to(at(5000)).bytes(MIB).pattern(7).run();
    until("both ended", END, || Ok(sockets(&running)? == 0))?;
    running.signal(Signal::SIGINT)?;
    let end = running.end_within(END)?;
    let said = end.stderr.clone();
    let summary = end.good("recv")?;
    let closed = format!("closed: {MIB} bytes, every byte validated");
    framework::tool::says(&said, &[&closed, "warning", "failed after", "byte 6"])?;
    framework::tool::says(&summary, &["2 connections, 1 failed"])
}
