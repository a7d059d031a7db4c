//! The tool's user interface: `-v`, colours, man pages, a dry run, progress.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use framework::println_line;
use framework::receiver::start_bound;
use framework::testbed::{self, BOX, GUEST, NIC, NIC_ADDRESS, PEER};
use framework::tool::says;
use framework::tool::{Finished, Running, command, finish};
use framework::transfer::{devmem_tcp, nic_settings};

const LAST: u32 = testbed::QUEUES - 1;

fn tool(line: &str) -> Result<Finished> {
    finish(command(None, &devmem_tcp(), line))
}

case!(verbose_names_requests);
/// Runs commands with `-v`. Netlink requests, answers and refusals must be logged in words; without
/// `-v` nothing.
fn verbose_names_requests() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    let line = format!("lease --phys {NIC} --queue {LAST} --netkit {GUEST} --netns {BOX}");
    let leased = tool(&format!("-v {line}"))?;
    println_line(&leased.stderr);
    let requests = leased
        .stderr
        .lines()
        .filter(|line| line.contains("queue-create"));
    let [request_line] = requests.collect::<Vec<_>>()[..] else {
        anyhow::bail!("not one line of queue-create")
    };
    let words = ["type rx", "lease [ifindex", "netns-id", "-> id 1"];
    says(request_line, &words)?;
    leased.good("lease")?;
    let again = tool(&format!("{line} --verbose"))?.refused(1)?;
    let words = [
        "netlink: queue-create",
        "-> ",
        "(EBUSY)",
        "devmem-tcp: queue-create",
    ];
    says(&again, &words)?;

    let line = format!("recv -v -f {NIC} --queue 1 -l {NIC_ADDRESS}:5000");
    let receiver = start_bound(command(None, &devmem_tcp(), &line))?;
    let said = receiver.stop()?;
    println_line(&said);
    let words = [
        &format!("netlink: bind-rx {NIC} queue 1: ifindex"),
        "queues [id 1, type rx]",
        "tcp-data-split enabled",
        "ETHTOOL_SRXCLSRLINS",
    ];
    says(&said, &words)?;
    let quiet = tool(&format!("show {NIC}"))?;
    ensure!(quiet.stderr.is_empty(), "{}", quiet.stderr);
    Ok(())
}

case!(colours_on_a_terminal_only);
/// Prints to a terminal, with and without `NO_COLOR`, and to a pipe. Only the first may contain
/// colours, and columns must stay aligned.
fn colours_on_a_terminal_only() -> Result<()> {
    testbed::wire()?;
    let show = format!("{} show {NIC}", devmem_tcp().display());
    let terminal = |variable: &str| -> Result<String> {
        let mut run = Command::new("script");
        run.args([
            "-qec",
            &format!("TERM=xterm {variable} {show}"),
            "/dev/null",
        ]);
        finish(run)?.good("script")
    };
    let (coloured, plain) = (terminal("")?, terminal("NO_COLOR=1")?);
    ensure!(coloured.contains('\x1b'), "no colour on a terminal");
    let piped = tool(&format!("show {NIC}"))?.good("show")?;
    for text in [&plain, &piped] {
        ensure!(!text.contains('\x1b'), "an escape: {text:?}");
    }
    // The same but for colours and the terminal's line ends: columns stay aligned.
    ensure!(plain.replace('\r', "") == piped, "{plain:?}\n{piped:?}");
    println_line(&piped);
    Ok(())
}

case!(man_pages);
fn man_pages() -> Result<()> {
    let folder = "/tmp/man-pages";
    tool(&format!("man {folder}"))?.good("man")?;
    for page in [
        "devmem-tcp",
        "devmem-tcp-recv",
        "devmem-tcp-show",
        "devmem-tcp-doctor",
    ] {
        let page = fs::read_to_string(format!("{folder}/{page}.1"))?;
        says(&page, &[".TH", ".SH NAME", ".SH OPTIONS", "verbose"])?;
    }
    Ok(fs::remove_dir_all(folder)?)
}

case!(dry_run);
/// Runs `recv --dry-run`. It must say what it would change, and change nothing.
fn dry_run() -> Result<()> {
    testbed::wire()?;
    let before = nic_settings(NIC)?;
    let line = format!("recv --dry-run -f {NIC} -l {NIC_ADDRESS}:5000");
    let said = tool(&line)?.good("recv --dry-run")?;
    println_line(&said);
    says(&said, &[NIC, "would change"])?;
    ensure!(said.lines().count() >= 2, "a table and a rule");
    ensure!(
        nic_settings(NIC)? == before,
        "the NIC is not as it was before"
    );
    Ok(())
}

case!(watch_ends_with_its_reader);
/// Runs `show --watch | head -1`. It must end when its reader has ended, without waiting for
/// another change.
fn watch_ends_with_its_reader() -> Result<()> {
    let line = format!(
        "timeout 10 {} show --watch | head -1; echo ${{PIPESTATUS[0]}}",
        devmem_tcp().display()
    );
    let mut run = Command::new("bash");
    run.args(["-c", &line]);
    let said = finish(run)?.good("bash")?;
    says(&said, &["watching", "\n0\n"])
}

case!(progress_once_a_second);
/// Runs `recv --progress`. It must print one line per second on standard error.
fn progress_once_a_second() -> Result<()> {
    testbed::wire()?;
    let to = format!("{NIC_ADDRESS}:5000");
    let line = format!("recv --progress -f {NIC} -l {to}");
    let receiver = Running::start(command(None, &devmem_tcp(), &line))?;
    let line = format!("send --wait 20 {to} --bytes 8G");
    let sender = start_bound(command(Some(PEER), &devmem_tcp(), &line))?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(4));
    receiver.signal(Signal::SIGINT)?;
    let end = receiver.end_within(Duration::from_secs(5))?;
    let seconds = began.elapsed().as_secs() + 1;
    sender.kill()?;
    println_line(&end.stderr);
    let lines = end.stderr.lines();
    let lines = lines.filter(|line| line.contains("MiB/s") && line.contains("1 connection,"));
    let lines = lines.count() as u64;
    ensure!(
        (1..=seconds).contains(&lines),
        "{lines} lines in {seconds} s"
    );
    ensure!(
        !(end.stdout + &end.stderr).contains('\x1b'),
        "an escape where no terminal is"
    );
    Ok(())
}
