//! The comparison, from what was measured.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::contender::{ALL, BARE, COPY, OURS, TRUNC, UPSTREAM, VALIDATING};
use super::{NOTHING, Sample};

const GIB: f64 = (1u64 << 30) as f64;

/// Prints the tables. Of several files the first gives CPU time and calls, the last goodput: an
/// emulated guest that counts instructions, and one that runs as fast as it can.
#[allow(clippy::print_stdout)]
pub(crate) fn report(paths: &[PathBuf]) -> Result<()> {
    let read = |path: &PathBuf| -> Result<Vec<Sample>> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lines = text.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    };
    let (first, last) = (
        paths.first().context("a file")?,
        paths.last().context("a file")?,
    );
    let (costs, speeds) = (read(first)?, read(last)?);
    for gro in [false, true] {
        let of = |samples: &[Sample]| -> Vec<Sample> {
            samples
                .iter()
                .filter(|sample| sample.gro == gro)
                .cloned()
                .collect()
        };
        let table = Table {
            costs: of(&costs),
            speeds: of(&speeds),
        };
        ensure!(!table.costs.is_empty(), "nothing was measured");
        println!(
            "\n{} receive coalescing (rx-gro-hw)\n\n{}",
            if gro { "with" } else { "without" },
            table.text()?
        );
    }
    Ok(())
}

/// What was measured, of one kind of NIC.
struct Table {
    costs: Vec<Sample>,
    speeds: Vec<Sample>,
}

/// Of one contender.
struct Row {
    /// CPU seconds a GiB, in the loop.
    loop_cpu: f64,
    user: f64,
    system: f64,
    /// CPU seconds to begin and end.
    setup: f64,
    calls: Option<f64>,
    goodput: f64,
    memory: f64,
}

impl Table {
    fn row(&self, who: &str) -> Result<Row> {
        let median_of = |samples: &[Sample], all: bool, value: &dyn Fn(&Sample) -> f64| {
            let of = samples.iter().filter(|sample| {
                sample.who == who && sample.calls.is_none() && (sample.bytes > NOTHING) == all
            });
            median(of.map(value).collect()).with_context(|| format!("nothing of {who}"))
        };
        let cost = |all, value: &dyn Fn(&Sample) -> f64| median_of(&self.costs, all, value);
        let bytes = cost(true, &|sample| sample.bytes as f64)?;
        let scale = GIB / bytes;
        // What it tells of its loop, or else all without what a transfer of nothing costs.
        let told = self
            .costs
            .iter()
            .any(|sample| sample.who == who && sample.in_loop.is_some());
        let in_loop = |value: &dyn Fn((f64, f64)) -> f64| -> Result<f64> {
            let of_loop = |sample: &Sample| value(sample.in_loop.unwrap_or_default());
            let of_all = |sample: &Sample| value((sample.user, sample.system));
            Ok(scale
                * match told {
                    true => cost(true, &of_loop)?,
                    false => cost(true, &of_all)? - cost(false, &of_all)?,
                })
        };
        let calls = |all: bool| {
            let mut of = self.costs.iter();
            let of =
                of.find(|it| it.who == who && it.calls.is_some() && (it.bytes > NOTHING) == all);
            of.and_then(|it| Some((it.calls? as f64, it.bytes as f64)))
        };
        let counted = calls(true).zip(calls(false));
        Ok(Row {
            loop_cpu: in_loop(&|(user, system)| user + system)?,
            user: in_loop(&|(user, _)| user)?,
            system: in_loop(&|(_, system)| system)?,
            setup: cost(false, &|sample| sample.user + sample.system)?,
            calls: counted.map(|((all, bytes), (nothing, _))| (all - nothing) * GIB / bytes),
            goodput: median_of(&self.speeds, true, &|sample| {
                sample.bytes as f64 / sample.seconds / (1 << 20) as f64
            })?,
            memory: cost(true, &|sample| sample.memory as f64)?,
        })
    }

    fn text(&self) -> Result<String> {
        let bare = self.row(BARE)?;
        let mut text = format!(
            "{:<32} {:>9} {:>6} {:>8} {:>8} {:>9} {:>10} {:>9} {:>9}\n",
            "", "CPU/GiB", "/bare", "user", "system", "set-up", "calls/GiB", "MiB/s", "mem KiB"
        );
        for contender in ALL {
            let row = self.row(contender.name)?;
            let calls = row
                .calls
                .map_or("-".to_owned(), |calls| format!("{calls:.0}"));
            writeln!(
                text,
                "{:<32} {:>8.3}s {:>6.2} {:>7.3}s {:>7.3}s {:>8.3}s {calls:>10} {:>9.1} {:>9.0}",
                contender.name,
                row.loop_cpu,
                row.loop_cpu / bare.loop_cpu,
                row.user,
                row.system,
                row.setup,
                row.goodput,
                row.memory,
            )?;
        }
        text.push('\n');
        text += &self.targets()?;
        Ok(text)
    }

    /// What shall hold, each with its figure.
    fn targets(&self) -> Result<String> {
        let (ours, validating) = (self.row(OURS)?, self.row(VALIDATING)?);
        let (bare, upstream) = (self.row(BARE)?, self.row(UPSTREAM)?);
        let (copy, trunc) = (self.row(COPY)?, self.row(TRUNC)?);
        let mut text = String::new();
        let mut line = |what: &str, figure: f64, most: bool, target: f64| {
            let holds = if most {
                figure <= target
            } else {
                figure >= target
            };
            let word = if most { "at most" } else { "at least" };
            let verdict = if holds { "met" } else { "NOT MET" };
            writeln!(
                text,
                "{what:<58} {figure:>8.4}  {word} {target:<8.4} {verdict}"
            )
        };
        if let (Some(ours), Some(theirs)) = (validating.calls, upstream.calls) {
            line(
                "system calls, against upstream, validating",
                ours / theirs,
                true,
                1.0 / 300.0,
            )?;
        }
        line(
            "CPU in the loop, against the bare loop",
            ours.loop_cpu / bare.loop_cpu,
            true,
            1.05,
        )?;
        line(
            "the same, validating",
            validating.loop_cpu / bare.loop_cpu,
            true,
            1.5,
        )?;
        line(
            "CPU in the loop, against upstream, both validating",
            validating.loop_cpu / upstream.loop_cpu,
            true,
            1.0 / 20.0,
        )?;
        line(
            "CPU in the loop, against recv with copy",
            ours.loop_cpu / copy.loop_cpu,
            true,
            0.4,
        )?;
        line(
            "goodput, against MSG_TRUNC",
            ours.goodput / trunc.goodput,
            false,
            0.95,
        )?;
        line(
            "the same, validating",
            validating.goodput / trunc.goodput,
            false,
            0.85,
        )?;
        line(
            "set-up and tear-down, against upstream",
            ours.setup / upstream.setup,
            true,
            0.5,
        )?;
        Ok(text)
    }
}

/// The middle one, or the mean of the two in the middle; `None` of none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    /// What it costs to begin and end is taken off.
    #[test]
    fn a_row_is_about_the_loop() {
        let sample = |bytes, system| Sample {
            who: BARE.to_owned(),
            gro: false,
            bytes,
            seconds: 2.0,
            user: 0.0,
            system,
            in_loop: None,
            memory: 1,
            calls: None,
        };
        let costs = vec![sample(1 << 30, 5.0), sample(NOTHING, 1.0)];
        let table = Table {
            speeds: costs.clone(),
            costs,
        };
        let row = table.row(BARE).unwrap();
        assert_eq!((row.loop_cpu, row.setup, row.goodput), (4.0, 1.0, 512.0));
        assert!(table.row(OURS).is_err());
    }
}
