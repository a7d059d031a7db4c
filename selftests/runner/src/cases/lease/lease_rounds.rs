//! `lease`, a transfer and `unlease`, repeated as an operator would: nothing is left behind.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netdev::link::Route;
use netdev::{Link, NetNs, Prefix};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use framework::command_line::Recv;
use framework::far_end::{connect, pattern};
use framework::footprint::Footprint;
use framework::leases::check_free;
use framework::machine;
use framework::println_line;
use framework::summary::{self, Leased, Unleased};
use framework::testbed::{self, BOX, GUEST, HOST, NIC, NIC_ADDRESS, NIC_ADDRESS6, PEER};
use framework::tool::{Finished, command, finish};
use framework::transfer::{devmem_tcp, summary};

/// Number of rounds of a case; there are two cases for each way to name a namespace.
const ROUNDS: u32 = 25;
/// Number of the NIC's queue that is leased.
pub(crate) const LAST: u32 = testbed::QUEUES - 1;
/// IPv4 address of the guest that the sender has a route to.
pub(crate) const ROUTED: &str = testbed::BOX_ADDRESS;
pub(crate) const ROUTED6: &str = "2001:db8:100::2";
/// IPv4 address of the guest in the NIC's own subnet.
pub(crate) const BESIDE: &str = "192.0.2.77";
pub(crate) const BESIDE6: &str = "2001:db8:2::77";
/// File that a network namespace is mounted on.
const POD_FILE: &str = "/run/pod.netns";

/// A pod's network namespace, by what keeps it and names it.
pub(crate) enum Pod {
    /// Named, as by `ip netns`.
    Named,
    /// Mounted on a file outside of `/run/netns`.
    Mounted,
    /// Kept by a process only.
    Process(Child),
}

impl Pod {
    pub(crate) fn named() -> Result<Self> {
        machine::add_namespace(BOX)?;
        Ok(Self::Named)
    }

    fn mounted() -> Result<Self> {
        fs::File::create(POD_FILE)?;
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(
                Some(own),
                POD_FILE,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        });
        made.join().map_err(|_| anyhow!("the thread panicked"))??;
        Ok(Self::Mounted)
    }

    fn process() -> Result<Self> {
        // What a thread starts is in its namespace.
        let child = thread::spawn(|| -> Result<Child> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut sleep = Command::new("sleep");
            let sleep = sleep.arg("1000").stdin(Stdio::null());
            sleep.spawn().context("sleep")
        });
        let child = child.join().map_err(|_| anyhow!("the thread panicked"))??;
        Ok(Self::Process(child))
    }

    /// Returns the argument of `--netns` for the namespace.
    pub(crate) fn netns_argument(&self) -> String {
        match self {
            Self::Named => BOX.to_owned(),
            Self::Mounted => POD_FILE.to_owned(),
            Self::Process(child) => format!("pid:{}", child.id()),
        }
    }

    /// Ends the pod: deletes the name, unmounts the file or kills the process.
    pub(crate) fn end(self) -> Result<()> {
        match self {
            Self::Named => machine::delete_namespace(BOX),
            Self::Mounted => {
                umount2(POD_FILE, MntFlags::MNT_DETACH)?;
                Ok(fs::remove_file(POD_FILE)?)
            }
            Self::Process(mut child) => {
                child.kill()?;
                child.wait()?;
                Ok(())
            }
        }
    }
}

/// Prepares the wire and the sender's routes to the guest, and checks that this host is not a
/// router.
pub(crate) fn wire_with_routes() -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/all/forwarding");
        let forwarding = fs::read_to_string(&path).context(path.clone())?;
        ensure!(forwarding.trim() == "0", "{path} is {forwarding:?}");
    }
    testbed::wire()?;
    let mut peer = Link::open_in(&NetNs::by_name(PEER)?)?;
    for (to, over) in [(ROUTED, NIC_ADDRESS), (ROUTED6, NIC_ADDRESS6)] {
        let router: IpAddr = over.parse()?;
        peer.add_route(&Route::over(to.parse::<Prefix>()?, router))?;
    }
    Ok(())
}

/// Runs `devmem-tcp lease` to its end, whatever its exit status.
pub(crate) fn lease(line: &str) -> Result<Finished> {
    let line = format!("lease --phys {NIC} {line}");
    finish(command(None, &devmem_tcp(), &line))
}

/// Runs `devmem-tcp lease --json`, which must succeed, and returns its output.
pub(crate) fn leased(line: &str) -> Result<Leased> {
    let text = lease(&format!("--json {line}"))?.good("lease")?;
    summary::parse(&text)
}

/// Runs `devmem-tcp unlease` to its end, whatever its exit status.
pub(crate) fn unlease(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), &format!("unlease {line}")))
}

/// Runs `devmem-tcp unlease --json`, which must succeed, and returns its output.
pub(crate) fn unleased(line: &str) -> Result<Unleased> {
    let text = unlease(&format!("--json {line}"))?.good("unlease")?;
    summary::parse(&text)
}

/// Sends `bytes` bytes from the far end of the wire to a receiver on the netkit, and checks that
/// all are right and in the dmabuf.
pub(crate) fn receive(netns: &str, netkit: &str, to: SocketAddr, bytes: usize) -> Result<()> {
    let receiver = Recv::on(netkit).netns(netns).listen(to).size("2M");
    let receiver = receiver.validate(251).start()?;
    let sent = connect(to).and_then(|mut stream| Ok(stream.write_all(&pattern(bytes, None)?)?));
    if let Err(error) = sent {
        let end = receiver.end_within(Duration::from_secs(5));
        return Err(error.context(format!("the receiver: {end:?}")));
    }
    let summary = summary(receiver)?;
    ensure!(summary.bytes == bytes as u64, "{summary}");
    summary.all_validated()?;
    summary.all_in_dmabuf()
}

fn address(addr: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(addr.parse()?, port))
}

/// Which ends first in a round, the lease or the pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EndsFirst {
    /// `unlease` ends the lease, then the pod ends.
    Lease,
    /// The pod ends, and with it the lease; `unlease` removes the rest.
    Pod,
}

/// Runs the rounds of a case: make a pod, lease with routes for IPv4 and IPv6, receive, end lease
/// and pod. Checks after each that nothing is left.
fn run_rounds(first: EndsFirst, pod: impl Fn() -> Result<Pod>) -> Result<()> {
    wire_with_routes()?;
    let before = Footprint::settled()?;
    let (begin, sizes) = (Instant::now(), [4 << 10, 1 << 20, (100 << 10) + 1, 17]);
    for round in 0..ROUNDS {
        let turn = usize::try_from(round)?;
        let to = [ROUTED, ROUTED6][turn % 2];
        let to = address(to, 5000 + u16::try_from(round)?)?;
        run_round(first, pod()?, to, sizes[turn % sizes.len()])
            .and_then(|()| before.soon_again())
            .with_context(|| format!("round {round}"))?;
    }
    let each = begin.elapsed() / ROUNDS;
    println_line(&format!("{ROUNDS} rounds, {} ms each", each.as_millis()));
    Ok(())
}

fn run_round(first: EndsFirst, pod: Pod, to: SocketAddr, bytes: usize) -> Result<()> {
    let netns = pod.netns_argument();
    let ways: String = [ROUTED, ROUTED6, BESIDE, BESIDE6]
        .map(|address| format!(" --address {address}"))
        .concat();
    let line = format!("--queue {LAST} --netkit {GUEST} --netns {netns}{ways}");
    let leased = leased(&line)?;
    ensure!(leased.made, "{leased:?}");
    receive(&netns, GUEST, to, bytes)?;
    let line = format!("{GUEST} --netns {netns}");
    if first == EndsFirst::Pod {
        pod.end()?;
        return unleased(&line).map(drop);
    }
    let unleased = unleased(&line)?;
    ensure!(unleased.phys_queues() == [LAST], "{unleased:?}");
    check_free(LAST)?;
    pod.end()
}

case!(by_name);
fn by_name() -> Result<()> {
    run_rounds(EndsFirst::Lease, Pod::named)
}

case!(by_name_pod_first);
fn by_name_pod_first() -> Result<()> {
    run_rounds(EndsFirst::Pod, Pod::named)
}

case!(by_path);
fn by_path() -> Result<()> {
    run_rounds(EndsFirst::Lease, Pod::mounted)
}

case!(by_path_pod_first);
fn by_path_pod_first() -> Result<()> {
    run_rounds(EndsFirst::Pod, Pod::mounted)
}

case!(by_pid);
fn by_pid() -> Result<()> {
    run_rounds(EndsFirst::Lease, Pod::process)
}

case!(by_pid_pod_first);
fn by_pid_pod_first() -> Result<()> {
    run_rounds(EndsFirst::Pod, Pod::process)
}

case!(beside_the_nic);
/// Leases with addresses in the NIC's own subnets. The sender must find the guest by ARP and
/// neighbour discovery on its own link.
fn beside_the_nic() -> Result<()> {
    wire_with_routes()?;
    let before = Footprint::settled()?;
    let pod = Pod::named()?;
    let line = format!("--queue {LAST} --netkit {GUEST} --netns {BOX}");
    leased(&format!(
        "{line} --address {BESIDE}/24 --address {BESIDE6}/64"
    ))?;
    for to in [BESIDE, BESIDE6] {
        receive(BOX, GUEST, address(to, 5000)?, 64 << 10)?;
    }
    println_line(&unlease(&format!("{GUEST} --netns {BOX}"))?.good("unlease")?);
    pod.end()?;
    before.soon_again()?;
    check_free(LAST)?;
    ensure!(framework::ifindex(HOST).is_err(), "{HOST} is left");
    Ok(())
}
