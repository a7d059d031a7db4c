//! Report of all checks, as text and as JSON.

use serde::Serialize;

use super::check::{Area, CheckResult, Status};
use crate::style::Style;
use crate::table::align;

/// Report of all checks of `doctor`. Its JSON is documented in `docs/json.md`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Device that was checked; `None` for a summary of all NICs.
    pub(super) device: Option<String>,
    /// Whether receiving would work; for a summary, on at least one NIC.
    pub(super) receives: bool,
    /// Whether sending would work.
    pub(super) sends: bool,
    /// Whether leasing a queue would work.
    pub(super) leases: bool,
    pub(super) checks: Vec<CheckResult>,
    /// Summaries of every physical NIC, if no device was named.
    pub(super) nics: Vec<Summary>,
}

/// Summary of the checks of a NIC, printed in one line.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) device: String,
    pub(super) driver: String,
    pub(super) receives: bool,
    pub(super) sends: bool,
    pub(super) leases: bool,
    /// Names of the checks that failed.
    pub(super) failed: Vec<&'static str>,
}

/// Whether no check failed for this area.
pub(super) fn works(lines: &[CheckResult], area: Area) -> bool {
    !lines.iter().any(|line| line.prevents(area))
}

impl Report {
    pub(super) fn text(&self, style: Style) -> String {
        let rows: Vec<Vec<String>> = self.checks.iter().map(|line| row(line, style)).collect();
        // A remedy is on a line of its own, to be pasted.
        let mut text = String::new();
        for (line, aligned) in self.checks.iter().zip(align(&rows).lines()) {
            text += aligned;
            text.push('\n');
            if let Some(remedy) = line.remedy.as_ref().filter(|_| line.status != Status::Ok) {
                text += &format!("      {remedy}\n");
            }
        }
        if !self.nics.is_empty() {
            text.push('\n');
            let rows: Vec<_> = self.nics.iter().map(|nic| nic.row(style)).collect();
            text += &align(&rows);
        }
        text + &self.verdict()
    }

    fn verdict(&self) -> String {
        let words = |works, what| match works {
            true => format!("{what} would work"),
            false => format!("{what} would not work"),
        };
        let of = self.device.as_deref().unwrap_or(match self.nics[..] {
            [] => "no NIC",
            _ => "this machine",
        });
        let areas = [
            words(self.receives, "receiving"),
            words(self.sends, "sending"),
            words(self.leases, "leasing"),
        ];
        format!("\n{of}: {}\n", areas.join(", "))
    }
}

fn row(line: &CheckResult, style: Style) -> Vec<String> {
    vec![
        mark(line.status, style),
        line.id.to_owned(),
        line.device.clone().unwrap_or_else(|| "-".to_owned()),
        line.found.clone(),
    ]
}

fn mark(status: Status, style: Style) -> String {
    match status {
        Status::Ok => style.good("ok"),
        Status::Warn => style.warn("warn"),
        Status::Fail => style.bad("FAIL"),
    }
}

impl Summary {
    fn row(&self, style: Style) -> Vec<String> {
        let status = if self.receives {
            Status::Ok
        } else {
            Status::Fail
        };
        let failed = match self.failed[..] {
            [] => "everything would work".to_owned(),
            _ => self.failed.join(", "),
        };
        vec![
            mark(status, style),
            self.device.clone(),
            self.driver.clone(),
            failed,
        ]
    }
}
