//! What shall hold, each with its figure.

use std::fmt::Write;

use serde::Serialize;

use super::figures::{Measured, Row};
use crate::bench::contender::{BARE, COPY, OURS, TRUNC, UPSTREAM, VALIDATING};
use crate::bench::sweep::{Point, Series};

/// KiB that a receiver may have beside the dmabuf, and more for each connection.
const MEMORY: u64 = 8 << 10;
const MEMORY_OF_CONNECTION: u64 = 16;

/// One line: a figure, and what it may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    /// With receive coalescing, without, or no matter.
    pub(super) gro: Option<bool>,
    /// `None`: it was not measured.
    pub(super) figure: Option<f64>,
    /// `None` for what is told only to be known.
    pub(super) limit: Option<Limit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    /// Whether it is met, where it can be.
    pub(super) fn is_met(&self) -> Option<bool> {
        let figure = self.figure?;
        Some(match self.limit? {
            Limit::AtMost(limit) => figure <= limit,
            Limit::AtLeast(limit) => figure >= limit,
        })
    }
}

/// All of them.
pub(super) fn targets(measured: &Measured, rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    for gro in [false, true] {
        let found = Found {
            measured,
            rows,
            gro,
        };
        found.compare(&mut targets);
        found.sweeps(&mut targets);
    }
    targets.extend(memory(rows));
    targets
}

/// The rows of one kind of NIC.
struct Found<'a> {
    measured: &'a Measured,
    rows: &'a [Row],
    gro: bool,
}

impl Found<'_> {
    fn row(&self, who: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.who == who && row.series == Series::Compare && row.at.gro == self.gro)
    }

    /// One contender's figure against another's.
    fn ratio(&self, one: &str, other: &str, figure: fn(&Row) -> Option<f64>) -> Option<f64> {
        Some(figure(self.row(one)?)? / figure(self.row(other)?)?)
    }

    fn target(&self, what: impl Into<String>, figure: Option<f64>, limit: Limit) -> Target {
        Target {
            what: what.into(),
            gro: Some(self.gro),
            figure,
            limit: Some(limit),
        }
    }

    /// What no target is set for: how near a receiver could come.
    fn told(&self, what: &str, figure: Option<f64>) -> Target {
        Target {
            what: format!("    {what}"),
            gro: Some(self.gro),
            figure,
            limit: None,
        }
    }

    fn compare(&self, targets: &mut Vec<Target>) {
        let cpu = |one, other| self.ratio(one, other, |row| Some(row.cpu));
        let (ours, validating) = (OURS.name, VALIDATING.name);
        targets.push(self.target(
            "system calls, against upstream, both validating",
            self.ratio(validating, UPSTREAM.name, |row| row.calls),
            Limit::AtMost(1.0 / 300.0),
        ));
        targets.push(self.target(
            "CPU in the loop, against the bare loop",
            cpu(ours, BARE.name),
            Limit::AtMost(1.05),
        ));
        targets.push(self.target(
            "the same, validating",
            cpu(validating, BARE.name),
            Limit::AtMost(1.5),
        ));
        targets.push(self.target(
            "CPU in the loop, against upstream, both validating",
            cpu(validating, UPSTREAM.name),
            Limit::AtMost(1.0 / 20.0),
        ));
        targets.push(self.told(
            "of the bare loop, which does not validate",
            cpu(BARE.name, UPSTREAM.name),
        ));
        self.against_copy(targets);
        let at = &Point {
            gro: self.gro,
            ..Point::default()
        };
        let goodput = |who| {
            let trunc = (TRUNC.name, Series::Compare, at);
            self.measured.goodput((who, Series::Compare, at), trunc)
        };
        targets.push(self.target(
            "goodput, against MSG_TRUNC on the same queue",
            goodput(ours),
            Limit::AtLeast(0.95),
        ));
        targets.push(self.target(
            "the same, validating",
            goodput(validating),
            Limit::AtLeast(0.85),
        ));
        targets.push(self.told("of the bare loop", goodput(BARE.name)));
        targets.push(self.target(
            "set-up and tear-down, against upstream",
            self.ratio(ours, UPSTREAM.name, |row| row.setup),
            Limit::AtMost(0.5),
        ));
    }

    fn against_copy(&self, targets: &mut Vec<Target>) {
        let counted = |who| self.ratio(who, COPY.name, |row| Some(row.cpu));
        let words = |who| self.measured.words(who, self.gro);
        let words = words(OURS.name).zip(words(COPY.name));
        // The target is about receive coalescing.
        targets.push(Target {
            what: "CPU in the loop, against recv with copy".to_owned(),
            gro: Some(self.gro),
            figure: counted(OURS.name),
            limit: self.gro.then_some(Limit::AtMost(0.4)),
        });
        targets.push(self.told("of the bare loop", counted(BARE.name)));
        targets.push(self.told(
            "ours, on a CPU that copies by words",
            words.map(|(ours, copy)| ours / copy),
        ));
    }

    fn sweeps(&self, targets: &mut Vec<Target>) {
        let with = |connections| {
            let of = self.rows.iter().filter(|row| row.at.gro == self.gro);
            let mut of = of.filter(|row| row.series == Series::Connections);
            of.find(|row| row.at.connections == connections)
        };
        for connections in [64, 256] {
            let pair = with(connections).zip(with(1));
            targets.push(self.target(
                format!("CPU in the loop, {connections} connections against 1"),
                pair.map(|(many, one)| many.cpu / one.cpu),
                Limit::AtMost(1.15),
            ));
            targets.push(self.target(
                format!("{connections} connections: no buffer at the NIC, times"),
                with(connections).map(|row| row.alloc_fail as f64),
                Limit::AtMost(0.0),
            ));
            targets.push(self.target(
                format!("{connections} connections: segments sent again"),
                with(connections).map(|row| row.retransmitted as f64),
                Limit::AtMost(0.0),
            ));
        }
        let at = |netkit| Point {
            gro: self.gro,
            netkit,
            ..Point::default()
        };
        let (netkit, direct) = (at(true), at(false));
        targets.push(self.target(
            "goodput, through a netkit's lease against direct",
            self.measured.goodput(
                (OURS.name, Series::Netkit, &netkit),
                (OURS.name, Series::Netkit, &direct),
            ),
            Limit::AtLeast(0.9),
        ));
    }
}

/// The most memory, by the number of connections.
fn memory(rows: &[Row]) -> Vec<Target> {
    let ours = |row: &&Row| row.who == OURS.name || row.who == VALIDATING.name;
    let mut most = std::collections::BTreeMap::<u32, u64>::new();
    for row in rows.iter().filter(ours) {
        let entry = most.entry(row.at.connections).or_default();
        *entry = row.memory.max(*entry);
    }
    let target = |(connections, memory): (u32, u64)| Target {
        what: format!("memory beside the dmabuf, KiB, {connections} connections"),
        gro: None,
        figure: Some(memory as f64),
        limit: Some(Limit::AtMost(
            (MEMORY + MEMORY_OF_CONNECTION * u64::from(connections)) as f64,
        )),
    };
    most.into_iter().map(target).collect()
}

/// A line each, and at the end how many are met.
pub(super) fn text(targets: &[Target]) -> String {
    let mut text = String::new();
    for target in targets {
        let gro = target.gro.map_or("", |gro| if gro { "yes" } else { "no" });
        let figure = target.figure.map_or("-".to_owned(), number);
        let limit = match target.limit {
            Some(Limit::AtMost(limit)) => format!("at most  {}", number(limit)),
            Some(Limit::AtLeast(limit)) => format!("at least {}", number(limit)),
            None => String::new(),
        };
        let verdict = match (target.limit, target.is_met()) {
            (None, _) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "NOT MET",
            (_, None) => "not measured",
        };
        let what = &target.what;
        let line = format!("{what:<56} {gro:<4} {figure:>9}  {limit:<16} {verdict}");
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    let limited = targets.iter().filter(|it| it.limit.is_some());
    let met = limited.clone().filter(|it| it.is_met() == Some(true));
    let _infallible = write!(text, "{} of {} met", met.count(), limited.count());
    text
}

/// With as many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.1 => format!("{value:.5}"),
        middle if middle < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::*;
    use crate::bench::Sample;

    fn all(samples: Vec<Sample>) -> Vec<Target> {
        let measured = Measured {
            words: Vec::new(),
            speed: samples.clone(),
            cost: samples,
        };
        targets(&measured, &measured.rows().unwrap())
    }

    fn figure(targets: &[Target], what: &str) -> (Option<f64>, Option<bool>) {
        let mut of = targets.iter().filter(|it| it.gro != Some(false));
        let it = of.find(|it| it.what == what).unwrap();
        (it.figure, it.is_met())
    }

    #[test]
    fn a_ratio_is_met_or_not() {
        let targets = all(vec![
            sample(BARE.name, 1 << 30, 0.0, 2.0),
            sample(OURS.name, 1 << 30, 0.0, 2.0),
            sample(VALIDATING.name, 1 << 30, 0.0, 4.0),
        ]);
        let of = |what| figure(&targets, what);
        assert_eq!(
            of("CPU in the loop, against the bare loop"),
            (Some(1.0), Some(true))
        );
        assert_eq!(of("the same, validating"), (Some(2.0), Some(false)));
        assert_eq!(of("CPU in the loop, against recv with copy"), (None, None));
    }

    #[test]
    fn many_connections_against_one() {
        let with = |connections, system, retransmitted| {
            let mut sample = sample(OURS.name, 1 << 30, 0.0, system);
            sample.series = Series::Connections;
            sample.at.connections = connections;
            sample.cost.retransmitted = retransmitted;
            sample.cost.memory = 9 << 10;
            sample
        };
        let targets = all(vec![with(1, 1.0, 5), with(64, 1.25, 0), with(256, 1.0, 1)]);
        let of = |what: String| figure(&targets, &what);
        let ratio = of("CPU in the loop, 64 connections against 1".to_owned());
        assert_eq!(ratio, (Some(1.25), Some(false)));
        let again = |n| of(format!("{n} connections: segments sent again"));
        assert_eq!(again(64), (Some(0.0), Some(true)));
        assert_eq!(again(256), (Some(1.0), Some(false)));
        // 8 MiB and 16 KiB a connection.
        let memory = |n| of(format!("memory beside the dmabuf, KiB, {n} connections")).1;
        assert_eq!((memory(1), memory(64)), (Some(false), Some(true)));
    }

    #[test]
    fn lines() {
        let target = |figure, limit| Target {
            what: "x".to_owned(),
            gro: Some(true),
            figure,
            limit,
        };
        let text = text(&[
            target(Some(0.5), Some(Limit::AtMost(0.4))),
            target(Some(0.5), Some(Limit::AtLeast(0.4))),
            target(None, Some(Limit::AtMost(1.0))),
            target(Some(2.0), None),
        ]);
        let ends: Vec<_> = text.lines().map(|it| it.rsplit("  ").next()).collect();
        let ends: Vec<_> = ends.into_iter().flatten().map(str::trim).collect();
        assert!(ends[0].ends_with("NOT MET"), "{text}");
        assert!(ends[1].ends_with("met"), "{text}");
        assert!(ends[2].ends_with("not measured"), "{text}");
        assert!(ends[3].ends_with("2.000"), "{text}");
        assert_eq!(ends[4], "1 of 3 met");
    }
}
