//! Checks, their findings, and their results as they are printed.

use serde::Serialize;

/// Status of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// The check's requirement is met.
    Ok,
    /// The check's requirement is not met, but something works without it.
    Warn,
    /// The check's requirement is not met, and its areas can't work.
    Fail,
}

/// Area that a check matters for: receiving, sending or leasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Area {
    /// Receiving into device memory.
    Rx,
    /// Sending from device memory.
    Tx,
    /// Leasing a queue to a netkit.
    Lease,
}

/// Finding of a check: status, text and remedy.
#[derive(Debug)]
pub(super) struct Finding {
    status: Status,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self::new(Status::Ok, found)
    }

    pub(super) fn warn(found: impl Into<String>) -> Self {
        Self::new(Status::Warn, found)
    }

    pub(super) fn fail(found: impl Into<String>) -> Self {
        Self::new(Status::Fail, found)
    }

    fn new(status: Status, found: impl Into<String>) -> Self {
        Self {
            status,
            found: found.into(),
            remedy: None,
        }
    }

    /// Adds a remedy to the finding: a command to paste, or text where there is none.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// A check of the machine or a NIC, the type `S`. To add one, write its function and add a row to
/// its file's table.
#[derive(Debug)]
pub(super) struct Check<S> {
    /// Name of the check. Scripts depend on it, so it is never changed.
    pub(super) id: &'static str,
    pub(super) areas: &'static [Area],
    /// Requirement that is checked, in words.
    pub(super) what: &'static str,
    /// Function of the check; `None` where it does not apply.
    pub(super) run: fn(&S) -> Option<Finding>,
}

/// Result of a check, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct CheckResult {
    pub(super) id: &'static str,
    /// Device that was checked; `None` for the machine.
    pub(super) device: Option<String>,
    pub(super) areas: &'static [Area],
    pub(super) status: Status,
    pub(super) what: &'static str,
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

impl CheckResult {
    /// Whether the result means that `area` can't work.
    pub(super) fn prevents(&self, area: Area) -> bool {
        self.status == Status::Fail && self.areas.contains(&area)
    }
}

/// Runs a table of checks.
pub(super) fn run<S>(checks: &[Check<S>], subject: &S, device: Option<&str>) -> Vec<CheckResult> {
    let line = |check: &Check<S>| {
        let finding = (check.run)(subject)?;
        Some(CheckResult {
            id: check.id,
            device: device.map(str::to_owned),
            areas: check.areas,
            status: finding.status,
            what: check.what,
            found: finding.found,
            remedy: finding.remedy,
        })
    };
    checks.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKS: &[Check<u32>] = &[
        Check {
            id: "number.even",
            areas: &[Area::Rx],
            what: "it is even",
            run: |number| {
                Some(match number % 2 {
                    0 => Finding::ok(number.to_string()),
                    _ => Finding::fail(number.to_string()).remedy("add 1"),
                })
            },
        },
        Check {
            id: "number.large",
            areas: &[Area::Tx],
            what: "it is large",
            run: |number| (*number > 9).then(|| Finding::ok("it is")),
        },
    ];

    #[test]
    fn a_check_that_does_not_apply_leaves_no_line() {
        let lines = run(CHECKS, &3, Some("three"));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].remedy.as_deref(), Some("add 1"));
        assert_eq!(run(CHECKS, &12, None).len(), 2);
    }

    #[test]
    fn a_failure_bars_its_own_area() {
        let lines = run(CHECKS, &3, None);
        assert!(lines[0].prevents(Area::Rx) && !lines[0].prevents(Area::Tx));
        assert!(!run(CHECKS, &2, None)[0].prevents(Area::Rx));
    }
}
