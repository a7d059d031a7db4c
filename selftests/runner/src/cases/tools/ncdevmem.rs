//! `ncdevmem` as a receiver, with the command lines of upstream's tests and of the kernel series that
//! brought leases.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netdev::link::NetkitPair;
use netdev::queues::Lease;
use netdev::{Link, Netdev, QueueId, QueueType};
use nix::sys::signal::Signal;

use framework::command_line::Sender;
use framework::testbed::{self, BOX, NIC, NIC_ADDRESS, NIC_ADDRESS6, PEER, SENDER};
use framework::tool::{Finished, Running, command, finish, ours, sh, until};
use framework::transfer::nic_settings;
use framework::{ifindex, println_line};

/// A run may take so long.
const END: Duration = Duration::from_secs(30);

/// Upstream's payload: the bytes 1 to 6 and a newline.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    b"\x01\x02\x03\x04\x05\x06\n"
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

/// A run of it, in a namespace.
pub(crate) fn ncdevmem(netns: Option<&str>, line: &str) -> Command {
    command(netns, &ours("ncdevmem"), line)
}

/// A run of it that listens.
pub(crate) fn listening(netns: Option<&str>, line: &str) -> Result<Running> {
    Running::start(ncdevmem(netns, &format!("-l {line}")))
}

/// A run that has begun, at its end.
pub(crate) fn ended(running: Running) -> Result<Finished> {
    let end = running.end_within(END)?;
    println_line(end.stderr.trim_end());
    Ok(end)
}

/// The settings that it changes, and the channels, which it must not change.
pub(crate) fn settings() -> Result<String> {
    let channels = netdev::Ethtool::open()?.channels(ifindex(NIC)?)?;
    Ok(format!("{}\n{channels:?}", nic_settings(NIC)?))
}

/// Holds if the NIC is as it was.
pub(crate) fn same(before: &str) -> Result<()> {
    let now = settings()?;
    ensure!(
        now == before,
        "the NIC is not as it was before:\n{before}\n{now}"
    );
    Ok(())
}

/// How many rx queues of the NIC are bound.
pub(crate) fn bound() -> Result<usize> {
    let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    let bound =
        |queue: &&netdev::queues::Queue| queue.kind == QueueType::Rx && queue.dmabuf.is_some();
    Ok(queues.iter().filter(bound).count())
}

/// Waits until somebody listens, on either protocol.
pub(crate) fn until_listening() -> Result<()> {
    until("a listener", Duration::from_secs(30), || {
        Ok(sh("cat /proc/net/tcp /proc/net/tcp6")?.contains(" 0A "))
    })
}

case!(direct);
/// To standard output, then validated, then with a linear byte that must fail it.
fn direct() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    fs::write("/tmp/payload", payload(1 << 20))?;
    let line = format!(
        "-L -f {NIC} -s {NIC_ADDRESS} -c {} -p 5201",
        testbed::SENDER_ADDRESS
    );
    let receiver = listening(None, &line)?;
    // -c asks for flows from that port only.
    let from = format!("{}:5201", testbed::SENDER_ADDRESS);
    let sender = Sender::to(testbed::at(5201)).input("/tmp/payload");
    sender.from(from).run()?;
    ensure!(
        ended(receiver)?.good("ncdevmem")?.as_bytes() == payload(1 << 20),
        "stdout is not the payload"
    );

    let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p 5202 -v 7"))?;
    Sender::to(testbed::at(5202)).input("/tmp/payload").run()?;
    let said = ended(receiver)?.good("ncdevmem -v")?;
    ensure!(said == "Validated buffer\n", "on stdout: {said:?}");
    same(&before)?;

    testbed::parameter("unsplit_every", 3)?;
    testbed::parameter("unsplit_bytes", 10)?;
    let receiver = listening(None, &format!("-Lf{NIC} -s{NIC_ADDRESS} -p5203 -v7"))?;
    let sent = Sender::to(testbed::at(5203)).input("/tmp/payload").run();
    println_line(&format!("sender: {sent:?}"));
    let complaint = ended(receiver)?.refused(1)?;
    ensure!(
        complaint.contains("split"),
        "the complaint does not say that a packet was not split"
    );
    same(&before)
}

case!(linear_bytes_are_delivered);
/// Upstream skips linear bytes and forgives twenty wrong ones.
fn linear_bytes_are_delivered() -> Result<()> {
    testbed::wire()?;
    fs::write("/tmp/payload", payload(100_000))?;
    testbed::parameter("unsplit_every", 3)?;
    // A packet that is not split at all is ordinary data, and counts as not steered.
    testbed::parameter("unsplit_bytes", 1)?;
    let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p 5201"))?;
    let sent = Sender::to(testbed::at(5201)).input("/tmp/payload").run();
    let end = ended(receiver)?;
    sent?;
    ensure!(!end.stderr.contains("linear_bytes=0"), "no linear bytes");
    ensure!(end.stderr.contains("total_received=100000"), "not counted");
    ensure!(
        end.good("ncdevmem")?.as_bytes() == payload(100_000),
        "stdout is not the payload"
    );
    Ok(())
}

case!(one_wrong_byte_fails);
fn one_wrong_byte_fails() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let mut wrong = payload(100_000);
    wrong[54_321] = 99;
    fs::write("/tmp/payload", &wrong)?;
    let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p 5201 -v 7"))?;
    let sent = Sender::to(testbed::at(5201)).input("/tmp/payload").run();
    println_line(&format!("sender: {sent:?}"));
    let end = ended(receiver)?;
    ensure!(end.stdout.is_empty(), "on stdout: {:?}", end.stdout);
    ensure!(
        end.refused(1)?.contains("54321"),
        "the complaint does not name byte 54321"
    );
    same(&before)
}

case!(ipv6_and_the_table_that_was);
/// Two queues bound; an RSS table that is nobody's default comes back.
fn ipv6_and_the_table_that_was() -> Result<()> {
    testbed::wire()?;
    testbed::split()?;
    sh(&format!("ethtool -X {NIC} weight 1 0 2 5"))?;
    let before = settings()?;
    fs::write("/tmp/payload", payload(1 << 20))?;
    let line = format!("-f {NIC} -s {NIC_ADDRESS6} -p 5201 -v 7 -t 2 -q 2");
    let receiver = listening(None, &line)?;
    Sender::to(format!("[{NIC_ADDRESS6}]:5201"))
        .input("/tmp/payload")
        .run()?;
    let end = ended(receiver)?;
    ensure!(end.stderr.contains("linear_bytes=0"), "linear bytes");
    end.good("ncdevmem")?;
    same(&before)
}

case!(signals_restore);
/// While it waits, and while data flows: the NIC is put back, the status is 1.
fn signals_restore() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let mut port = 5200;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for flowing in [false, true] {
            port += 1;
            let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p {port}"))?;
            until_listening()?;
            ensure!(bound()? == 1, "nothing is bound");
            let sender = if flowing {
                let line = format!("send {NIC_ADDRESS}:{port} --bytes 4096M");
                let tool = ours("devmem-tcp");
                Some(Running::start(command(Some(PEER), &tool, &line))?)
            } else {
                None
            };
            std::thread::sleep(Duration::from_millis(500));
            receiver.signal(signal)?;
            let complaint = ended(receiver)?.refused(1)?;
            ensure!(complaint.contains("signal"), "no signal is named");
            same(&before)?;
            if let Some(sender) = sender {
                ended(sender)?.refused(1)?;
            }
        }
    }
    ensure!(bound()? == 0, "a binding is left");
    Ok(())
}

case!(as_in_the_series);
/// The words of the series: 16 queues, the last of them leased, RSS on the others, a context and a
/// rule for the service's address and port, and ncdevmem in the namespace, by `-t` and `-q` and by
/// itself; then from the sender's dmabuf to the container's.
fn as_in_the_series() -> Result<()> {
    series()?;
    fs::write("/tmp/payload", payload(4 << 20))?;
    let all = |end: Finished| -> Result<()> {
        ensure!(
            end.stderr.contains("total_received=4194304"),
            "not all was received"
        );
        ensure!(end.stderr.contains("linear_bytes=0"), "linear bytes");
        end.good("ncdevmem").map(drop)
    };
    for line in ["-t 1 -q 1", ""] {
        let line = format!("-s 1.2.3.4 -p 5000 -f nk0 {line} -v 7");
        let receiver = listening(Some(BOX), &line)?;
        let sent = Sender::to("1.2.3.4:5000").input("/tmp/payload").run();
        let end = ended(receiver)?;
        sent?;
        all(end)?;
    }
    let receiver = listening(Some(BOX), "-s 1.2.3.4 -p 5000 -f nk0 -t 1 -q 1 -v 7")?;
    until("a listener", Duration::from_secs(30), || {
        Ok(sh(&format!("ip netns exec {BOX} cat /proc/net/tcp"))?.contains(" 0A "))
    })?;
    let line = format!("-s 1.2.3.4 -p 5000 -f {SENDER}");
    let mut sender = ncdevmem(Some(PEER), &line);
    sender.stdin(fs::File::open("/tmp/payload")?);
    let sent = finish(sender)?.good("ncdevmem -s");
    let end = ended(receiver)?;
    sent?;
    all(end)
}

/// NIC, lease and container as the series has them; 1.2.3.4 is the container's, on nk0.
pub(crate) fn series() -> Result<()> {
    testbed::wire_with(16, "")?;
    testbed::container()?;
    testbed::split()?;
    sh(&format!("ethtool -X {NIC} start 0 equal 15"))?;
    let made = sh(&format!("ethtool -X {NIC} start 15 equal 1 context new"))?;
    println_line(made.trim_end());
    let rule = "flow-type tcp4 dst-ip 1.2.3.4 dst-port 5000 action 15";
    println_line(sh(&format!("ethtool --config-ntuple {NIC} {rule}"))?.trim_end());
    let mut pair = NetkitPair::new("nk1", "nk0");
    pair.rx_queues = Some(2);
    let guest = Link::open()?.create_netkit(&pair)?.peer;
    let lease = Lease {
        of: ifindex(NIC)?,
        queue: QueueId::new(15),
        netns_id: None,
    };
    let queue = Netdev::open()?.lease(guest, lease)?;
    ensure!(queue == QueueId::new(1), "queue-create answered {queue}");
    for line in [
        format!("link set nk0 netns {BOX}"),
        "link set nk1 up".to_owned(),
        format!("-n {BOX} link set nk0 up"),
        format!("-n {BOX} addr add 1.2.3.4/32 dev nk0"),
        format!("-n {BOX} route add default dev nk0"),
        "route add 1.2.3.4/32 dev nk1".to_owned(),
        format!("-n {PEER} route add 1.2.3.4/32 via {NIC_ADDRESS}"),
    ] {
        sh(&format!("ip {line}"))?;
    }
    testbed::forward(&[NIC, "nk1"])
}
