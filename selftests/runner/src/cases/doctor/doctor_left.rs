//! `doctor` finds what earlier receivers left behind.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use devmem::listen::{SocketOptions, listen};
use devmem::{DevmemStream, RecvBuffer, RecvError, Segment};
use netdev::ethtool::{Action, FlowRule};
use netdev::queues::BindOptions;
use netdev::{Link, NetNs, Netdev, QueueId};
use nic::Plan;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use udmabuf::Udmabuf;

use framework::command_line::{Recv, Sender};
use framework::doctor::{Report, Severity, check_named, run_remedy};
use framework::leases::Guest;
use framework::nic_state::guardian;
use framework::testbed::{
    self, BOX, BOX_ADDRESS, GUEST, NIC, NIC_ADDRESS, PEER, SENDER, SENDER_ADDRESS,
};
use framework::tool::{sh, until};
use framework::transfer::nic_settings;
use framework::{ifindex, println_line};

const LAST: QueueId = QueueId::new(testbed::QUEUES - 1);
const SOON: Duration = Duration::from_secs(30);

case!(journal_of_a_dead_receiver);
/// Kills a receiver and its guardian. `doctor` must find the journal they left, and its remedy must
/// restore the NIC.
fn journal_of_a_dead_receiver() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let receiver = Recv::on(NIC).listen(testbed::at(5000)).start()?;
    until("a set-up", SOON, || {
        Ok(nic_settings(NIC)?.contains("5000") && guardian().is_ok())
    })?;
    kill(Pid::from_raw(guardian()?), Signal::SIGKILL)?;
    receiver.kill()?;
    let report = Report::of(NIC)?;
    ensure!(report.status("journal.left") == "warn", "{}", report.json);
    let remedy = report.remedy("journal.left")?;
    println_line(remedy);
    run_remedy(remedy)?;
    ensure!(nic_settings(NIC)? == before, "not as before");
    Report::of(NIC)?.healthy()
}

case!(pool_of_a_dead_connection);
/// Closes a connection with frags not returned, while its peer is silent, so that the page pool
/// outlives the binding. `doctor` must find the pool, and its remedy must end it.
fn pool_of_a_dead_connection() -> Result<()> {
    testbed::wire()?;
    let memory = Udmabuf::builder(4 << 20).build()?;
    let address: SocketAddr = format!("{NIC_ADDRESS}:5000").parse()?;
    let nic = ifindex(NIC)?;
    let applied = Plan::new(NIC, nic)
        .header_split()
        .reserve(&[LAST])
        .steer(FlowRule::tcp_to(address, Action::Drop), &[LAST])
        .apply(&NetNs::current()?)?;
    let binding = Netdev::open()?.bind_rx(nic, &memory, &[LAST], BindOptions::default())?;
    let listener = listen(address, &SocketOptions::default())?;
    let sender = Sender::to(address).bytes("256M").start()?;
    close_with_frags(&listener)?;
    binding.unbind();
    applied.restore()?;
    check_remedy_frees_pool(NIC)?;
    sender.kill()?;
    Report::of(NIC)?.healthy()
}

/// Accepts a connection, cuts its peer off, and closes the connection with frags not returned.
fn close_with_frags(listener: &TcpListener) -> Result<()> {
    let (socket, _) = listener.accept()?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let held = read_and_cut_peer_off(&mut DevmemStream::new(socket))?;
    println_line(&format!("{held} frags were not given back"));
    Ok(())
}

/// Checks that `doctor` with these arguments finds a page pool that was left, and that its remedy
/// ends the pool.
fn check_remedy_frees_pool(line: &str) -> Result<()> {
    run_remedy(&check_named(line, "pool.left", Severity::Warns)?)?;
    until("the end of the pool", SOON, || {
        Ok(Report::of(line)?.status("pool.left") == "ok")
    })
}

case!(pool_of_a_guest);
/// Runs `doctor` for a guest whose dead connection keeps a page pool, and which now listens at
/// another port. The remedy must be for the guest's namespace and address.
fn pool_of_a_guest() -> Result<()> {
    check_pool_of_dead_guest_connection(&format!(
        "{GUEST} --netns {BOX} --listen {BOX_ADDRESS}:5001"
    ))
}

case!(pool_of_a_guest_by_its_nic);
/// Runs `doctor` for the NIC when a guest's dead connection keeps a page pool. The remedy must be
/// for the guest's namespace.
fn pool_of_a_guest_by_its_nic() -> Result<()> {
    check_pool_of_dead_guest_connection(NIC)
}

/// Leaves a page pool behind by a guest's dead connection on a leased queue, and checks that the
/// remedy of `doctor` with these arguments ends the pool.
fn check_pool_of_dead_guest_connection(line: &str) -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    Guest::pair(GUEST, 2, BOX)?.lease_as(3, 1)?;
    testbed::route_to_container()?;
    let address: SocketAddr = format!("{BOX_ADDRESS}:5000").parse()?;
    let applied = Plan::new(NIC, ifindex(NIC)?)
        .header_split()
        .reserve(&[LAST])
        .steer(FlowRule::tcp_to(address, Action::Drop), &[LAST])
        .apply(&NetNs::current()?)?;
    let netns = NetNs::by_name(BOX)?;
    let memory = Udmabuf::builder(4 << 20).build()?;
    let guest = Link::open_in(&netns)?.by_name(GUEST)?.ifindex;
    let netdev = Netdev::open_in(&netns)?;
    let binding = netdev.bind_rx(guest, &memory, &[QueueId::new(1)], BindOptions::default())?;
    let listener = netns.run(|| listen(address, &SocketOptions::default()))??;
    let sender = Sender::to(address).bytes("256M").start()?;
    close_with_frags(&listener)?;
    drop(listener);
    binding.unbind();
    applied.restore()?;
    check_remedy_frees_pool(line)?;
    sender.kill().map(drop)
}

/// Reads all payload, and cuts the peer off after the first of it. Returns the number of frags,
/// none of which is given back.
fn read_and_cut_peer_off(stream: &mut DevmemStream<std::net::TcpStream>) -> Result<usize> {
    let mut buffer = RecvBuffer::new();
    let mut held = 0;
    loop {
        let before = held;
        match stream.recv(&mut buffer) {
            Ok(mut received) => {
                for segment in received.by_ref() {
                    held += usize::from(matches!(segment, Segment::Frag(_)));
                }
            }
            Err(RecvError::WouldBlock) if held > 0 => return Ok(held),
            Err(error) => return Err(error.into()),
        }
        if before == 0 {
            sh(&format!(
                "ip -n {PEER} address delete {SENDER_ADDRESS}/24 dev {SENDER}"
            ))?;
        }
    }
}
