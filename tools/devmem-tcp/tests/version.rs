//! `--version` names the commit.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_version_has_the_commit() {
    let tool = Command::new(env!("CARGO_BIN_EXE_devmem-tcp"))
        .arg("--version")
        .output()
        .unwrap();
    let said = String::from_utf8(tool.stdout).unwrap();
    let start = concat!("devmem-tcp ", env!("CARGO_PKG_VERSION"), " (");
    let commit = said
        .strip_prefix(start)
        .unwrap()
        .strip_suffix(")\n")
        .unwrap();
    let git = |line: &str| {
        let output = Command::new("git").args(line.split(' ')).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    match git("rev-parse --show-prefix").as_deref() {
        Some("tools/devmem-tcp/") => {
            let expected = git("describe --always").unwrap();
            assert_eq!(commit.strip_suffix("-dirty").unwrap_or(commit), expected);
        }
        _ => assert_eq!(commit, "unknown"),
    }
}
