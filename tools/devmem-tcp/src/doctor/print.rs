//! Report of all checks, as text and as JSON.

use serde::Serialize;

use super::check::{Area, CheckResult, Status};
use crate::style::Style;
use crate::table::{Column, fit};
use crate::wrap::flow;

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

/// Columns of a line that is a check's or a NIC's: status, name, device or driver, and what was found.
const LINE: [Column; 4] = [
    Column::text(""),
    Column::text(""),
    Column::text(""),
    Column::text("").wraps(),
];

impl Report {
    /// The report, in `columns` columns of a terminal if there is a limit. A remedy is on a line of its
    /// own that is never wrapped, to be pasted.
    pub(super) fn text(&self, style: Style, columns: Option<usize>) -> String {
        let rows: Vec<_> = self.checks.iter().map(|line| row(line, style)).collect();
        let rows = fit(&LINE, &rows, columns, style).rows;
        let mut lines = Vec::new();
        for (check, row) in self.checks.iter().zip(rows) {
            lines.extend(row);
            let remedy = check.remedy.as_ref();
            if let Some(remedy) = remedy.filter(|_| check.status != Status::Ok) {
                lines.push(format!("      {remedy}"));
            }
        }
        if !self.nics.is_empty() {
            lines.push(String::new());
            let rows: Vec<_> = self.nics.iter().map(|nic| nic.row(style)).collect();
            let rows = fit(&LINE, &rows, columns, style).rows;
            lines.extend(rows.into_iter().flatten());
        }
        lines.push(String::new());
        lines.extend(self.verdict(columns));
        lines.join("\n") + "\n"
    }

    fn verdict(&self, columns: Option<usize>) -> Vec<String> {
        let words = |works, what, end| match works {
            true => format!("{what} would work{end}"),
            false => format!("{what} would not work{end}"),
        };
        let of = self.device.as_deref().unwrap_or(match self.nics[..] {
            [] => "no NIC",
            _ => "this machine",
        });
        let phrases = [
            format!("{of}: {}", words(self.receives, "receiving", ",")),
            words(self.sends, "sending", ","),
            words(self.leases, "leasing", ""),
        ];
        let phrases = phrases.iter().map(String::as_str);
        flow(phrases, columns.unwrap_or(usize::MAX), 2)
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

#[cfg(test)]
mod tests {
    use common::text::width;

    use super::*;
    use crate::golden;

    fn check(
        id: &'static str,
        device: Option<&str>,
        status: Status,
        found: &str,
        remedy: Option<&str>,
    ) -> CheckResult {
        CheckResult {
            id,
            device: device.map(str::to_owned),
            areas: &[Area::Rx],
            status,
            what: "what must be true",
            found: found.to_owned(),
            remedy: remedy.map(str::to_owned),
        }
    }

    fn report() -> Report {
        let nic = Some("enp129s0f1np1");
        let checks = vec![
            check(
                "kernel.version",
                None,
                Status::Ok,
                "Linux 7.3.4+deb13-cloud-amd64",
                Some("not printed where all is well"),
            ),
            check(
                "memory.locked",
                None,
                Status::Warn,
                "at most 8 MiB may be locked (RLIMIT_MEMLOCK), which is less than the 64 MiB of the \
                 dmabuf; pages of a udmabuf are not counted",
                Some("ulimit -l unlimited"),
            ),
            check(
                "leases.leftover",
                None,
                Status::Warn,
                "notes of a lease whose netkit is gone: /run/devmem-tcp/leases/with-a-long-name/\
                 netkit-that-was-in-a-container-of-another-runtime.json",
                Some("devmem-tcp unlease 'nk\u{7db2}\u{8def}0'"),
            ),
            check(
                "driver.queue-api",
                nic,
                Status::Fail,
                "the driver `ice` has no queue API (EOPNOTSUPP): neither receiving into device memory \
                 nor leasing a queue can work on this device, with any queue",
                Some("use a NIC whose driver has the queue API: bnxt, fbnic, gve, mlx5"),
            ),
            check(
                "split.on",
                Some("nk\u{7db2}\u{8def}\u{1b}[31m"),
                Status::Fail,
                "off, and it can't be switched on: line 1\nline 2",
                Some(
                    "ip netns exec 'a container with blanks' devmem-tcp apply enp129s0f1np1 \
                     --header-split --queue 15 --flow '[2001:db8:1234:5678:9abc:def0:1234:5678]:5000'",
                ),
            ),
            check("rss.spare", nic, Status::Ok, "1 of 16 queues", None),
        ];
        Report {
            device: nic.map(str::to_owned),
            receives: false,
            sends: true,
            leases: false,
            checks,
            nics: Vec::new(),
        }
    }

    #[test]
    fn golden_doctor() {
        let report = report();
        for columns in [60, 80, 160] {
            let text = report.text(Style::OFF, Some(columns));
            golden::check(&format!("doctor.{columns}.txt"), &text);
            for remedy in report.checks.iter().filter_map(|it| it.remedy.as_ref()) {
                let whole = text.contains(&format!("\n      {remedy}\n"));
                assert!(whole || remedy.starts_with("not printed"), "{remedy}");
            }
        }
        golden::check("doctor.txt", &report.text(Style::OFF, None));
    }

    #[test]
    fn golden_doctor_of_all_nics() {
        let nic = |device: &str, failed: Vec<&'static str>| Summary {
            device: device.to_owned(),
            driver: "mlx5_core".to_owned(),
            receives: failed.is_empty(),
            sends: true,
            leases: failed.is_empty(),
            failed,
        };
        let report = Report {
            device: None,
            receives: true,
            nics: vec![
                nic("eth0", Vec::new()),
                nic(
                    "enp129s0f1np1",
                    vec![
                        "driver.queue-api",
                        "split.settable",
                        "link.up",
                        "steering.ntuple",
                    ],
                ),
            ],
            ..report()
        };
        let text = report.text(Style::OFF, Some(60));
        golden::check("doctor-nics.60.txt", &text);
    }

    #[test]
    fn a_terminal_gets_no_wider_line_than_it_has_columns_but_what_is_pasted() {
        let report = report();
        for columns in 62..200 {
            let text = report.text(Style::ON, Some(columns));
            for line in text.lines().filter(|line| width(line) > columns) {
                let remedy = report
                    .checks
                    .iter()
                    .any(|it| it.remedy.as_deref() == Some(line.trim()));
                let word = !line.trim().contains(' ');
                assert!(remedy || word, "{columns}: {line}");
            }
        }
    }
}
