//! One receiver on several queues, threads, dmabufs and listening sockets.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::{NetNs, Netdev, QueueId, QueueType};

use framework::command_line::Recv;
use framework::far_end::pattern;
use framework::peers::{
    ObservedReceiver, close, ended_well, expecting, expecting_on, joined, peer, peer_at, send,
    summary, tcp_counters,
};
use framework::receiver::bound_queues;
use framework::testbed::{self, NIC, NIC_ADDRESS6};
use framework::tool::until;

use framework::{ifindex, println_line};

const MIB: usize = 1 << 20;
const TWO_QUEUES: &[QueueId] = &[QueueId::new(2), QueueId::new(3)];

/// A receiver of eight peers on two queues, with 16 MiB of memory.
fn recv_from_eight() -> Recv {
    expecting_on(TWO_QUEUES, 8).size("16M")
}

/// Has eight peers send 1 MiB each, and checks that everything arrived.
fn send_from_eight(receiver: ObservedReceiver) -> Result<()> {
    let senders: Vec<_> = (0..8)
        .map(|number| Ok(send(peer(number)?, MIB)))
        .collect::<Result<_>>()?;
    senders.into_iter().try_for_each(joined)?;
    check_eight_received(receiver)
}

/// Checks the summary: eight whole streams, all in device memory, all tokens returned.
fn check_eight_received(receiver: ObservedReceiver) -> Result<()> {
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, 0..8, MIB)?;
    summary.tokens_came_back()?;
    summary.all_in_dmabuf()
}

fn wait_until_both_bound() -> Result<()> {
    until("two bindings", Duration::from_secs(30), || {
        Ok(bound_queues()? == 2)
    })
}

/// Returns the sets of CPUs that the receiver's worker threads are pinned to.
fn worker_processors(receiver: &ObservedReceiver) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let tasks = Path::new("/proc")
        .join(receiver.id().to_string())
        .join("task");
    for task in fs::read_dir(tasks)? {
        // It may be over meanwhile.
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        if !status.starts_with("Name:\trx worker") {
            continue;
        }
        let mut lines = status.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        found.insert(allowed.context("Cpus_allowed_list")?.trim().to_owned());
    }
    Ok(found)
}

case!(pinned_and_polling, on any_memory);
/// Runs a thread for each queue, pinned to a CPU of its own and busy polling. The kernel must count
/// polled packets, and none without `--busy-poll`.
fn pinned_and_polling() -> Result<()> {
    testbed::wire()?;
    let own = NetNs::current()?;
    let polled = || -> Result<u64> {
        let counters = tcp_counters(&own)?;
        counters
            .get("BusyPollRxPackets")
            .copied()
            .context("BusyPollRxPackets")
    };
    let before = polled()?;
    let recv = recv_from_eight().thread_per_queue();
    let receiver = ObservedReceiver::recv_here(&recv)?;
    wait_until_both_bound()?;
    send_from_eight(receiver)?;
    let asleep = polled()? - before;
    ensure!(asleep == 0, "{asleep} packets were polled for, unasked");

    let recv = recv.options("--pin 0,1 --busy-poll 5000");
    let receiver = ObservedReceiver::recv_here(&recv)?;
    wait_until_both_bound()?;
    let mut trickle = peer(0)?;
    until(
        "workers that keep to a processor",
        Duration::from_secs(10),
        || {
            let expected = ["0", "1"].map(str::to_owned);
            Ok(worker_processors(&receiver)? == BTreeSet::from(expected))
        },
    )?;
    // Little, and often: while a thread polls, the NIC's packets are the thread's.
    trickle.set_nodelay(true)?;
    for part in pattern(MIB, None)?.chunks(MIB / 256) {
        trickle.write_all(part)?;
        thread::sleep(Duration::from_millis(1));
    }
    let others: Vec<_> = (1..8)
        .map(|number| Ok(send(peer(number)?, MIB)))
        .collect::<Result<_>>()?;
    close(trickle)?;
    others.into_iter().try_for_each(joined)?;
    check_eight_received(receiver)?;
    let packets = polled()? - before;
    println_line(&format!("{packets} packets came by polling"));
    ensure!(packets > 20, "{packets} packets came by polling");
    Ok(())
}

case!(dmabuf_of_each_queue, on and_passed);
/// Receives on two queues with a dmabuf for each. Every stream must be whole and in device memory.
fn dmabuf_of_each_queue() -> Result<()> {
    let receiver = ObservedReceiver::recv(&recv_from_eight().dmabuf_per_queue())?;
    wait_until_both_bound()?;
    let queues = Netdev::open()?.queues(Some(ifindex(NIC)?))?;
    let rx = queues.iter().filter(|queue| queue.kind == QueueType::Rx);
    let dmabufs: BTreeSet<_> = rx.filter_map(|queue| queue.dmabuf).collect();
    ensure!(dmabufs.len() == 2, "{dmabufs:?}");
    send_from_eight(receiver)
}

case!(two_listeners, on any_memory);
/// Listens at two addresses, IPv4 and IPv6. All four peers must be received.
fn two_listeners() -> Result<()> {
    let second: SocketAddr = format!("[{NIC_ADDRESS6}]:5001").parse()?;
    let receiver = ObservedReceiver::recv(&expecting(4).listen(second))?;
    let mut senders = Vec::new();
    for number in 0..2 {
        senders.push(send(peer(number)?, MIB));
        senders.push(send(peer_at(2 + number, second)?, MIB));
    }
    senders.into_iter().try_for_each(joined)?;
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, 0..4, MIB)?;
    summary.tokens_came_back()?;
    summary.all_in_dmabuf()
}

case!(processor_that_is_not);
/// Asks for a CPU that does not exist. The error must name it, and the NIC be unchanged.
fn processor_that_is_not() -> Result<()> {
    let receiver = ObservedReceiver::recv(&expecting(1).thread_per_queue().options("--pin 1023"))?;
    let (_, said) = receiver.end(1)?;
    println_line(said.trim_end());
    ensure!(said.contains("1023"), "{said:?}");
    Ok(())
}
