//! Names of devices and files that a shell, a terminal or a decoder could misread.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use framework::doctor::{Report, Severity, check_cured};
use framework::println_line;
use framework::testbed::{self, NIC};
use framework::tool::{Finished, finish, sh};
use framework::transfer::devmem_tcp;

/// Device names that would run commands if a shell got them unquoted.
const SHELL_NAMES: [&str; 4] = ["$(reboot)", "a;b|c$(id)", "`id`&'\"", "-v"];

/// Device names that a terminal would obey: escape sequences for a title, the bell, a colour and
/// clearing.
const TERMINAL_NAMES: [&str; 2] = ["\x1b]0;x\x07y", "\x1b[45mz\u{9b}2J"];

/// Renames a device.
fn rename(from: &[u8], to: &[u8]) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["link", "set", "dev"]).arg(OsStr::from_bytes(from));
    ip.arg("name").arg(OsStr::from_bytes(to));
    finish(ip)?.good("ip link set name").map(drop)
}

fn run(arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new(devmem_tcp());
    command.args(arguments).stdin(Stdio::null());
    finish(command)
}

case!(in_a_shell);
/// Gives the NIC names with shell characters. Each remedy that names the NIC must work when pasted
/// into a shell.
fn in_a_shell() -> Result<()> {
    testbed::wire()?;
    let mut now = NIC;
    for name in SHELL_NAMES {
        rename(now.as_bytes(), name.as_bytes())?;
        now = name;
        if name.starts_with('-') {
            continue; // an option of our own tool: asked for below
        }
        let ip = |words: &[&str]| {
            let mut ip = Command::new("ip");
            ip.args(["link", "set", "dev", name]).args(words);
            finish(ip)?.good("ip").map(drop)
        };
        ip(&["down"])?;
        check_cured(name, "link.up", Severity::NoRx)?;
        ip(&["mtu", "1000"])?;
        check_cured(name, "link.mtu", Severity::Warns)?;
        sh(&format!("ethtool -L {name} combined 1"))?;
        check_cured(name, "queues.count", Severity::NoRx)?;
    }
    let shown = run(&["show", "--all", "--json"])?.good("show")?;
    ensure!(shown.contains("\"-v\""), "{shown}");
    Ok(())
}

/// Returns what a command writes when its standard output and error are a terminal.
fn output_on_terminal(line: &str) -> Result<String> {
    let mut script = Command::new("script");
    script.args(["-qec", line, "/dev/null"]);
    script.env("TERM", "xterm").stdin(Stdio::null());
    Ok(finish(script)?.stdout)
}

case!(on_a_terminal);
/// Gives the NIC names with escape sequences. A terminal must be shown them as text, JSON must have
/// them unchanged.
fn on_a_terminal() -> Result<()> {
    testbed::wire()?;
    let mut now = NIC;
    for name in TERMINAL_NAMES {
        rename(now.as_bytes(), name.as_bytes())?;
        now = name;
        let word = netdev::shell_word(name);
        let tool = devmem_tcp();
        let tool = tool.display();
        for line in [
            format!("{tool} doctor {word}"),
            format!("{tool} doctor"),
            format!("{tool} show --all"),
            format!("{tool} plan {word} --queue 99"),
            format!("{tool} -v lease --phys {word} --queue 1 --netkit {word}"),
        ] {
            let said = output_on_terminal(&line)?;
            ensure!(said.contains("\\u{1b}"), "{line}: no such name in {said:?}");
            for order in ["\x07", "\x1b]", "\x1b[45m", "\u{9b}"] {
                ensure!(!said.contains(order), "{line}: {order:?} in {said:?}");
            }
        }
        let coloured = output_on_terminal(&format!("{tool} doctor {word}"))?;
        ensure!(coloured.contains("\x1b[32mok\x1b[0m"), "{coloured:?}");
        let report = Report::by({
            let mut doctor = Command::new(devmem_tcp());
            doctor.args(["doctor", name, "--json"]).stdin(Stdio::null());
            doctor
        })?;
        ensure!(report.json["device"] == name, "{}", report.json["device"]);
        // As the escapes of the name, which nothing of a terminal is in.
        println_line(&name.escape_debug().to_string());
    }
    Ok(())
}

case!(no_utf8);
/// Gives a device a name that is not UTF-8. `show` and `doctor` must list it, and the other devices
/// of its namespace.
fn no_utf8() -> Result<()> {
    testbed::wire()?;
    testbed::container()?;
    sh("ip link add nkx type netkit peer name nky netns box")?;
    sh("ip -n box link set dev nky up")?;
    let mut ip = Command::new("ip");
    ip.args(["-n", "box", "link", "set", "dev", "nky", "name"]);
    ip.arg(OsStr::from_bytes(b"n\xff\xfe"));
    finish(ip)?.good("ip link set name")?;
    let shown = run(&["show", "--all", "--json"])?.good("show")?;
    let shown: Value = serde_json::from_str(&shown).context("JSON")?;
    let queues = shown["queues"].as_array().context("queues")?;
    ensure!(
        queues
            .iter()
            .any(|it| it["device"] == "n\u{fffd}\u{fffd}" && it["netns"] == "box"),
        "{shown}"
    );
    rename(NIC.as_bytes(), b"e\xff")?;
    let doctor = run(&["doctor"])?;
    ensure!(doctor.stdout.contains("e\u{fffd}"), "{doctor:?}");
    rename(b"e\xff", NIC.as_bytes())?;
    Report::of(NIC)?.healthy()
}
