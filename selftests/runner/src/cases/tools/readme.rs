//! The README's commands, as they stand there.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use framework::nic_state;
use framework::println_line;
use framework::testbed::{self, PEER};
use framework::tool::finish;
use framework::transfer::devmem_tcp;

const README: &str = include_str!("../../../../../README.md");
const FOLDER: &str = "/tmp/readme";
/// The sender's namespace by the path that `make vm` gives it.
const SENDER: &str = "/run/netns/sender";

/// Returns the commands of the README's console blocks under a heading.
fn commands(heading: &str) -> Result<Vec<&'static str>> {
    let section = README.split_once(&format!("\n## {heading}\n"));
    let (_, section) = section.with_context(|| format!("no section {heading:?}"))?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let blocks = section.split("```console\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    Ok(blocks
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("# "))
        .collect())
}

/// Makes a shell script of commands that stops at the first that fails, also in the background.
fn script_of(commands: &[&str]) -> String {
    let mut script = "set -eu\njobs=()\n".to_owned();
    for command in commands {
        let line = match *command {
            "wait" => "for job in \"${jobs[@]}\"; do wait \"$job\"; done; jobs=()".to_owned(),
            command => match command.rsplit_once('&') {
                Some((background, then)) => format!("{background}& jobs+=($!); {then}"),
                None => command.to_owned(),
            },
        };
        let _infallible = writeln!(script, "echo '#' {command:?} >&2\n{line}");
    }
    script
}

case!(on_your_nic);
/// Runs the README's console blocks one after the other, with the namespaces of `make vm`. Each must
/// work, and everything be as before.
fn on_your_nic() -> Result<()> {
    testbed::wire_with(16, "")?;
    testbed::container()?;
    std::os::unix::fs::symlink(Path::new("/run/netns").join(PEER), SENDER)?;
    fs::create_dir_all(FOLDER)?;
    let commands = commands("On your NIC")?;
    ensure!(commands.len() > 15, "{} commands", commands.len());
    let mut path = devmem_tcp()
        .parent()
        .context("no folder")?
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell.args(["-c", &script_of(&commands)]);
    shell
        .env("PATH", path)
        .current_dir(FOLDER)
        .stdin(Stdio::null());
    let end = finish(shell);
    fs::remove_file(SENDER)?;
    let end = end?;
    println_line(end.stdout.trim_end());
    println_line(end.stderr.trim_end());
    let received = fs::metadata(format!("{FOLDER}/payload.bin")).map(|file| file.len());
    fs::remove_dir_all(FOLDER)?;
    end.good("the README's commands")?;
    ensure!(received? == 64 << 20, "not 64 MiB");
    nic_state::check_nothing_left()
}
