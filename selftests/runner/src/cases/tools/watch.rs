//! `show --watch` prints each change within a second, and none that it made itself.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netdev::queues::{BindOptions, Binding};
use netdev::{NetNs, Netdev, QueueId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use udmabuf::Udmabuf;

use framework::leases::{Guest, delete, is_free, move_to};
use framework::machine;
use framework::testbed::{self, BOX, BOX2, GUEST, HOST, NIC};
use framework::tool::{Running, command, finish, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

const LAST: u32 = testbed::QUEUES - 1;
/// Time limit from a change to its line.
const LIMIT: Duration = Duration::from_secs(1);

/// A running `devmem-tcp show --watch --json`, whose lines are read as they come.
struct Watch {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Watch {
    fn start() -> Result<Self> {
        let mut child = Command::new(devmem_tcp())
            .args(["show", "--watch", "--json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        let (tell, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _case_over = tell.send((Instant::now(), line));
            }
        });
        let mut watch = Self { child, lines };
        watch.next("watching", Instant::now() + Duration::from_secs(10))?;
        Ok(watch)
    }

    /// Waits for the next line about `what`; others may come before it.
    fn next(&mut self, what: &str, deadline: Instant) -> Result<(Instant, Value)> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("no line says {what:?} in time"),
                Err(error) => bail!("{what:?}: {error}"),
            };
            let change: Value = serde_json::from_str(&line).context("a line of JSON")?;
            if change["what"] == what {
                return Ok((at, change));
            }
        }
    }

    /// Checks that `act` causes a line about `what` in time.
    fn check_tells<T>(
        &mut self,
        what: &str,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Value)> {
        let began = Instant::now();
        let done = act()?;
        let acted = Instant::now();
        // Told before the act was over counts, too.
        let (at, change) = self.next(what, acted + LIMIT)?;
        let took = at.saturating_duration_since(began);
        println_line(&format!(
            "{what}: {took:.0?}, of which the act {:.0?}",
            acted - began
        ));
        println_line(&change.to_string());
        Ok((done, change))
    }

    /// Ends the watch by Ctrl-C, which must be a good end.
    fn end(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        let mut status = None;
        until("the end of the watch", LIMIT, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        ensure!(status.is_some_and(|status| status.success()), "{status:?}");
        Ok(())
    }
}

/// Checks that one end of a reported change is this namespace, device and queue.
fn check_end(end: &Value, netns: &str, device: &str, queue: u32) -> Result<()> {
    let same = end["netns"] == netns && end["device"] == device && end["queue"] == queue;
    ensure!(same, "not {netns:?} {device} rx {queue}: {end}");
    Ok(())
}

fn check_both_ends(change: &Value, netns: &str) -> Result<()> {
    check_end(&change["phys"], "", NIC, LAST)?;
    check_end(&change["virt"], netns, GUEST, 1)
}

fn bind(guest: &Guest) -> Result<Binding> {
    let memory = Udmabuf::builder(1 << 20).build()?;
    let queues = [QueueId::new(1)];
    let netdev = Netdev::open_in(&guest.netns)?;
    Ok(netdev.bind_rx(guest.ifindex, &memory, &queues, BindOptions::default())?)
}

case!(lease_and_bind);
/// Leases a queue, binds it, and ends both. Each must be reported in time, also for a namespace
/// that was made after the start.
fn lease_and_bind() -> Result<()> {
    let mut watch = Watch::start()?;
    let (_, nic) = watch.check_tells("device-came", testbed::wire)?;
    ensure!(nic["device"]["kind"] == "physical", "{nic}");
    testbed::enable_header_split()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    let (_, leased) = watch.check_tells("leased", || guest.lease(LAST))?;
    check_both_ends(&leased, BOX)?;
    for _ in 0..2 {
        let (binding, bound) = watch.check_tells("bound", || bind(&guest))?;
        check_both_ends(&bound, BOX)?;
        ensure!(bound["dmabuf"] == binding.id().get(), "{bound}");
        let (_, unbound) = watch.check_tells("unbound", || {
            drop(binding);
            Ok(())
        })?;
        check_both_ends(&unbound, BOX)?;
    }
    testbed::namespace(BOX2)?;
    let (_, moved) = watch.check_tells("lease-moved", || move_to(Some(BOX), GUEST, Some(BOX2)))?;
    check_both_ends(&moved, BOX2)?;
    let (_, ended) = watch.check_tells("lease-ended", || delete(HOST))?;
    check_both_ends(&ended, BOX2)?;
    watch.check_tells("device-went", machine::unload)?;
    watch.end()
}

case!(direct_bind_and_namespace);
/// Binds a queue of the NIC, then deletes the namespace of a leased netkit. Both must be reported:
/// the watch must not keep the namespace alive.
fn direct_bind_and_namespace() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    guest.lease_as(LAST, 1)?;
    let mut watch = Watch::start()?;
    let memory = Udmabuf::builder(1 << 20).build()?;
    let (binding, bound) = watch.check_tells("bound", || {
        let options = BindOptions::default();
        Ok(Netdev::open()?.bind_rx(ifindex(NIC)?, &memory, &[QueueId::new(1)], options)?)
    })?;
    check_end(&bound["phys"], "", NIC, 1)?;
    ensure!(bound["virt"].is_null(), "{bound}");
    watch.check_tells("unbound", || {
        drop(binding);
        Ok(())
    })?;
    drop(guest);
    let (_, ended) = watch.check_tells("lease-ended", || {
        machine::delete_namespace(BOX)?;
        until("the end of the lease", Duration::from_secs(30), || {
            is_free(LAST)
        })
    })?;
    check_both_ends(&ended, BOX)?;
    watch.end()
}

case!(namespace_without_a_name);
/// Leases to a namespace that has no name, only a process. Its changes must be reported under the
/// process's id.
fn namespace_without_a_name() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let mut guest = Guest::pair(GUEST, 2, BOX)?;
    guest.lease_as(LAST, 1)?;
    let pod = Running::start(command(Some(BOX), "sleep".as_ref(), "60"))?;
    let netns = NetNs::by_pid(pod.id())?;
    until("the pod", Duration::from_secs(30), || {
        Ok(NetNs::by_pid(pod.id())?.is_same(&guest.netns)?)
    })?;
    drop(netns);
    machine::delete_namespace(BOX)?;
    drop(guest);
    let shown = finish(command(None, &devmem_tcp(), "show --json"))?.good("show")?;
    let shown: Value = serde_json::from_str(&shown)?;
    let label = format!("pid:{}", pod.id());
    check_end(&shown["leases"][0]["virt"], &label, GUEST, 1)?;
    println_line(&finish(command(None, &devmem_tcp(), "show"))?.good("show")?);
    let mut watch = Watch::start()?;
    let (_, ended) = watch.check_tells("lease-ended", || {
        pod.signal(Signal::SIGKILL)?;
        until("the end of the lease", Duration::from_secs(30), || {
            is_free(LAST)
        })
    })?;
    check_both_ends(&ended, &label)?;
    pod.end_within(Duration::from_secs(5))?;
    watch.end()
}
