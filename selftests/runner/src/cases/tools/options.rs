//! Options of the tools that no other module covers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{FlowRule, HeaderSplit, IpMatch};
use netdev::{Ethtool, Link, NetNs};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cases::lease::lease_rounds::{LAST, ROUTED, leased, receive, unleased};
use crate::cases::lease::lease_way::{container_options, prepare_containers};
use framework::command_line::{Recv, Sender};
use framework::far_end::{connect, pattern};
use framework::footprint::Footprint;
use framework::nic_state::{self, Observer};
use framework::receiver::{STEP, bound_queues, restore};
use framework::summary::Summary;
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS, PEER, SENDER, SENDER_ADDRESS};
use framework::tool::says;
use framework::tool::{Finished, Running, command, finish, sh, until};
use framework::transfer::{devmem_tcp, summary, validated};
use framework::{ifindex, println_line};

const MIB: u64 = 1 << 20;

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

fn run(line: &str) -> Result<Finished> {
    finish(tool(line))
}

/// Returns the NIC's only flow rule; an error if there are none or several.
fn only_rule() -> Result<FlowRule> {
    let rules = Ethtool::open()?.rules(ifindex(NIC)?)?;
    ensure!(rules.len() == 1, "rules: {rules:?}");
    rules.into_iter().next().context("a rule")
}

case!(recv_from);
/// Runs `recv --from`. The flow rule must match that source address only.
fn recv_from() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("-f {NIC} -l {NIC_ADDRESS}:5000");
    let would = run(&format!("recv --dry-run {line} --from {SENDER_ADDRESS}"))?;
    says(&would.good("recv --dry-run")?, &[SENDER_ADDRESS])?;
    for from in [None, Some(SENDER_ADDRESS)] {
        let recv = Recv::on(NIC).listen(testbed::at(5000)).validate(251);
        let receiver = match from {
            Some(from) => recv.from(from).start_bound()?,
            None => recv.start_bound()?,
        };
        let source = only_rule()?.src;
        let wanted = from.map(str::parse).transpose()?.map(IpMatch::host);
        ensure!(source == wanted, "{from:?}: the rule is of {source:?}");
        Sender::to(testbed::at(5000)).bytes("2M").run()?;
        summary(receiver)?.all_in_dmabuf()?;
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(recv_refuse_linear);
/// Runs `recv --refuse-linear` on a NIC that leaves a part of some packets beside the dmabuf. The
/// first such part must end the connection.
fn recv_refuse_linear() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("unsplit_bytes", 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    for (port, every) in [(5000, 0), (5001, 5)] {
        testbed::parameter("unsplit_every", every)?;
        let to = format!("{NIC_ADDRESS}:{port}");
        let receiver = Recv::on(NIC).listen(&to).refuse_linear().start()?;
        let sent = Sender::to(&to).bytes("4M").run();
        if every == 0 {
            sent?;
            summary(receiver)?.all_in_dmabuf()?;
        } else {
            // Whether the sender sees the reset depends on the moment.
            println_line(&format!("the sender: {sent:?}"));
            let end = receiver.end_within(STEP)?;
            let summary = Summary::parse(&end.stdout)?;
            ensure!(summary.linear_bytes > 0, "{summary}");
            ensure!(summary.bytes < 4 * MIB, "{summary}");
            summary.tokens_came_back()?;
            let said = end.refused(1)?;
            println_line(said.trim_end());
            says(&said, &["came in host memory", "not wholly split"])?;
        }
        observer.soon_same(&before)?;
    }
    Ok(())
}

case!(recv_to_standard_output);
/// Runs `recv --output -`. Standard output must be the payload and nothing else.
fn recv_to_standard_output() -> Result<()> {
    testbed::wire()?;
    let mut payload: String = (0..40_000).map(|line| format!("{line}\n")).collect();
    payload += "no newline at the end";
    fs::write("/tmp/input", &payload)?;
    let line = format!("recv -f {NIC} -l {NIC_ADDRESS}:5000 --output -");
    let receiver = Running::start(tool(&line))?;
    Sender::to(testbed::at(5000)).input("/tmp/input").run()?;
    let end = receiver.end_within(STEP)?;
    println_line(end.stderr.trim_end());
    ensure!(end.status.success(), "{}", end.status);
    ensure!(
        end.stdout == payload,
        "{} bytes on standard output, not the {} that were sent",
        end.stdout.len(),
        payload.len()
    );
    Ok(())
}

case!(recv_to_a_slow_reader);
/// Reads the receiver's output after a pause of two seconds. Receiver and sender must wait, and
/// every byte come out.
fn recv_to_a_slow_reader() -> Result<()> {
    const BYTES: usize = 8 << 20;
    testbed::wire()?;
    let output = "/tmp/slow";
    sh(&format!("mkfifo {output}"))?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC)
        .listen(&to)
        .size("4M")
        .output(output)
        .start()?;
    let mut reader = fs::File::open(output)?;
    let sender = Sender::to(&to).bytes("8M").start()?;
    let mut content = vec![0; 4096];
    reader.read_exact(&mut content)?;
    thread::sleep(Duration::from_secs(2));
    reader.read_to_end(&mut content)?;
    ensure!(content == pattern(BYTES, None)?, "other bytes came out");
    sender.end_within(STEP)?.good("send")?;
    summary(receiver)?.all_in_dmabuf()
}

case!(recv_to_a_full_disk);
/// Writes the payload to a file system that becomes full. The error must have the kernel's words,
/// and the NIC be restored.
fn recv_to_a_full_disk() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    fs::create_dir("/tmp/tiny")?;
    sh("mount -t tmpfs -o size=256K tmpfs /tmp/tiny")?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC)
        .listen(&to)
        .output("/tmp/tiny/payload")
        .start()?;
    // Whether it sees the reset depends on the moment.
    println_line(&format!("{:?}", Sender::to(&to).bytes("8M").run()));
    let end = receiver.end_within(STEP);
    let written = fs::metadata("/tmp/tiny/payload")?.len();
    sh("umount /tmp/tiny")?;
    let said = end?.refused(1)?;
    println_line(said.trim_end());
    says(&said, &["No space left on device"])?;
    ensure!(written == 256 << 10, "{written} bytes were written");
    observer.soon_same(&before)
}

case!(recv_patience);
/// Runs `recv --patience`. The last bytes of a busy connection that stays open must be written
/// within that time.
fn recv_patience() -> Result<()> {
    const BYTES: usize = 8 << 20;
    testbed::wire()?;
    for (port, patience) in [(5000, 0), (5001, 2), (5002, 3000)] {
        let output = format!("/tmp/patience.{port}");
        let to = format!("{NIC_ADDRESS}:{port}");
        let receiver = Recv::on(NIC).listen(&to).output(&output);
        let receiver = receiver.patience(patience).start()?;
        let mut stream = connect(to.parse()?)?;
        stream.write_all(&pattern(BYTES, None)?)?;
        let sent = Instant::now();
        let limit = Duration::from_millis(patience) + Duration::from_secs(5);
        until("the last bytes", limit, || {
            Ok(fs::metadata(&output)?.len() == BYTES as u64)
        })?;
        let waited = sent.elapsed().as_millis();
        println_line(&format!("--patience {patience}: {waited} ms"));
        drop(stream);
        summary(receiver)?;
        fs::remove_file(output)?;
    }
    Ok(())
}

case!(send_wait_runs_out);
/// Runs `send --wait` without a listener. It must give up when the time is over.
fn send_wait_runs_out() -> Result<()> {
    testbed::wire()?;
    for wait in [0, 2] {
        let line = format!("send --wait {wait} {NIC_ADDRESS}:5000 --bytes 1M");
        let began = Instant::now();
        let said = finish(command(Some(PEER), &devmem_tcp(), &line))?.refused(1)?;
        let took = began.elapsed();
        println_line(said.trim_end());
        says(&said, &["192.0.2.2:5000", "Connection refused"])?;
        let wait = Duration::from_secs(wait);
        let in_time = wait <= took && took < wait + Duration::from_secs(5);
        ensure!(in_time, "--wait {wait:?} took {took:?}");
    }
    Ok(())
}

case!(lease_host_end_and_route);
/// Runs `lease` with `--host-end` and `--route`. The host end must have that name, and the guest
/// only that route.
fn lease_host_end_and_route() -> Result<()> {
    let before = prepare_containers()?;
    let line = format!("--queue {LAST} --address {ROUTED} --host-end nkhost --route 192.0.2.0/24");
    let made = leased(&container_options(&line))?;
    ensure!(made.host_end.as_deref() == Some("nkhost"), "{made:?}");
    ifindex("nkhost")?;
    let default = ifindex("nk0h");
    ensure!(default.is_err(), "an end of the name by default, too");
    let mut inside = Link::open_in(&NetNs::by_name(BOX)?)?;
    let guest = inside.by_name(GUEST)?.ifindex;
    let routes = inside.routes()?.into_iter();
    // Those of the main table that lead out by IPv4.
    let out = routes.filter(|route| route.table == 254 && route.oif == Some(guest));
    let out: Vec<String> = out.map(|route| route.dst.to_string()).collect();
    println_line(&format!("{out:?}"));
    ensure!(out.iter().any(|route| route == "192.0.2.0/24"), "{out:?}");
    ensure!(!out.iter().any(|route| route == "0.0.0.0/0"), "{out:?}");
    receive(BOX, GUEST, format!("{ROUTED}:5000").parse()?, 64 << 10)?;
    unleased("nkhost")?;
    before.same()?;
    // Not one that is longer than the kernel takes.
    let long = container_options("--queue 1 --host-end an-interface-name");
    let said = run(&format!("lease --phys {NIC} {long}"))?;
    ensure!(!said.status.success(), "a name of 17 bytes was taken");
    println_line(said.stderr.trim_end());
    Footprint::same(&before)
}

/// Counts the rx queues of each device in the output of `show --json`.
fn count_shown_queues(line: &str) -> Result<BTreeMap<String, usize>> {
    let text = run(&format!("show --json {line}"))?.good("show")?;
    let shown: Value = serde_json::from_str(&text).context("JSON of show")?;
    let mut count = BTreeMap::new();
    for row in shown["queues"].as_array().context("queues")? {
        let device = row["device"].as_str().context("device")?.to_owned();
        *count.entry(device).or_default() += 1;
    }
    Ok(count)
}

case!(show_all);
/// Runs `show --all`. It must list the rx queues that are neither leased nor bound, too, in all
/// namespaces.
fn show_all() -> Result<()> {
    testbed::wire()?;
    ensure!(
        count_shown_queues("")?.is_empty(),
        "none is leased or bound"
    );
    let text = run("show")?.good("show")?;
    says(&text, &["no rx queue is leased or bound (--all"])?;
    let all = count_shown_queues("--all")?;
    println_line(&format!("{all:?}"));
    for device in [NIC, SENDER] {
        // Of rx queues and tx queues only those.
        ensure!(all.get(device) == Some(&4), "{device}: {all:?}");
    }
    let only = count_shown_queues(NIC)?;
    ensure!(only == BTreeMap::from([(NIC.to_owned(), 4)]), "{only:?}");
    let text = run("show --all")?.good("show --all")?;
    let rows = |device: &str| {
        let of = |line: &&str| line.split_whitespace().nth(1) == Some(device);
        text.lines().filter(of).count()
    };
    // And their page pools, if they have any.
    ensure!(rows(NIC) >= 4 && rows(SENDER) >= 4, "{text}");
    Ok(())
}

case!(apply_header_split);
/// Runs `plan` and `apply` with `--header-split`. Nothing but header split and its threshold may
/// change.
fn apply_header_split() -> Result<()> {
    testbed::wire()?;
    testbed::set_header_split(HeaderSplit::Disabled, 100)?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let plan = run(&format!("plan {NIC} --header-split"))?.good("plan")?;
    println_line(plan.trim_end());
    says(&plan, &["tcp-data-split", "would change"])?;
    for other in ["rss", "rule", "channels"] {
        ensure!(!plan.contains(other), "{other}, too: {plan}");
    }
    observer.same(&before)?;
    run(&format!("apply {NIC} --header-split"))?.good("apply")?;
    let differs = before.differs(&observer.state()?);
    ensure!(differs == [nic_state::RINGS], "changed: {differs:?}");
    let rings = Ethtool::open()?.rings(ifindex(NIC)?)?;
    ensure!(
        rings.tcp_data_split == Some(HeaderSplit::Enabled) && rings.hds_thresh == Some(0),
        "{rings:?}"
    );
    let again = run(&format!("apply {NIC} --header-split"))?.good("apply")?;
    says(&again, &["nothing changes"])?;
    restore()?.good("restore")?;
    observer.soon_same(&before)
}

case!(apply_from);
/// Runs `apply --from`. The flow rule that stays must match that source address only.
fn apply_from() -> Result<()> {
    testbed::wire()?;
    let mut observer = Observer::of(NIC)?;
    let before = observer.state()?;
    let line = format!("{NIC} --queue {LAST} --flow {NIC_ADDRESS}:5000 --from {SENDER_ADDRESS}");
    says(
        &run(&format!("plan {line}"))?.good("plan")?,
        &[SENDER_ADDRESS],
    )?;
    println_line(run(&format!("apply {line}"))?.good("apply")?.trim_end());
    let source = only_rule()?.src;
    let wanted = Some(IpMatch::host(SENDER_ADDRESS.parse()?));
    ensure!(source == wanted, "the rule is of {source:?}");
    let receiver = Recv::on(NIC).queue(LAST).no_config();
    validated(receiver, testbed::at(5000), MIB)?.all_in_dmabuf()?;
    restore()?.good("restore")?;
    observer.soon_same(&before)?;
    // An address of another family can't be matched beside this one.
    let line = format!("{NIC} --queue {LAST} --flow {NIC_ADDRESS}:5000 --from 2001:db8::1");
    let said = run(&format!("apply {line}"))?.refused(1)?;
    println_line(said.trim_end());
    observer.soon_same(&before)
}

case!(apply_in_another_namespace);
/// Runs `plan` and `apply` with `--netns`. Only the NIC in that namespace may change.
fn apply_in_another_namespace() -> Result<()> {
    testbed::wire()?;
    let peer = NetNs::by_name(PEER)?;
    let mut here = Observer::of(NIC)?;
    let mut there = Observer::in_namespace(&peer, SENDER)?;
    let before = (here.state()?, there.state()?);
    let line = format!("{SENDER} --netns {PEER} --queue {LAST}");
    let plan = run(&format!("plan {line}"))?.good("plan")?;
    println_line(plan.trim_end());
    says(&plan, &[SENDER, "tcp-data-split", "rss"])?;
    there.same(&before.1)?;
    run(&format!("apply {line}"))?.good("apply")?;
    let differs = before.1.differs(&there.state()?);
    ensure!(
        differs == [nic_state::RINGS, nic_state::RSS],
        "changed: {differs:?}"
    );
    here.same(&before.0)?;
    // By its name alone it is not to be found here.
    let said = run(&format!("apply {SENDER} --queue {LAST}"))?.refused(1)?;
    says(&said, &[SENDER, "ENODEV"])?;
    println_line(
        run(&format!("restore {SENDER}"))?
            .good("restore")?
            .trim_end(),
    );
    there.soon_same(&before.1)?;
    here.soon_same(&before.0)
}

case!(apply_of_nothing);
/// Runs `plan` and `apply` without any wish, and with an unknown namespace. They must be refused
/// before anything is touched.
fn apply_of_nothing() -> Result<()> {
    testbed::wire()?;
    for line in [
        "plan eth1",
        "apply eth1",
        "apply eth1 --flow 192.0.2.2:5000",
    ] {
        let said = run(line)?.refused(2)?;
        println_line(said.lines().next().unwrap_or_default());
    }
    let said = run(&format!("apply {NIC} --netns nowhere --queue 1"))?.refused(1)?;
    says(&said, &["nowhere", "ENOENT"])?;
    ensure!(bound_queues()? == 0, "a binding");
    nic_state::check_untouched()
}

case!(signal_beats_patience);
/// Sends SIGTERM to a receiver with a patience of a minute. It must end without waiting that long.
fn signal_beats_patience() -> Result<()> {
    testbed::wire()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let receiver = Recv::on(NIC).listen(&to).patience(60000).start()?;
    let mut stream = connect(to.parse()?)?;
    stream.write_all(&pattern(4 << 20, None)?)?;
    receiver.signal(Signal::SIGTERM)?;
    let said = receiver.end_within(Duration::from_secs(30))?.refused(1)?;
    says(&said, &["signal"])
}
