//! Receivers with different runtime directories, as in two mount namespaces, notice each other.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, bound_queues, recv, restore, start_bound};
use framework::testbed::{self, NIC, NIC_ADDRESS};
use framework::tool::{Running, command, finish, signal, until};
use framework::transfer::devmem_tcp;
use framework::{ifindex, println_line};

/// Runs the tool in a mount namespace of its own, with an empty `/run`.
fn with_own_run(line: &str) -> Command {
    let mut unshare = Command::new("unshare");
    let tool = devmem_tcp();
    let script = format!(
        "mount -t tmpfs tmpfs /run && exec {} {line}",
        tool.display()
    );
    unshare
        .args(["-m", "sh", "-c", &script])
        .stdin(Stdio::null());
    unshare
}

fn recv_on_other_queue() -> String {
    format!("recv -f {NIC} --queue 2 --size 4M -l {NIC_ADDRESS}:5001")
}

case!(second_is_refused);
/// Starts a second receiver with another runtime directory. `recv`, `apply`, `plan` and `doctor`
/// must refuse until the first and its guardian have ended.
fn second_is_refused() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let first = start_bound(recv(5000))?;
    let bent = observer.state()?;
    for line in [
        recv_on_other_queue(),
        format!("apply {NIC} --queue 2"),
        format!("plan {NIC} --queue 2"),
        format!("doctor {NIC} --queue 2"),
    ] {
        let end = Running::start(with_own_run(&line))?.end_within(STEP)?;
        let said = format!("{}{}", end.stdout, end.stderr);
        end.refused(1).with_context(|| line.clone())?;
        let named = format!("process {}", first.id());
        ensure!(
            said.contains(&named),
            "{line}: {named} is not named: {said}"
        );
        observer.same(&bent)?;
    }
    // One with the same directory is not.
    let same = Running::start(command(None, &devmem_tcp(), &recv_on_other_queue()))?;
    until("both bindings", STEP, || Ok(bound_queues()? == 2))?;
    same.stop()?;
    // Its guardian counts as it does, until the NIC is put back: it is stopped while it is at that. Not
    // before: it would be told to go on as its process group becomes orphaned (`kill_orphaned_pgrp`).
    until("one guardian", STEP, || {
        Ok(nic_state::guardians()?.len() == 1)
    })?;
    let guardian = nic_state::guardian()?;
    testbed::parameter("slow_ms", 1000)?;
    first.signal(Signal::SIGKILL)?;
    thread::sleep(Duration::from_millis(500));
    signal(guardian, Signal::SIGSTOP)?;
    testbed::parameter("slow_ms", 0)?;
    let refused = Running::start(with_own_run(&recv_on_other_queue()))?.end_within(STEP);
    signal(guardian, Signal::SIGCONT)?;
    let refused = refused?.refused(1)?;
    println_line(refused.trim_end());
    ensure!(refused.contains("another runtime directory"), "{refused}");
    first.end_within(STEP)?;
    observer.soon_same(&before)?;
    let second = Running::start(with_own_run(&recv_on_other_queue()))?;
    until("its binding", STEP, || Ok(bound_queues()? == 1))?;
    second.stop()?;
    observer.soon_same(&before)
}

case!(restore_waits_for_the_other);
/// Runs `restore` while a receiver with another runtime directory uses the NIC. It must refuse
/// until that receiver has ended.
fn restore_waits_for_the_other() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let apply = format!("apply {NIC} --header-split --queue 3");
    finish(command(None, &devmem_tcp(), &apply))?.good("apply")?;
    let other = Running::start(with_own_run(&recv_on_other_queue()))?;
    until("its binding", STEP, || Ok(bound_queues()? == 1))?;
    let bent = observer.state()?;
    let line = format!("restore {NIC}");
    let refused = finish(command(None, &devmem_tcp(), &line))?.refused(1)?;
    println_line(refused.trim_end());
    ensure!(refused.contains("another runtime directory"), "{refused}");
    observer.same(&bent)?;
    other.stop()?;
    until("its guardian's end", STEP, || {
        Ok(nic_state::guardians()?.is_empty())
    })?;
    println_line(restore()?.good("restore")?.trim_end());
    finish(command(None, &devmem_tcp(), &line))?.good("restore")?;
    observer.soon_same(&before)
}

case!(name_of_another_user);
/// Lets an ordinary user bind the abstract socket name that marks a NIC as used. A receiver must
/// not be kept out by it.
fn name_of_another_user() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let name = format!("devmem-tcp/{}/0-0/1.0", ifindex(NIC)?);
    let script = format!(
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); \
         s.listen(); time.sleep(100)"
    );
    let mut python = Command::new("setpriv");
    python.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    python.args(["python3", "-c", &script]).stdin(Stdio::null());
    let user = Running::start(python)?;
    until("the user's socket", STEP, || {
        Ok(std::fs::read_to_string("/proc/net/unix")?.contains(&name))
    })?;
    let receiver = Running::start(recv(5000))?;
    let bound = until("a binding", STEP, || Ok(bound_queues()? == 1));
    user.kill()?;
    receiver.signal(Signal::SIGTERM)?;
    let end = receiver.end_within(STEP)?;
    bound.with_context(|| end.stderr)?;
    observer.soon_same(&before)
}

case!(short_ones_are_seen);
/// Stops `apply` and `restore` in mid-change. A receiver with another runtime directory must notice
/// them and be refused.
fn short_ones_are_seen() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for line in [
        format!("apply {NIC} --header-split --queue 3"),
        format!("restore {NIC}"),
    ] {
        // Stopped behind its first change, which may take a while.
        testbed::parameter("slow_ms", 1000)?;
        let short = Running::start(command(None, &devmem_tcp(), &line))?;
        until("its socket", STEP, || {
            Ok(fs::read_to_string("/proc/net/unix")?.contains("@devmem-tcp/"))
        })?;
        thread::sleep(Duration::from_millis(200));
        short.signal(Signal::SIGSTOP)?;
        testbed::parameter("slow_ms", 0)?;
        let other = Running::start(with_own_run(&recv_on_other_queue()))?.end_within(STEP);
        let pid = short.id();
        short.signal(Signal::SIGCONT)?;
        let refused = other
            .and_then(|end| end.refused(1))
            .with_context(|| line.clone())?;
        println_line(refused.trim_end());
        let named = format!("process {pid}");
        ensure!(refused.contains(&named), "{line}: {refused}");
        short.end_within(STEP)?.good(&line)?;
    }
    observer.soon_same(&before)
}

case!(socket_that_is_full);
/// Occupies the abstract socket name with a socket that can take no more connections. Only that of
/// root must keep a receiver out.
fn socket_that_is_full() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for (user, bound) in [("1000", true), ("0", false)] {
        let full = fill_socket(user)?;
        let receiver = Running::start(recv(5000))?;
        let mut receiver = Some(receiver);
        if bound {
            until("a binding", STEP, || Ok(bound_queues()? == 1))?;
            if let Some(receiver) = &receiver {
                receiver.signal(Signal::SIGTERM)?;
            }
        }
        let end = receiver.take().context("receiver")?.end_within(STEP)?;
        full.kill()?;
        println_line(end.stderr.trim_end());
        let refused = end.refused(1)?;
        let by_name = refused.contains("another runtime directory");
        ensure!(by_name != bound, "of user {user}: {refused}");
        observer.soon_same(&before)?;
    }
    Ok(())
}

/// Binds a socket as the given user under the name that marks a NIC as used, and fills its backlog.
fn fill_socket(user: &str) -> Result<Running> {
    let name = format!("devmem-tcp/{}/0-0/1.0", ifindex(NIC)?);
    let full = format!("/tmp/full-{user}");
    let script = format!(
        "import socket, time\n\
         s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen(0)\n\
         all = []\n\
         try:\n\
         \twhile True:\n\
         \t\tc = socket.socket(socket.AF_UNIX); c.setblocking(False)\n\
         \t\tc.connect('\\0{name}'); all.append(c)\n\
         except BlockingIOError:\n\
         \topen('{full}', 'w').close()\n\
         time.sleep(100)\n"
    );
    let mut python = Command::new("setpriv");
    python.args([format!("--reuid={user}"), format!("--regid={user}")]);
    python.args(["--clear-groups", "python3", "-c", &script]);
    let user = Running::start({
        python.stdin(Stdio::null());
        python
    })?;
    until("a full socket", STEP, || Ok(Path::new(&full).exists()))?;
    fs::remove_file(&full)?;
    Ok(user)
}
