//! The comparison, from what was measured: a table, what shall hold, JSON, and pictures.

mod figures;
mod targets;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Counts;
use super::contender::BARE;
use super::plot;
use super::sweep::Series;
use figures::{Measured, Row};
use targets::{Target, targets};

/// What is to be known of the figures, whoever reads them.
const NOTES: &str = "\
CPU/GiB   the receiver's, from the first byte to the last; its parts are told apart by the kernel's
          ticks. An emulated guest counts instructions for time, 2 ns each.
set-up    CPU of a transfer of 4 KiB: to make, bind and free the dmabuf, to start and end.
calls     all system calls (strace), in a transfer of its own, without those to begin and end.
mem       the most private memory that it ever had.
alloc     packets for which the NIC had no buffer; retr  TCP segments sent again: the worst of all
          transfers, in both guests.
connections  Each gets a sixteenth of a transfer at least: 64 and 256 together get more than one.
          At the sender lost-tail probes (tcp_early_retrans) are off, and its qdisc is a pfifo: an
          emulated end is often late, and nothing is lost.
MiB/s     Where there are two processors, the sender has one and the receiver the other, each with
          its NIC's work.
copy      The kernel copies by `rep movsb`, which an emulated CPU counts an instruction a byte: one
          GiB is 2.15 s. A CPU that moves words (clearcpuid=erms,fsrm) is measured apart; a real one
          is neither: it is as fast as its memory.";

/// Prints the comparison, and leaves it in a folder, too.
#[allow(clippy::print_stdout)]
pub(crate) fn report(cost: &Path, words: &Path, speed: &Path, out: Option<&Path>) -> Result<()> {
    let measured = Measured::read(cost, words, speed)?;
    let rows = measured.rows()?;
    let targets = targets(&measured, &rows);
    let text = text(&rows, &targets);
    println!("{text}");
    let Some(out) = out else {
        return Ok(());
    };
    let keep = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let all = Comparison {
        rows: &rows,
        targets: &targets,
    };
    keep("bench.json", &(serde_json::to_string_pretty(&all)? + "\n"))?;
    keep("bench.txt", &(text + "\n"))?;
    for (name, picture) in pictures(&rows) {
        keep(&format!("{name}.svg"), &picture)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Comparison<'a> {
    rows: &'a [Row],
    targets: &'a [Target],
}

fn text(rows: &[Row], targets: &[Target]) -> String {
    let mut text = String::new();
    for gro in [false, true] {
        let of: Vec<&Row> = rows.iter().filter(|row| row.at.gro == gro).collect();
        let compare = of.iter().filter(|row| row.series == Series::Compare);
        let with = if gro { "with" } else { "without" };
        let _infallible = write!(
            text,
            "\n{with} receive coalescing (rx-gro-hw)\n\n{}",
            head()
        );
        let bare = of.iter().find(|row| row.who == BARE.name);
        let bare = bare.map(|row| row.cpu);
        for row in compare {
            text += &line(&row.who, row, bare);
        }
        for series in Series::SWEEPS {
            let of: Vec<_> = of.iter().filter(|row| row.series == series).collect();
            if !of.is_empty() {
                let _infallible = writeln!(text, "devmem-tcp recv, by {}", series.name());
            }
            for row in of {
                text += &line(&format!("  {}", series.place(&row.at).1), row, bare);
            }
        }
    }
    let _infallible = write!(
        text,
        "\n{NOTES}\n\n{:<56} {:<4} {:>9}  {:<16}\n{}",
        "targets",
        "gro",
        "figure",
        "target",
        targets::text(targets)
    );
    text
}

fn head() -> String {
    format!(
        "{:<31}{:>8}{:>7}{:>8}{:>8}{:>8}{:>9}{:>10}{:>12}{:>14}{:>8}{:>8}{:>7}{:>6}\n",
        "",
        "CPU/GiB",
        "/bare",
        "user",
        "system",
        "set-up",
        "calls/GiB",
        "frags/MiB",
        "frags/recv",
        "tokens/return",
        "MiB/s",
        "mem KiB",
        "alloc",
        "retr"
    )
}

fn line(what: &str, row: &Row, bare: Option<f64>) -> String {
    let some = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{what:<31}{:>7.3}s{:>7}{:>7.3}s{:>7.3}s{:>8}{:>9}{:>10}{:>12}{:>14}{:>8.1}{:>8}{:>7}{:>6}\n",
        row.cpu,
        some(bare.map(|bare| row.cpu / bare), 2),
        row.user,
        row.system,
        row.setup.map_or("-".to_owned(), |it| format!("{it:.3}s")),
        some(row.calls, 0),
        some(row.frags_per_mib, 0),
        some(row.frags_per_recvmsg, 1),
        some(row.tokens_per_dontneed, 1),
        row.goodput,
        row.memory,
        row.alloc_fail,
        row.retransmitted,
    )
}

/// Each with its name.
fn pictures(rows: &[Row]) -> Vec<(&'static str, String)> {
    let of = |series| rows.iter().filter(move |row| row.series == series);
    let mut pictures = Vec::new();
    let bars: Vec<_> = of(Series::Compare)
        .map(|row| (row.who.as_str(), row.at.gro, row.cpu))
        .collect();
    if !bars.is_empty() {
        let title = "What receiving a GiB costs";
        let axis = "CPU seconds a GiB in the receive loop, by a clock of instructions; logarithmic";
        pictures.push(("cpu", plot::bars(title, axis, &bars)));
    }
    for series in Series::SWEEPS {
        let (title, x) = match series {
            Series::Compare => continue,
            Series::Connections => ("By the number of connections", "connections"),
            Series::Queues => ("By the number of queues, 4 connections", "rx queues"),
            Series::Netkit => ("Direct, and through a leased queue", ""),
            Series::RxPageSize => (
                "By the size of the pieces that the NIC fills",
                "rx-page-size",
            ),
            Series::Pool => ("By the size of the dmabuf", "dmabuf"),
        };
        let points = |value: fn(&Row) -> f64| -> Vec<plot::Dot> {
            let dot = |row: &Row| plot::Dot {
                place: series.place(&row.at),
                gro: row.at.gro,
                value: value(row),
            };
            of(series).map(dot).collect()
        };
        let (cpu, goodput) = (points(|row| row.cpu), points(|row| row.goodput));
        if !cpu.is_empty() {
            let panels = [
                ("CPU seconds a GiB", &cpu[..]),
                ("MiB a second", &goodput[..]),
            ];
            pictures.push((series.name(), plot::panels(title, x, &panels)));
        }
    }
    pictures
}
