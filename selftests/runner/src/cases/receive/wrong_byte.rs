//! One wrong byte in the payload, by each way that payload can arrive: the receiver names its
//! offset and counts no byte behind it as validated.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::Netdev;
use netdev::queues::Scope;

use framework::command_line::{Recv, Sender};
use framework::far_end::{connect, pattern};
use framework::memory;
use framework::summary::Summary;
use framework::testbed::{self, BOX, BOX_ADDRESS, GUEST, NIC, NIC_ADDRESS, NIC_ADDRESS6};
use framework::tool::{Finished, Running, command, sh};
use framework::transfer::{devmem_tcp, nic_settings};
use framework::{Skip, ifindex, println_line};

const LEN: usize = 1_500_000;
/// Offset of the wrong byte in the stream.
const WRONG_AT: usize = 1_234_567;
const END: Duration = Duration::from_secs(30);

/// Checks that a receiver failed because of the wrong byte at `at`: error and summary name that
/// offset. Returns the summary.
pub(crate) fn check_refuted(end: Finished, at: usize) -> Result<Summary> {
    println_line(end.stdout.trim_end());
    let summary = Summary::parse(&end.stdout)?;
    let complaint = end.refused(1)?;
    println_line(complaint.trim_end());
    ensure!(
        complaint.contains(&format!("byte {at} of the stream")),
        "byte {at} is not named: {complaint}"
    );
    ensure!(summary.bytes > at as u64, "bytes");
    let connection = summary.first()?;
    for validated in [summary.validated()?, connection.validated()?] {
        ensure!(
            validated == at as u64,
            "{validated} bytes are said to be right"
        );
    }
    ensure!(connection.error.is_some(), "no error");
    ensure!(!summary.complete, "complete");
    summary.tokens_came_back()?;
    Ok(summary)
}

/// Transfers a stream with one wrong byte to a validating receiver, and checks what it reports.
fn transfer_wrong_byte(receiver: Recv, to: &str) -> Result<Summary> {
    let before = nic_settings(NIC)?;
    fs::write("/tmp/wrong", pattern(LEN, Some(WRONG_AT))?)?;
    let receiver = receiver.validate(251).listen(to).start()?;
    // The receiver ends at the bad byte: whether the sender sees it depends on the moment.
    let sent = Sender::to(to).input("/tmp/wrong").run();
    println_line(&format!("sender: {sent:?}"));
    let summary = check_refuted(receiver.end_within(END)?, WRONG_AT)?;
    ensure!(summary.frags > 0, "none came into the dmabuf");
    ensure!(nic_settings(NIC)? == before, "the NIC is not as it was");
    Ok(summary)
}

case!(direct, on and_passed);
fn direct() -> Result<()> {
    testbed::wire()?;
    transfer_wrong_byte(Recv::on(NIC), &testbed::at(5000)).map(drop)
}

case!(in_words);
/// Prints the summary as text. It must claim that every byte was validated for a right stream only.
fn in_words() -> Result<()> {
    testbed::wire()?;
    for (port, wrong) in [(5000, None), (5001, Some(WRONG_AT))] {
        let to = format!("{NIC_ADDRESS}:{port}");
        fs::write("/tmp/wrong", pattern(LEN, wrong)?)?;
        let line = memory::recv_line(&format!("recv -f {NIC} -l {to} --validate 251"))?;
        let receiver = Running::start(command(None, &devmem_tcp(), &line))?;
        let _sent = Sender::to(&to).input("/tmp/wrong").run();
        let said = receiver.end_within(END)?.stdout;
        println_line(&said);
        // The claim may stand in a line of its own.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(
            said.contains("every byte validated (period 251)") == wrong.is_none(),
            "a claim that isn't so"
        );
        if wrong.is_some() {
            ensure!(
                said.contains(&format!(", {WRONG_AT} of ")),
                "how many were right"
            );
        }
    }
    Ok(())
}

case!(ipv6, on and_passed);
fn ipv6() -> Result<()> {
    testbed::wire()?;
    transfer_wrong_byte(Recv::on(NIC), &format!("[{NIC_ADDRESS6}]:5000")).map(drop)
}

case!(beside, on and_passed);
/// Transfers a stream with one wrong byte while a part of some packets lies beside the dmabuf. The
/// byte's offset must be right.
fn beside() -> Result<()> {
    testbed::wire()?;
    testbed::parameter("unsplit_every", 5)?;
    testbed::parameter("unsplit_bytes", 100)?;
    let summary = transfer_wrong_byte(Recv::on(NIC), &testbed::at(5000))?;
    ensure!(summary.linear_bytes > 0, "nothing beside");
    Ok(())
}

case!(through_a_lease, on and_passed);
fn through_a_lease() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!(
        "--queue {} --netkit {GUEST} --netns {BOX}",
        testbed::QUEUES - 1
    );
    sh(&format!(
        "{} lease --phys {NIC} {line}",
        devmem_tcp().display()
    ))?;
    testbed::route_to_container()?;
    let receiver = Recv::on(GUEST).netns(BOX);
    transfer_wrong_byte(receiver, &format!("{BOX_ADDRESS}:5000")).map(drop)
}

case!(rx_page_size, on and_passed);
fn rx_page_size() -> Result<()> {
    if testbed::kernel()? < (7, 3) {
        return Err(Skip("rx-page-size is of Linux 7.3".into()).into());
    }
    let pages = memory::pages_of_64_kib()?;
    fs::write("/proc/sys/vm/nr_hugepages", "64").context("nr_hugepages")?;
    let done = testbed::wire().and_then(|()| {
        sh(&format!("ethtool -K {NIC} rx-gro-hw on"))?;
        let receiver = Recv::on(NIC).options(pages).rx_page_size("64K");
        transfer_wrong_byte(receiver, &testbed::at(5000))
    });
    fs::write("/proc/sys/vm/nr_hugepages", "0").context("nr_hugepages")?;
    let frags = done?.frags;
    ensure!(frags < LEN as u64 / 8192, "{frags} frags: pieces of 4 KiB");
    Ok(())
}

case!(two_queues, on and_passed);
fn two_queues() -> Result<()> {
    check_peers_on_two_queues(Recv::on(NIC))
}

case!(two_queues_with_a_dmabuf_each, on and_passed);
fn two_queues_with_a_dmabuf_each() -> Result<()> {
    let receiver = Recv::on(NIC).thread_per_queue().dmabuf_per_queue();
    check_peers_on_two_queues(receiver.size("16M"))
}

/// Has nine peers send to two queues, eight of them with a wrong byte at different offsets. Each
/// must be judged by its own bytes.
fn check_peers_on_two_queues(receiver: Recv) -> Result<()> {
    const WRONG: usize = 8;
    testbed::wire()?;
    let receiver = receiver.queue(2).queue(3).connections(WRONG + 1);
    let to = testbed::at(5000);
    let receiver = receiver.validate(251).listen(&to).start()?;
    let to = to.parse()?;
    let mut places = Vec::new();
    for turn in 0..=WRONG {
        let mut peer = connect(to)?;
        let wrong = (turn < WRONG).then_some(10_000 + turn);
        places.push((peer.local_addr()?.port(), wrong));
        // The receiver ends at the bad byte.
        let _sent = peer.write_all(&pattern(30_000, wrong)?);
    }
    let used = Netdev::open()?.qstats(Some(ifindex(NIC)?), Scope::Queue)?;
    let used = used.iter().filter(|stats| {
        let ours = stats.queue.is_some_and(|of| matches!(of.id.get(), 2 | 3));
        ours && stats.counters.rx_packets.unwrap_or(0) > 0
    });
    ensure!(used.count() == 2, "not both queues have received");
    let end = receiver.end_within(END)?;
    println_line(end.stdout.trim_end());
    let summary = Summary::parse(&end.stdout)?;
    end.refused(1)?;
    let mut sum = 0;
    for (port, wrong) in places {
        let peer = summary.connection(port)?;
        let right = wrong.unwrap_or(30_000) as u64;
        ensure!(peer.validated()? == right, "{peer:?}, wrong at {wrong:?}");
        ensure!(peer.error.is_none() == wrong.is_none(), "{peer:?}");
        sum += right;
    }
    ensure!(summary.validated()? == sum, "the sum");
    summary.tokens_came_back()
}
