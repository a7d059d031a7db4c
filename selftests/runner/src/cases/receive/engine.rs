//! Sinks that return tokens late or never, and peers that misbehave: other connections go on, no token
//! is lost, and the error names the culprit.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netdev::ethtool::{Action, FlowRule, PortMatch};
use netdev::{Ethtool, QueueId};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use framework::far_end::pattern;
use framework::peers::{
    FIRST, ObservedReceiver, Wire, address, check_whole, close, closed, ended, ended_well,
    expecting, find_ended, joined, peer, peer_at, peers, probe, probe_on, send, send_together,
    summary, wire_that_keeps_all,
};
use framework::probe_receiver::{Outcome, Probe, SinkKind};
use framework::testbed::{self, NIC, PEER};
use framework::tool::sh;
use framework::{ifindex, println_line};

const MIB: usize = 1 << 20;
/// The RSS key of the definition's examples ("Verifying the RSS Hash Calculation").
const EXAMPLE_HASH_KEY: &str = "6d:5a:56:da:25:5b:0e:c2:41:67:25:3d:43:a3:8f:b0:d0:ca:2b:cb:\
                        ae:7b:30:b4:77:cb:2d:a3:80:30:f2:0c:6a:42:b7:3b:be:ac:01:fa";
/// The two rx queues that a probe receiver uses.
const TWO_QUEUES: &[QueueId] = &[QueueId::new(2), QueueId::new(3)];
/// The source port of the peer whose sink misbehaves.
const CULPRIT: u16 = FIRST;

/// Runs a probe receiver with four peers. The first peer, whose sink is of the probe's kind, sends
/// `culprits` bytes; the other three send 1 MiB each, which must arrive.
fn run_with_four_peers(probe: Probe, culprits: usize) -> Result<Outcome> {
    let receiver = ObservedReceiver::probe(&probe.culprit(CULPRIT).peers(4))?;
    let culprit = send(peer(0)?, culprits);
    let others: Vec<_> = (1..4)
        .map(|number| Ok(send(peer(number)?, MIB)))
        .collect::<Result<_>>()?;
    others.into_iter().try_for_each(joined)?;
    // Whether it sees a reset depends on the kind.
    println_line(&format!("the culprit: {:?}", joined(culprit)));
    let outcome = receiver.outcome()?;
    for number in 1..4 {
        check_whole(find_ended(&outcome, FIRST + number)?, MIB as u64)?;
    }
    Ok(outcome)
}

case!(sink_that_keeps_a_few, on any_memory);
/// Runs a sink that keeps fewer frags than it may. Its connection must end with an error that
/// counts the frags not returned.
fn sink_that_keeps_a_few() -> Result<()> {
    let outcome = run_with_four_peers(probe(SinkKind::Miser).returns(300), 20_000)?;
    let culprit = find_ended(&outcome, CULPRIT)?;
    ensure!(culprit.right == 20_000, "{culprit:?}");
    ensure!(culprit.frags == culprit.kept, "{culprit:?}");
    let error = culprit.error.as_deref().unwrap_or_default();
    let missing = culprit.frags - culprit.freed;
    ensure!(
        missing > 0 && error.contains("sink") && error.contains(&format!("{missing} frags")),
        "{error:?}"
    );
    Ok(())
}

case!(sink_that_keeps_all, on any_memory);
/// Runs a sink that keeps more frags than it may. Its connection must not be read any more, and be
/// given up after a while.
fn sink_that_keeps_all() -> Result<()> {
    let outcome = run_with_four_peers(probe(SinkKind::Miser).stalled(1200).returns(300), MIB)?;
    let culprit = find_ended(&outcome, CULPRIT)?;
    ensure!(culprit.bytes < MIB as u64, "all was received: {culprit:?}");
    let error = culprit.error.as_deref().unwrap_or_default();
    ensure!(
        error.contains("sink") && error.contains(&format!("{} frags", culprit.kept)),
        "{error:?}"
    );
    Ok(())
}

case!(sink_that_is_slow, on any_memory);
/// Runs a sink that keeps its frags until all other connections have ended. They must not have to
/// wait for it.
fn sink_that_is_slow() -> Result<()> {
    let outcome = run_with_four_peers(probe(SinkKind::Last), 2 * MIB)?;
    let culprit = find_ended(&outcome, CULPRIT)?;
    check_whole(culprit, 2 * MIB as u64)?;
    // A quarter of the pool's 1024 niovs, and much less than its peer sent.
    ensure!(culprit.kept <= 256, "it kept {} frags", culprit.kept);
    Ok(())
}

case!(frags_back_after_the_end, on any_memory);
/// Gives frags back from another thread after the peer has closed. The connection must end well.
fn frags_back_after_the_end() -> Result<()> {
    let outcome = run_with_four_peers(probe(SinkKind::Late), 20_000)?;
    let culprit = find_ended(&outcome, CULPRIT)?;
    check_whole(culprit, 20_000)?;
    ensure!(culprit.kept == culprit.frags, "{culprit:?}");
    Ok(())
}

/// Returns the number of TCP segments with payload that a peer has sent, by `ss`: without
/// retransmissions.
fn data_segments_sent(number: u16) -> Result<u64> {
    let port = FIRST + number;
    let said = sh(&format!("ip netns exec {PEER} ss -tinH sport = :{port}"))?;
    let mut words = said.split_whitespace();
    let count = words.find_map(|word| word.strip_prefix("data_segs_out:"));
    Ok(count
        .with_context(|| format!("no data_segs_out in {said}"))?
        .parse()?)
}

case!(one_byte_at_a_time, on any_memory);
/// Sends byte by byte while another peer sends at full speed. Both streams must arrive whole, with
/// a frag for nearly every byte.
fn one_byte_at_a_time() -> Result<()> {
    const BYTES: usize = 600;
    // Of payload in a segment, with time stamps, at an MTU of 1,500.
    const MSS: usize = 1448;
    let receiver = ObservedReceiver::recv(&expecting(2).size("4M"))?;
    let mut slow = peer(0)?;
    slow.set_nodelay(true)?;
    let fast = send(peer(1)?, 4 * MIB);
    for byte in pattern(BYTES, None)? {
        slow.write_all(&[byte])?;
        thread::sleep(Duration::from_micros(200));
    }
    joined(fast)?;
    let segments = data_segments_sent(0)?;
    close(slow)?;
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, [0], BYTES)?;
    ended_well(&summary, [1], 4 * MIB)?;
    // Where the sender is held up, two bytes may leave in one.
    ensure!(segments > BYTES as u64 * 3 / 4, "only {segments} segments");
    let frags = summary.frags;
    let least = segments + (4 * MIB / MSS) as u64;
    println_line(&format!(
        "{segments} segments, {frags} frags, at least {least}"
    ));
    ensure!(frags >= least, "{frags} frags, not {least} or more");
    summary.tokens_came_back()?;
    summary.all_in_dmabuf()
}

case!(half_closed_and_reset, on any_memory);
/// Has one peer half-close, one reset and one close while others send. The reset must be reported,
/// and all other streams arrive whole.
fn half_closed_and_reset() -> Result<()> {
    let receiver = ObservedReceiver::recv(&expecting(5).size("4M"))?;
    let others: Vec<_> = (3..5)
        .map(|number| Ok(send(peer(number)?, 4 * MIB)))
        .collect::<Result<_>>()?;
    let mut half = peer(0)?;
    half.write_all(&pattern(100_000, None)?)?;
    half.shutdown(Shutdown::Write)?;
    let mut reset = peer(1)?;
    reset.write_all(&pattern(100_000, None)?)?;
    let abort = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&reset, sockopt::Linger, &abort)?;
    drop(reset);
    let mut gone = peer(2)?;
    gone.write_all(&pattern(100_000, None)?)?;
    drop(gone);
    closed(half)?;
    others.into_iter().try_for_each(joined)?;
    let (summary, said) = summary(receiver, 1)?;
    ended_well(&summary, [0, 2], 100_000)?;
    ended_well(&summary, [3, 4], 4 * MIB)?;
    let error = ended(&summary, FIRST + 1)?.1.unwrap_or_default();
    ensure!(error.contains("reset"), "{error:?}");
    ensure!(said.contains(&format!(":{}", FIRST + 1)), "{said:?}");
    summary.tokens_came_back()
}

case!(peer_on_the_wrong_queue, on any_memory);
/// Leads one peer to a queue without dmabuf by an earlier rule. Its bytes must count as unsteered,
/// and be refused if so asked; the others must go on.
fn peer_on_the_wrong_queue() -> Result<()> {
    testbed::wire()?;
    let mut rule = FlowRule::tcp_to(address()?, Action::Queue(QueueId::new(0)));
    rule.src_port = Some(PortMatch::exact(CULPRIT));
    rule.location = netdev::ethtool::Location::At(0);
    Ethtool::open()?.insert_rule(ifindex(NIC)?, &rule)?;
    for (options, code) in [("", 0), ("--refuse-unsteered", 1)] {
        let recv = expecting(3).size("4M").options(options);
        let receiver = ObservedReceiver::recv_here(&recv)?;
        let wrong = send(peer(0)?, MIB);
        let others: Vec<_> = (1..3)
            .map(|number| Ok(send(peer(number)?, 4 * MIB)))
            .collect::<Result<_>>()?;
        others.into_iter().try_for_each(joined)?;
        // Where it is refused, it is reset.
        println_line(&format!("the peer on queue 0: {:?}", joined(wrong)));
        let (summary, said) = summary(receiver, code)?;
        ended_well(&summary, [1, 2], 4 * MIB)?;
        summary.tokens_came_back()?;
        let (bytes, error) = ended(&summary, CULPRIT)?;
        let unsteered = summary.unsteered_bytes;
        ensure!(
            unsteered == bytes && bytes > 0,
            "{unsteered} bytes unsteered"
        );
        if code == 0 {
            ensure!((bytes, &error) == (MIB as u64, &None), "{error:?}");
        } else {
            let error = error.unwrap_or_default();
            ensure!(error.contains("not steered"), "{error:?}");
            ensure!(said.contains(&format!(":{CULPRIT}")), "{said:?}");
        }
    }
    Ok(())
}

case!(thread_of_the_queue, on any_memory);
/// Receives with one thread per queue and two listeners. Each connection must be served by its
/// queue's thread, whichever address it connected to.
fn thread_of_the_queue() -> Result<()> {
    const PEERS: u16 = 24;
    let second = SocketAddr::new(address()?.ip(), 5001);
    testbed::wire()?;
    // By a key of chance, 24 ports in a row may all be hashed to one queue.
    sh(&format!("ethtool -X {NIC} hkey {EXAMPLE_HASH_KEY}"))?;
    let probe = probe_on(TWO_QUEUES, SinkKind::Fair)
        .workers()
        .listen(second);
    let receiver = ObservedReceiver::probe_here(&probe.peers(PEERS).pool(16 << 20))?;
    let senders: Vec<_> = (0..PEERS)
        .map(|number| {
            let to = if number % 2 == 0 { address()? } else { second };
            Ok(send(peer_at(number, to)?, MIB / 4))
        })
        .collect::<Result<_>>()?;
    senders.into_iter().try_for_each(joined)?;
    let outcome = receiver.outcome()?;
    let mut served = [(None, 0), (None, 0)];
    for (number, peer) in (0..PEERS).zip(FIRST..) {
        let ended = find_ended(&outcome, peer)?;
        check_whole(ended, MIB as u64 / 4)?;
        ensure!(ended.local_port == 5000 + number % 2, "{ended:?}");
        ensure!(ended.threads.len() == 1, "{ended:?}");
        let (napi_id, count) = served.get_mut(ended.worker).context("worker")?;
        *count += 1;
        ensure!(ended.napi_id.is_some(), "no NAPI id: {ended:?}");
        ensure!(
            *napi_id.get_or_insert(ended.napi_id) == ended.napi_id,
            "worker {} has connections of two queues",
            ended.worker
        );
        let name = &outcome.peers.iter().find(|p| p.worker == ended.worker);
        let name = name.map(|peer| &peer.threads);
        ensure!(name == Some(&ended.threads), "{ended:?}");
    }
    println_line(&format!("{served:?}"));
    ensure!(served[0].1 > 0 && served[1].1 > 0, "one has them all");
    ensure!(served[0].0 != served[1].0, "one queue for both");
    Ok(())
}

case!(crowd_of_256, on any_memory);
/// Receives from 256 connections at once through 64 MiB. The NIC must never run out of memory.
fn crowd_of_256() -> Result<()> {
    const PEERS: u16 = 256;
    const BYTES: usize = 96 << 10;
    wire_that_keeps_all()?;
    let receiver = ObservedReceiver::recv_here(&expecting(PEERS))?;
    let peers = peers(PEERS)?;
    let wire = Wire::now()?;
    send_together(peers, BYTES)?;
    wire.always_had_memory()?;
    let (summary, _) = summary(receiver, 0)?;
    ended_well(&summary, 0..PEERS, BYTES)?;
    summary.tokens_came_back()?;
    summary.all_in_dmabuf()
}

case!(crowd_over_two_queues, on any_memory);
/// Receives from 64 connections on two queues, with a thread each, through 64 MiB. The NIC must
/// never run out of memory.
fn crowd_over_two_queues() -> Result<()> {
    const PEERS: u16 = 64;
    const BYTES: usize = 384 << 10;
    wire_that_keeps_all()?;
    let probe = probe_on(TWO_QUEUES, SinkKind::Fair).workers();
    let receiver = ObservedReceiver::probe_here(&probe.peers(PEERS).pool(64 << 20))?;
    let peers = peers(PEERS)?;
    let wire = Wire::now()?;
    send_together(peers, BYTES)?;
    wire.always_had_memory()?;
    let outcome = receiver.outcome()?;
    for peer in FIRST..FIRST + PEERS {
        check_whole(find_ended(&outcome, peer)?, BYTES as u64)?;
    }
    Ok(())
}

case!(pool_too_small_for_its_connections, on any_memory);
/// Receives from 24 connections through 16 niovs. All must be served, and a warning must say that
/// the memory is too small.
fn pool_too_small_for_its_connections() -> Result<()> {
    const PEERS: u16 = 24;
    const BYTES: usize = 8 << 10;
    let receiver = ObservedReceiver::recv(&expecting(PEERS).size("64K"))?;
    let peers = peers(PEERS)?;
    let senders: Vec<_> = peers.into_iter().map(|peer| send(peer, BYTES)).collect();
    senders.into_iter().try_for_each(joined)?;
    let (summary, said) = summary(receiver, 0)?;
    ended_well(&summary, 0..PEERS, BYTES)?;
    summary.tokens_came_back()?;
    // Before anybody comes.
    ensure!(
        said.contains("warning: 64 KiB of memory are few for 24 connections"),
        "no warning: {said:?}"
    );
    Ok(())
}
