//! What a check finds, and the lines that it becomes.

use serde::Serialize;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// In the way, but not so that nothing works.
    Warn,
    /// The areas that the check belongs to cannot work.
    Fail,
}

/// What it matters for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Area {
    /// Receiving into device memory.
    Rx,
    /// Sending from it.
    Tx,
    /// Leasing a queue to a netkit.
    Lease,
}

/// What a check found.
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

    /// With what cures it: a command to paste, or words where there is none.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One thing that must be true of `S`. To add a check, write its function and add a row to its
/// file's table.
#[derive(Debug)]
pub(super) struct Check<S> {
    /// Its name, never to be changed: scripts know it.
    pub(super) id: &'static str,
    pub(super) areas: &'static [Area],
    /// What must be true.
    pub(super) what: &'static str,
    /// `None` where it does not apply.
    pub(super) run: fn(&S) -> Option<Finding>,
}

/// A check's outcome, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct CheckResult {
    pub(super) id: &'static str,
    /// The device that it is about; `None`: the machine.
    pub(super) device: Option<String>,
    pub(super) areas: &'static [Area],
    pub(super) status: Status,
    pub(super) what: &'static str,
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

impl CheckResult {
    /// Whether it keeps this area from working.
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
