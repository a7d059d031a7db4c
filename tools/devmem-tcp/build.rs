//! Finds the commit that the tool is built from, for `--version`: `unknown` without git, or in a
//! copy that is no checkout of this repository.
#![allow(clippy::print_stdout)] // what cargo reads

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = commit();
    let known = commit.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=DEVMEM_TCP_COMMIT={known}");
    println!("cargo::rerun-if-changed=build.rs");
    if commit.is_none() {
        return;
    }
    // A commit or a checkout writes the log of HEAD; what makes the tree dirty is a source.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]).unwrap_or_default();
    for path in [
        &log,
        "../../crates",
        "../../tools",
        "../../Cargo.toml",
        "../../Cargo.lock",
    ] {
        // A path that does not exist would be built for each time.
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn commit() -> Option<String> {
    // Not the commit of another repository that this was unpacked in.
    let prefix = git(&["rev-parse", "--show-prefix"])?;
    if prefix != "tools/devmem-tcp/" {
        return None;
    }
    git(&["describe", "--always", "--dirty"]).filter(|commit| !commit.is_empty())
}

/// The output of a git command in this folder.
fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // `describe --dirty` is not to write the index.
    git.args(arguments).env("GIT_OPTIONAL_LOCKS", "0");
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
