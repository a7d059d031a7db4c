//! Leases and their devices are identified so that those of others are left alone; and dry runs
//! change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use netdev::link::{LinkEvent, NetkitPair, NetkitSingle};
use netdev::{Ethtool, Link, NetNs};

use super::lease_way::{container_options, says};
use framework::machine;
use framework::testbed::{self, BOX, BOX2, NIC, PEER};
use framework::tool::{Finished, command, finish, sh};
use framework::transfer::devmem_tcp;
use framework::{Skip, ifindex, println_line};

const RUNTIME: &str = "/run/devmem-tcp";
const LRO: &str = "rx-lro";

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

case!(namespace_that_got_the_inode);
/// Replaces a leased netkit by one with the same ifindex in a namespace with the same inode.
/// `unlease` must not take it for its own.
fn namespace_that_got_the_inode() -> Result<()> {
    const TRIES: u32 = 50;
    testbed::wire()?;
    testbed::container()?;
    let identity = |name: &str| -> Result<(u64, u64)> { Ok(NetNs::by_name(name)?.identity()?) };
    let old = identity(BOX)?;
    let line = format!("lease --phys {NIC} --queue 3 --netkit nk0 --kind single --netns {BOX}");
    tool(&line)?.good(&line)?;
    machine::delete_namespace(BOX)?;
    let mut tries = 0;
    while !matches!(identity(BOX), Ok(new) if new == old) {
        ensure!(tries < TRIES, "no namespace got the inode {}", old.1);
        tries += 1;
        if Path::new("/run/netns").join(BOX).exists() {
            machine::delete_namespace(BOX)?;
        }
        thread::sleep(Duration::from_millis(100));
        testbed::container()?;
    }
    println_line(&format!("inode {} again, after {tries}", old.1));
    // The kernel gives the first number that is free, as before.
    let mut single = NetkitSingle::new("nk0");
    single.rx_queues = Some(2);
    Link::open_in(&NetNs::by_name(BOX)?)?.create_netkit_single(&single)?;
    let gone = tool("unlease --all-stale --dry-run")?.good("unlease")?;
    says(&gone, "nk0")?;
    let refused = tool(&format!("unlease nk0 --netns {BOX}"))?.refused(1)?;
    println_line(refused.trim_end());
    says(&refused, "was not made by `devmem-tcp lease`")?;
    sh("ip -n box link show dev nk0")?;
    tool("unlease --all-stale")?.good("unlease")?;
    Ok(())
}

/// Renames each netkit of the given names as soon as it appears, as udev does, until it is dropped.
struct Renamer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32>>>,
}

impl Renamer {
    fn start(names: &'static [&'static str]) -> Result<Self> {
        let (mut events, mut links) = (Link::open()?.events()?, Link::open()?);
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut renamed = 0;
            while !ends.load(Ordering::Relaxed) {
                let soon = Instant::now() + Duration::from_millis(20);
                let Some(LinkEvent::Changed(link)) = events.next(Some(soon))? else {
                    continue;
                };
                let is_one = names.contains(&link.name.as_str());
                // It may be gone meanwhile, or have its other name already.
                if is_one
                    && links
                        .set_name(link.ifindex, &format!("{}r", link.name))
                        .is_ok()
                {
                    renamed += 1;
                }
            }
            Ok(renamed)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops, and returns the number of netkits that were renamed.
    fn end(mut self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}

impl Drop for Renamer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

case!(renamed_at_once);
/// Renames netkits the moment they are made. They and their leases must be found by ifindex
/// nevertheless.
fn renamed_at_once() -> Result<()> {
    const ROUNDS: u32 = 40;
    testbed::wire()?;
    testbed::container()?;
    let renamer = Renamer::start(&["nk0h", "nk1"])?;
    let mut links = Link::open()?;
    for round in 0..ROUNDS {
        let mut pair = NetkitPair::new("nk0h", "nk0");
        pair.peer_netns = Some(NetNs::by_name(BOX)?);
        let pair = links.create_netkit(&pair);
        let pair = pair.with_context(|| format!("pair {round}"))?.primary;
        let single = links.create_netkit_single(&NetkitSingle::new("nk1"));
        let single = single.with_context(|| format!("single {round}"))?;
        for made in [pair, single] {
            let link = links.get(made)?;
            ensure!(link.name.starts_with("nk"), "{link:?}");
            links.delete(made)?;
        }
    }
    let line = format!("lease --phys {NIC} {}", container_options("--queue 3"));
    tool(&line)?.good(&line)?;
    sh("ip link show dev nk0hr")?;
    let ended = tool(&format!("unlease nk0 --netns {BOX}"))?.good("unlease")?;
    says(&ended, "ended the lease of eth1 rx 3")?;
    let renamed = renamer.end()?;
    println_line(&format!("{renamed} of {} were renamed", 2 * ROUNDS + 1));
    ensure!(renamed > ROUNDS / 2, "hardly any");
    Ok(())
}

case!(offload_of_each_nic);
/// Leases queues of two NICs with forwarding, which switches LRO off. Each NIC must get LRO back
/// when its own lease ends.
fn offload_of_each_nic() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let peer = NetNs::by_name(PEER)?;
    let mut inside = Link::open_in(&peer)?;
    let sender = inside.by_name("eth0")?.ifindex;
    inside.set_netns(sender, &NetNs::current()?)?;
    sh("ip link set dev eth0 up")?;
    let mut ethtool = Ethtool::open()?;
    for nic in ["eth0", "eth1"] {
        let nic = ifindex(nic)?;
        if !ethtool.features(nic)?.hw.contains(LRO) {
            return Err(Skip("this NIC has no large receive offload".to_owned()).into());
        }
        ethtool.set_feature(nic, LRO, true)?;
    }
    let mut on =
        |nic: &str| -> Result<bool> { Ok(ethtool.features(ifindex(nic)?)?.active.contains(LRO)) };
    let one = container_options("--phys eth1 --queue 3 --address 198.51.100.7");
    tool(&format!("lease {one}"))?.good("lease")?;
    let other = format!("--phys eth0 --queue 3 --netkit nk1 --netns {BOX2} --address 203.0.113.7");
    tool(&format!("lease {other}"))?.good("lease")?;
    ensure!(!on("eth0")? && !on("eth1")?, "routers with it");
    println_line(tool("unlease nk0 --netns box")?.good("unlease")?.trim_end());
    ensure!(
        on("eth1")? && !on("eth0")?,
        "eth1 {} eth0 {}",
        on("eth1")?,
        on("eth0")?
    );
    tool("unlease nk1 --netns box2")?.good("unlease")?;
    ensure!(on("eth0")?, "eth0 has it not back");
    Ok(())
}

/// Returns the contents of all files in the runtime directory; none if the directory does not
/// exist.
fn read_runtime_files() -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if Path::new(RUNTIME).exists() {
        for entry in fs::read_dir(RUNTIME)? {
            let path = entry?.path();
            files.insert(path.clone(), fs::read(path)?);
        }
    }
    Ok(files)
}

case!(dry_runs_change_nothing);
fn dry_runs_change_nothing() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let lines = [
        format!(
            "lease --phys {NIC} {} --dry-run",
            container_options("--queue 3 --address 192.0.2.9")
        ),
        "unlease --all-stale --dry-run".to_owned(),
        "restore --dry-run".to_owned(),
        format!("restore {NIC} --dry-run"),
    ];
    for line in &lines {
        println_line(tool(line)?.good(line)?.trim_end());
        ensure!(!Path::new(RUNTIME).exists(), "{line}: made {RUNTIME}");
    }
    let line = format!(
        "lease --phys {NIC} {}",
        container_options("--queue 3 --address 192.0.2.9")
    );
    tool(&line)?.good(&line)?;
    // One of another boot, one that is damaged, one that somebody was about to write.
    let lease = read_runtime_files()?
        .into_iter()
        .find(|(path, _)| path.to_string_lossy().contains("lease-"));
    let Some((path, text)) = lease else {
        bail!("no note of a lease")
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let text = String::from_utf8(text)?.replace(boot.trim(), "another");
    fs::write(path.with_file_name("lease-1-nk7.json"), text)?;
    fs::write(path.with_file_name("lease-1-nk8.json"), "{")?;
    fs::write(path.with_file_name("lease-1-nk9.json.tmp"), "{")?;
    let before = read_runtime_files()?;
    let unlease = format!("unlease nk0 --netns {BOX} --dry-run");
    for line in lines[1..].iter().chain([&unlease]) {
        let said = tool(line)?.good(line)?;
        println_line(said.trim_end());
        ensure!(read_runtime_files()? == before, "{line}: changed {RUNTIME}");
    }
    let said = tool(&unlease)?.good("unlease")?;
    says(&said, "would put back net.ipv4.conf.eth1.forwarding = 0")?;
    // What somebody else has set since would stay.
    fs::write("/proc/sys/net/ipv4/conf/eth1/forwarding", "0")?;
    let said = tool(&unlease)?.good("unlease")?;
    ensure!(!said.contains("another program"), "{said}");
    tool(&format!("unlease nk0 --netns {BOX}"))?.good("unlease")?;
    Ok(())
}

case!(boot_that_is_masked);
/// Mounts another file over the kernel's boot id, as container engines do. Leases noted inside and
/// outside must not count as those of another boot.
fn boot_that_is_masked() -> Result<()> {
    const ID: &str = "/proc/sys/kernel/random/boot_id";
    testbed::wire()?;
    testbed::container()?;
    testbed::namespace(BOX2)?;
    let masked = |line: &str| -> Result<Finished> {
        let mount = format!("echo masked > /tmp/id && mount --bind /tmp/id {ID}");
        let line = format!("{mount} && exec {} {line}", devmem_tcp().display());
        let mut run = Command::new("unshare");
        run.args(["--mount", "sh", "-c", &line]);
        finish(run)
    };
    let lease = |queue: u32, netkit: &str, netns: &str| {
        let netkit = format!("--netkit {netkit} --netns {netns}");
        format!("lease --phys {NIC} --queue {queue} --address 192.0.2.{queue}0 {netkit}")
    };
    tool(&lease(2, "nk0", BOX))?.good("lease")?;
    masked(&lease(3, "nk1", BOX2))?.good("masked lease")?;
    for line in ["unlease --all-stale", "unlease --all-stale --dry-run"] {
        says(&masked(line)?.good(line)?, "no lease left anything")?;
        says(&tool(line)?.good(line)?, "no lease left anything")?;
    }
    let leases = read_runtime_files()?.into_keys();
    let leases = leases.filter(|path| path.to_string_lossy().contains("lease-"));
    ensure!(
        leases.count() == 2,
        "not two notes: {:?}",
        read_runtime_files()?.keys()
    );
    let done = masked(&format!("unlease nk0 --netns {BOX}"))?.good("masked unlease")?;
    says(&done, "nk1 still needs it")?;
    let done = tool(&format!("unlease nk1 --netns {BOX2}"))?.good("unlease")?;
    says(&done, "put back net.ipv4.conf.eth1.forwarding = 0")
}
