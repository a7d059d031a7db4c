//! Helpers for `devmem-tcp doctor`: its report, and a check that a fault is found and its remedy cures
//! it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::println_line;
use crate::tool::{command, finish};
use crate::transfer::devmem_tcp;

/// Output and exit status of `doctor --json`.
#[derive(Debug)]
pub struct Report {
    pub json: Value,
    /// Exit status of `doctor`; `None` if a signal ended it.
    pub code: Option<i32>,
}

impl Report {
    /// Runs `devmem-tcp doctor LINE --json`.
    pub fn of(line: &str) -> Result<Self> {
        let line = format!("doctor {line} --json");
        Self::by(command(None, &devmem_tcp(), &line))
    }

    /// Runs a command that prints the JSON of `doctor`.
    pub fn by(run: Command) -> Result<Self> {
        let end = finish(run)?;
        let json = serde_json::from_str(&end.stdout);
        let json = json.with_context(|| format!("not JSON: {end:?}"))?;
        Ok(Self {
            json,
            code: end.status.code(),
        })
    }

    /// Finds a check by its id; `None` where it did not apply.
    pub fn check(&self, id: &str) -> Option<&Value> {
        let mut checks = self.json["checks"].as_array()?.iter();
        checks.find(|check| check["id"] == id)
    }

    /// Returns a check's status: `ok`, `warn` or `fail`.
    pub fn status(&self, id: &str) -> &str {
        self.check(id)
            .and_then(|check| check["status"].as_str())
            .unwrap_or("absent")
    }

    /// Returns the remedy of a check.
    pub fn remedy(&self, id: &str) -> Result<&str> {
        let check = self.check(id).with_context(|| format!("no {id}"))?;
        check["remedy"]
            .as_str()
            .with_context(|| format!("no remedy: {check}"))
    }

    /// Returns the ids of the checks that failed.
    pub fn failed(&self) -> Vec<&str> {
        let checks = self.json["checks"].as_array().into_iter().flatten();
        let failed = checks.filter(|check| check["status"] == "fail");
        failed.filter_map(|check| check["id"].as_str()).collect()
    }

    /// Formats a line for each check that is not `ok`.
    pub fn complaints(&self) -> String {
        let checks = self.json["checks"].as_array().into_iter().flatten();
        let bad = checks.filter(|check| check["status"] != "ok");
        let bad = bad.map(|check| format!("{} {}", check["id"], check["found"]));
        format!(
            "{} {}",
            bad.collect::<Vec<_>>().join("; "),
            self.json["nics"]
        )
    }

    /// Checks that `doctor` reports that receiving works, and exits with 0.
    pub fn healthy(&self) -> Result<()> {
        ensure!(
            self.failed().is_empty() && self.code == Some(0) && self.json["receives"] == true,
            "not healthy, status {:?}: {}",
            self.code,
            self.complaints()
        );
        Ok(())
    }
}

/// How bad a fault that `doctor` finds is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Receiving would not work with the fault.
    NoRx,
    /// Receiving would work, sending or leasing would not.
    OtherFails,
    /// The fault is only worth a warning.
    Warns,
}

impl Severity {
    fn status(self) -> &'static str {
        match self {
            Self::NoRx | Self::OtherFails => "fail",
            Self::Warns => "warn",
        }
    }

    fn code(self) -> i32 {
        i32::from(self == Self::NoRx)
    }
}

/// Checks that `doctor LINE` reports this fault and no other, as JSON and as text. Returns the
/// remedy from the text.
pub fn check_named(line: &str, id: &str, bad: Severity) -> Result<String> {
    check_named_by(|line| command(None, &devmem_tcp(), line), line, id, bad)
}

/// Checks as [`check_named`] does that `doctor` reports a fault, with another way to run `doctor`.
pub fn check_named_by(
    doctor: impl Fn(&str) -> Command,
    line: &str,
    id: &str,
    bad: Severity,
) -> Result<String> {
    let report = Report::by(doctor(&format!("doctor {line} --json")))?;
    let check = report.check(id).with_context(|| format!("no {id}"))?;
    println_line(&format!("{id}: {}", check["found"]));
    ensure!(
        report.status(id) == bad.status(),
        "{id} is not {}: {check}",
        bad.status()
    );
    ensure!(
        report.code == Some(bad.code()) && report.json["receives"] == (bad.code() == 0),
        "status {:?}, and receives {}",
        report.code,
        report.json["receives"]
    );
    let failed = report.failed();
    ensure!(
        failed == [id] || (bad == Severity::Warns && failed.is_empty()),
        "other checks failed: {failed:?}: {}",
        report.complaints()
    );
    let text = finish(doctor(&format!("doctor {line}")))?;
    ensure!(text.status.code() == report.code, "text: {}", text.status);
    let pasted = pasted(&text.stdout, id)?;
    ensure!(
        pasted == report.remedy(id)?,
        "the text says {pasted:?}, the JSON {:?}",
        report.remedy(id)?
    );
    println_line(&format!("  {pasted}"));
    Ok(pasted)
}

/// Returns the remedy of a check from the text of `doctor`: the line below the check.
fn pasted(text: &str, id: &str) -> Result<String> {
    let mut lines = text.lines();
    let named = lines.find(|line| line.split_whitespace().nth(1) == Some(id));
    let Some(remedy) = named.and_then(|_| lines.next()) else {
        bail!("{id} has no remedy in the text: {text}")
    };
    ensure!(remedy.starts_with("      "), "no remedy: {remedy:?}");
    Ok(remedy.trim().to_owned())
}

/// Runs a remedy in a shell; its failure is an error.
pub fn run_remedy(remedy: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", remedy]).stdin(Stdio::null());
    finish(shell)?.good(remedy).map(drop)
}

/// Checks that `doctor` reports this fault, and none after its remedy was run.
pub fn check_cured(line: &str, id: &str, bad: Severity) -> Result<()> {
    let remedy = check_named(line, id, bad)?;
    run_remedy(&remedy)?;
    let after = Report::of(line)?;
    after.healthy()?;
    ensure!(
        after.status(id) == "ok",
        "{id} is still {}",
        after.status(id)
    );
    Ok(())
}

/// Checks that `doctor` reports this fault, and that its remedy, `doctor` with other options, finds
/// no fault.
pub fn check_avoided(line: &str, id: &str) -> Result<()> {
    let remedy = check_named(line, id, Severity::NoRx)?;
    ensure!(remedy.contains(" doctor "), "not the doctor: {remedy}");
    run_remedy(&remedy)
}

/// Checks that `doctor` reports a fault of which it says that no setting helps.
pub fn check_incurable(line: &str, id: &str, bad: Severity) -> Result<()> {
    let remedy = check_named(line, id, bad)?;
    ensure!(remedy.contains("no setting helps"), "a cure? {remedy}");
    Ok(())
}

/// Returns the command that runs a program as user 1000, with `CAP_NET_ADMIN` alone or without any
/// capability.
pub fn as_user(program: &Path, line: &str, net_admin: bool) -> Command {
    let mut run = Command::new("setpriv");
    run.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    if net_admin {
        run.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin"]);
    }
    run.arg(program).args(line.split_whitespace());
    run.stdin(Stdio::null());
    run
}
