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

/// Time limit for a run of `ncdevmem`.
const END: Duration = Duration::from_secs(30);

/// Payload of upstream's tests: the bytes 1 to 6 and a newline, repeated.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    b"\x01\x02\x03\x04\x05\x06\n"
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

/// The command of `ncdevmem` with these options, in a namespace if one is named.
pub(crate) fn ncdevmem(netns: Option<&str>, line: &str) -> Command {
    command(netns, &ours("ncdevmem"), line)
}

/// Starts `ncdevmem -l` with these options.
pub(crate) fn listening(netns: Option<&str>, line: &str) -> Result<Running> {
    Running::start(ncdevmem(netns, &format!("-l {line}")))
}

/// Waits for the end of an `ncdevmem` that runs.
pub(crate) fn wait_for_end(running: Running) -> Result<Finished> {
    let end = running.end_within(END)?;
    println_line(end.stderr.trim_end());
    Ok(end)
}

/// Reads the NIC's settings that `ncdevmem` changes, and its channels, which it must not change.
pub(crate) fn settings() -> Result<String> {
    let channels = netdev::Ethtool::open()?.channels(ifindex(NIC)?)?;
    Ok(format!("{}\n{channels:?}", nic_settings(NIC)?))
}

/// Checks that the NIC's settings are as before.
pub(crate) fn check_settings(before: &str) -> Result<()> {
    let now = settings()?;
    ensure!(
        now == before,
        "the NIC is not as it was before:\n{before}\n{now}"
    );
    Ok(())
}

/// Counts the NIC's rx queues that are bound to a dmabuf.
pub(crate) fn bound_queues() -> Result<usize> {
    let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    let bound =
        |queue: &&netdev::queues::Queue| queue.kind == QueueType::Rx && queue.dmabuf.is_some();
    Ok(queues.iter().filter(bound).count())
}

/// Waits until a socket listens, on IPv4 or IPv6.
pub(crate) fn until_listening() -> Result<()> {
    until("a listener", Duration::from_secs(30), || {
        Ok(sh("cat /proc/net/tcp /proc/net/tcp6")?.contains(" 0A "))
    })
}

case!(direct);
/// Receives to standard output, then validates, then validates with linear bytes and `-L`, which
/// must fail. The NIC must be as before.
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
        wait_for_end(receiver)?.good("ncdevmem")?.as_bytes() == payload(1 << 20),
        "stdout is not the payload"
    );

    let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p 5202 -v 7"))?;
    Sender::to(testbed::at(5202)).input("/tmp/payload").run()?;
    let said = wait_for_end(receiver)?.good("ncdevmem -v")?;
    ensure!(said == "Validated buffer\n", "on stdout: {said:?}");
    check_settings(&before)?;

    testbed::parameter("unsplit_every", 3)?;
    testbed::parameter("unsplit_bytes", 10)?;
    let receiver = listening(None, &format!("-Lf{NIC} -s{NIC_ADDRESS} -p5203 -v7"))?;
    let sent = Sender::to(testbed::at(5203)).input("/tmp/payload").run();
    println_line(&format!("sender: {sent:?}"));
    let complaint = wait_for_end(receiver)?.refused(1)?;
    ensure!(
        complaint.contains("split"),
        "the complaint does not say that a packet was not split"
    );
    check_settings(&before)
}

case!(linear_bytes_are_delivered);
/// Receives with linear bytes, which upstream's `ncdevmem` skips. They must be delivered in order.
fn linear_bytes_are_delivered() -> Result<()> {
    testbed::wire()?;
    fs::write("/tmp/payload", payload(100_000))?;
    testbed::parameter("unsplit_every", 3)?;
    // A packet that is not split at all is ordinary data, and counts as not steered.
    testbed::parameter("unsplit_bytes", 1)?;
    let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p 5201"))?;
    let sent = Sender::to(testbed::at(5201)).input("/tmp/payload").run();
    let end = wait_for_end(receiver)?;
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
    let end = wait_for_end(receiver)?;
    ensure!(end.stdout.is_empty(), "on stdout: {:?}", end.stdout);
    ensure!(
        end.refused(1)?.contains("54321"),
        "the complaint does not name byte 54321"
    );
    check_settings(&before)
}

case!(ipv6_and_the_table_that_was);
/// Receives over IPv6 on two queues, on a NIC with an RSS table set. The table must be restored.
fn ipv6_and_the_table_that_was() -> Result<()> {
    testbed::wire()?;
    testbed::enable_header_split()?;
    sh(&format!("ethtool -X {NIC} weight 1 0 2 5"))?;
    let before = settings()?;
    fs::write("/tmp/payload", payload(1 << 20))?;
    let line = format!("-f {NIC} -s {NIC_ADDRESS6} -p 5201 -v 7 -t 2 -q 2");
    let receiver = listening(None, &line)?;
    Sender::to(format!("[{NIC_ADDRESS6}]:5201"))
        .input("/tmp/payload")
        .run()?;
    let end = wait_for_end(receiver)?;
    ensure!(end.stderr.contains("linear_bytes=0"), "linear bytes");
    end.good("ncdevmem")?;
    check_settings(&before)
}

case!(signals_restore);
/// Ends `ncdevmem` by signals, while it waits and while payload flows. It must exit with 1 and
/// restore the NIC.
fn signals_restore() -> Result<()> {
    testbed::wire()?;
    let before = settings()?;
    let mut port = 5200;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for flowing in [false, true] {
            port += 1;
            let receiver = listening(None, &format!("-f {NIC} -s {NIC_ADDRESS} -p {port}"))?;
            until_listening()?;
            ensure!(bound_queues()? == 1, "nothing is bound");
            let sender = if flowing {
                let line = format!("send {NIC_ADDRESS}:{port} --bytes 4096M");
                let tool = ours("devmem-tcp");
                Some(Running::start(command(Some(PEER), &tool, &line))?)
            } else {
                None
            };
            std::thread::sleep(Duration::from_millis(500));
            receiver.signal(signal)?;
            let complaint = wait_for_end(receiver)?.refused(1)?;
            ensure!(complaint.contains("signal"), "no signal is named");
            check_settings(&before)?;
            if let Some(sender) = sender {
                wait_for_end(sender)?.refused(1)?;
            }
        }
    }
    ensure!(bound_queues()? == 0, "a binding is left");
    Ok(())
}

case!(as_in_the_series);
/// Runs the commands of the kernel series that brought leases: a container's `ncdevmem` on a leased
/// queue, with `-t` and `-q` and without, then sending from dmabuf to dmabuf. Everything must
/// arrive.
fn as_in_the_series() -> Result<()> {
    set_up_series()?;
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
        let end = wait_for_end(receiver)?;
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
    let end = wait_for_end(receiver)?;
    sent?;
    all(end)
}

/// Sets NIC, lease and container up as in the kernel series that brought leases; 1.2.3.4 is the
/// container's address, on nk0.
pub(crate) fn set_up_series() -> Result<()> {
    testbed::wire_with(16, "")?;
    testbed::container()?;
    testbed::enable_header_split()?;
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
