//! Tables of the benchmark's figures, as text.

use std::fmt::Write;

use super::data::{Data, Row};
use super::spread::{Spread, median, ratios};
use super::targets::against_bare;
use crate::Guest;
use crate::contender::{ALL, Role, TRUNC};
use crate::sweep::Series;

/// Formats a table of costs in one guest, with or without coalescing: all receivers, then the
/// varied conditions.
pub(super) fn cost_table(data: &Data, guest: Guest, gro: bool) -> String {
    const ONE: &[Column] = &[
        ("CPU s/GiB (least to most)", 27, |_, row| {
            format_spread(&row.cpu, 3)
        }),
        ("/bare", 7, by_bare),
        ("user", 7, |_, row| percent(row.user)),
        ("set-up s", 27, |_, row| format_spread(&row.setup, 3)),
        ("first s", 9, |_, row| format_some(median(&row.first), 4)),
        ("mem KiB", 9, |_, row| row.memory.to_string()),
        ("alloc", 7, |_, row| row.alloc_fail.to_string()),
        ("retr", 6, |_, row| row.retransmitted.to_string()),
    ];
    const TWO: &[Column] = &[
        ("CPU s/GiB (least to most)", 27, |_, row| {
            format_spread(&row.cpu, 3)
        }),
        ("/bare", 7, by_bare),
        ("user", 7, |_, row| percent(row.user)),
        ("MiB/s", 27, |_, row| format_spread(&row.goodput, 1)),
        ("/TRUNC", 8, by_trunc),
        ("mem KiB", 9, |_, row| row.memory.to_string()),
        ("alloc", 7, |_, row| row.alloc_fail.to_string()),
        ("retr", 6, |_, row| row.retransmitted.to_string()),
    ];
    let columns = match guest {
        Guest::OneCpu | Guest::Words => ONE,
        Guest::TwoCpu => TWO,
    };
    table(data, guest, gro, columns)
}

/// Formats a table of counts (system calls, sleeps, frags) in one guest, with or without
/// coalescing.
pub(super) fn count_table(data: &Data, guest: Guest, gro: bool) -> String {
    const COLUMNS: &[Column] = &[
        ("calls/GiB (least to most)", 31, |_, row| {
            format_spread(&row.calls, 0)
        }),
        ("sleeps/GiB", 24, |_, row| format_spread(&row.wakeups, 0)),
        ("frags/MiB", 18, |_, row| {
            format_spread(&row.frags_per_mib, 0)
        }),
        ("frags/recvmsg", 24, |_, row| {
            format_spread(&row.frags_per_recvmsg, 1)
        }),
        ("frags/DONTNEED", 24, |_, row| {
            format_spread(&row.tokens_per_dontneed, 1)
        }),
    ];
    table(data, guest, gro, COLUMNS)
}

/// A column of a table: its heading, its width, and the function that formats its cells.
type Column = (&'static str, usize, fn(&Data, &Row) -> String);

fn table(data: &Data, guest: Guest, gro: bool, columns: &[Column]) -> String {
    let of = |row: &&Row| row.guest == guest && row.at.gro == gro;
    let rows: Vec<&Row> = data.rows.iter().filter(of).collect();
    let mut text = format!("{:<42}", "");
    for (name, width, _) in columns {
        let _infallible = write!(text, "{name:>width$}");
    }
    text.push('\n');
    let mut put = |what: &str, row: &Row| {
        let values = columns.iter().map(|(_, width, of)| (*width, of(data, row)));
        let values: Vec<_> = values.collect();
        if values.iter().all(|(_, value)| value == "-") {
            return;
        }
        let mut line = format!("{what:<42}");
        for (width, value) in values {
            let _infallible = write!(line, "{value:>width$}");
        }
        text += line.trim_end();
        text.push('\n');
    };
    for (role, name) in [
        (Role::Discards, "discarding"),
        (Role::Validates, "validating"),
        (Role::Copies, "copying"),
    ] {
        let of_role = |row: &&&Row| row.series == Series::Compare && role_of(&row.who) == role;
        let of: Vec<_> = rows.iter().filter(of_role).collect();
        for row in of {
            put(&format!("{name}: {}", name_without_role(&row.who)), row);
        }
    }
    for series in Series::SWEEPS {
        for row in rows.iter().filter(|row| row.series == series) {
            put(
                &format!("  {} {}", label(series), series.place(&row.at).1),
                row,
            );
        }
    }
    text
}

fn role_of(who: &str) -> Role {
    let known = ALL.iter().find(|it| it.name == who);
    known.map_or(Role::Discards, |it| it.role)
}

/// Strips a receiver's name of its role, `, validating`.
fn name_without_role(who: &str) -> &str {
    who.strip_suffix(", validating").unwrap_or(who)
}

fn label(series: Series) -> &'static str {
    match series {
        Series::Compare => "",
        Series::Connections => "recv, connections:",
        Series::Roomy => "recv, dmabuf of 256 MiB, connections:",
        Series::Queues => "recv, queues:",
        Series::Netkit => "recv,",
        Series::RxPageSize => "recv, 2 MiB pages, rx-page-size:",
        Series::Pool => "recv, dmabuf:",
    }
}

fn format_spread(values: &[f64], digits: usize) -> String {
    Spread::of(values).map_or("-".to_owned(), |it| it.text(digits))
}

fn format_median(values: &[f64], digits: usize) -> String {
    format_some(median(values), digits)
}

fn format_some(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Formats a fraction in percent; `-` if there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |it| format!("{:.0} %", 100.0 * it))
}

fn by_bare(data: &Data, row: &Row) -> String {
    match row.series {
        Series::Compare => {
            let values = against_bare(data, row.guest, &row.who, row.at.gro);
            format_median(&values, 2)
        }
        _ => "-".to_owned(),
    }
}

fn by_trunc(data: &Data, row: &Row) -> String {
    match (row.series, data.compared(row.guest, TRUNC.name, row.at.gro)) {
        (Series::Compare, Some(trunc)) => format_median(&ratios(&row.goodput, &trunc.goodput), 2),
        _ => "-".to_owned(),
    }
}

/// Formats a table of system calls per GiB, by name.
pub(super) fn calls_table(data: &Data, guest: Guest, gro: bool) -> String {
    let rows = counted(data, guest, gro);
    let mut kinds: Vec<&str> = Vec::new();
    for row in &rows {
        for kind in row.calls_by.keys() {
            if !kinds.contains(&kind.as_str()) {
                kinds.push(kind);
            }
        }
    }
    kinds.sort_unstable();
    let mut text = format!("{:<42}", "");
    for kind in &kinds {
        let _infallible = write!(text, "{kind:>16}");
    }
    text.push('\n');
    for row in rows {
        let _infallible = write!(text, "{:<42}", row.who);
        for kind in &kinds {
            let count = row.calls_by.get(*kind).copied().unwrap_or(0.0);
            let _infallible = write!(text, "{count:>16.0}");
        }
        text.push('\n');
    }
    text
}

/// Formats a table that compares the tracepoints' counts with the receivers' own.
pub(super) fn check_table(data: &Data) -> String {
    let mut text = format!(
        "{:<42}{:<6}{:<10}{:>20}{:>34}{:>20}\n",
        "counted / by itself",
        "CPUs",
        "coalesc.",
        "recvmsg",
        "setsockopt (of it DONTNEED)",
        "epoll_wait"
    );
    for (guest, cpus) in [(Guest::OneCpu, "one"), (Guest::TwoCpu, "two")] {
        for gro in [false, true] {
            for row in counted(data, guest, gro) {
                let Some(check) = row.check else {
                    continue;
                };
                let pair = |(counted, own): (u64, u64)| format!("{counted} / {own}");
                let _infallible = writeln!(
                    text,
                    "{:<42}{cpus:<6}{:<10}{:>20}{:>34}{:>20}{}",
                    row.who,
                    if gro { "with" } else { "without" },
                    pair(check.recvmsg),
                    pair(check.setsockopt),
                    check.epoll_wait.map_or("-".to_owned(), pair),
                    if check.agrees() { "" } else { "  DISAGREE" }
                );
            }
        }
    }
    text
}

/// Returns the rows in which the tracepoints' and the receiver's counts cannot be of the same
/// transfers.
pub(super) fn disagreements(data: &Data) -> Vec<&Row> {
    let disagrees = |row: &&Row| row.check.is_some_and(|check| !check.agrees());
    data.rows.iter().filter(disagrees).collect()
}

fn counted(data: &Data, guest: Guest, gro: bool) -> Vec<&Row> {
    let of = |row: &&Row| {
        let compared = row.series == Series::Compare && row.at.gro == gro;
        row.guest == guest && compared && !row.calls.is_empty()
    };
    data.rows.iter().filter(of).collect()
}

/// Formats a table of what counting system calls adds to a loop's CPU time: the ratio, and
/// nanoseconds per call.
pub(super) fn overhead_table(data: &Data) -> String {
    let mut text = format!(
        "{:<42}{:<6}{:<10}{:>24}{:>16}\n",
        "", "CPUs", "coalesc.", "CPU counted/not", "ns a call"
    );
    for (guest, cpus) in [(Guest::OneCpu, "one"), (Guest::TwoCpu, "two")] {
        for gro in [false, true] {
            for row in counted(data, guest, gro) {
                let both = median(&row.cpu).zip(median(&row.cpu_counted));
                let calls = median(&row.calls).unwrap_or(0.0).max(1.0);
                let per_call = both.map(|(cpu, counted)| (counted - cpu) / calls * 1e9);
                let _infallible = writeln!(
                    text,
                    "{:<42}{cpus:<6}{:<10}{:>24}{:>16}",
                    row.who,
                    if gro { "with" } else { "without" },
                    format_spread(&ratios(&row.cpu_counted, &row.cpu), 3),
                    format_some(per_call, 0),
                );
            }
        }
    }
    text
}

/// Formats a table of the CPU time of set-up, and of the kernel's part in it.
pub(super) fn setup_table(data: &Data) -> String {
    let mut text = format!(
        "{:<42}{:>10}{:>26}{:>10}\n",
        "CPU of a transfer of 4 KiB, in seconds", "coalesc.", "(least to most)", "user"
    );
    for gro in [false, true] {
        let all = data.rows.iter();
        let of = all.filter(|row| row.at.gro == gro && !row.setup.is_empty());
        for row in of {
            let _infallible = writeln!(
                text,
                "{:<42}{:>10}{:>26}{:>10}",
                row.who,
                if gro { "with" } else { "without" },
                format_spread(&row.setup, 3),
                percent(row.setup_user)
            );
        }
    }
    let _infallible = writeln!(
        text,
        "\n{:<42}{:>26}{:>26}",
        "of it, for 64 MiB, by the kernel alone", "make", "bind"
    );
    for parts in &data.parts {
        let _infallible = writeln!(
            text,
            "{:<42}{:>26}{:>26}",
            if parts.huge {
                "  pages of 2 MiB"
            } else {
                "  pages of 4 KiB"
            },
            format_spread(&parts.make, 4),
            format_spread(&parts.bind, 4),
        );
    }
    text
}

/// Formats a table of round-trip times of 64-byte messages.
pub(super) fn echo_table(data: &Data) -> String {
    let mut text = format!(
        "{:<30}{:>28}{:>28}{:>28}\n",
        "microseconds (least to most)", "p50", "p99", "most"
    );
    for latency in &data.echo {
        let _infallible = writeln!(
            text,
            "{:<30}{:>28}{:>28}{:>28}",
            if latency.gathers {
                "gathering on"
            } else {
                "gathering off"
            },
            format_spread(&latency.p50, 1),
            format_spread(&latency.p99, 1),
            format_spread(&latency.max, 1)
        );
    }
    text
}
