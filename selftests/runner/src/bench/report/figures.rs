//! Figures per GiB, out of single transfers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::bench::contender::{ALL, OURS};
use crate::bench::sweep::{Point, Series};
use crate::bench::{Cost, NOTHING, Sample};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// What was measured.
pub(super) struct Measured {
    /// In a guest that counts instructions for time.
    pub(super) cost: Vec<Sample>,
    /// In one such guest that moves words where the other moves strings of bytes.
    pub(super) words: Vec<Sample>,
    /// In a guest that runs as fast as it can.
    pub(super) speed: Vec<Sample>,
}

/// Of one contender under one set of conditions.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) who: String,
    pub(super) series: Series,
    #[serde(flatten)]
    pub(super) at: Point,
    /// CPU seconds a GiB, in the loop.
    pub(super) cpu: f64,
    /// Its parts.
    pub(super) user: f64,
    pub(super) system: f64,
    /// CPU seconds to begin and end.
    pub(super) setup: Option<f64>,
    /// System calls a GiB.
    pub(super) calls: Option<f64>,
    pub(super) frags_per_mib: Option<f64>,
    pub(super) frags_per_recvmsg: Option<f64>,
    pub(super) tokens_per_dontneed: Option<f64>,
    /// MiB a second.
    pub(super) goodput: f64,
    /// The most memory that it ever had, in KiB.
    pub(super) memory: u64,
    /// The most of one transfer.
    pub(super) alloc_fail: u64,
    pub(super) retransmitted: u64,
}

impl Measured {
    pub(super) fn read(cost: &Path, words: &Path, speed: &Path) -> Result<Self> {
        let read = |path: &Path| -> Result<Vec<Sample>> {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let lines = text.lines().map(serde_json::from_str);
            let samples = lines.collect::<Result<Vec<_>, _>>()?;
            ensure!(!samples.is_empty(), "{}: no samples", path.display());
            Ok(samples)
        };
        Ok(Self {
            cost: read(cost)?,
            words: read(words)?,
            speed: read(speed)?,
        })
    }

    /// All that there are, the comparison first.
    pub(super) fn rows(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for gro in [false, true] {
            let at = Point {
                gro,
                ..Point::default()
            };
            for contender in &ALL {
                rows.extend(self.row(contender.name, Series::Compare, &at)?);
            }
        }
        for series in Series::SWEEPS {
            for point in series.points() {
                rows.extend(self.row(OURS.name, series, &point)?);
            }
        }
        Ok(rows)
    }

    /// None if there was no such transfer.
    fn row(&self, who: &str, series: Series, at: &Point) -> Result<Option<Row>> {
        let costs = Of::select(&self.cost, who, series, at);
        let speeds = Of::select(&self.speed, who, series, at);
        if costs.whole.is_empty() && speeds.whole.is_empty() {
            return Ok(None);
        }
        ensure!(
            !costs.whole.is_empty() && !speeds.whole.is_empty(),
            "{who}, {at:?}: of one guest only"
        );
        let (cpu, user) = costs.in_loop();
        let both = || costs.whole.iter().chain(&speeds.whole);
        let most = |value: fn(&Cost) -> u64| both().map(|it| value(&it.cost)).max().unwrap_or(0);
        Ok(Some(Row {
            who: who.to_owned(),
            series,
            at: *at,
            cpu,
            user,
            system: cpu - user,
            setup: median(costs.nothing.iter().map(|it| it.cost.cpu).collect()),
            calls: costs.calls(),
            frags_per_mib: costs.counted(|it| it.frags, |_, bytes| bytes as f64 / MIB),
            frags_per_recvmsg: costs.counted(|it| it.frags, |it, _| it.recvmsg as f64),
            tokens_per_dontneed: costs.counted(|it| it.frags, |it, _| it.dontneed as f64),
            goodput: median(speeds.whole.iter().map(|it| it.goodput()).collect()).unwrap_or(0.0),
            memory: most(|cost| cost.memory),
            alloc_fail: most(|cost| cost.alloc_fail),
            retransmitted: most(|cost| cost.retransmitted),
        }))
    }

    /// CPU of a contender's loop where words are moved, not strings of bytes.
    pub(super) fn words(&self, who: &str, gro: bool) -> Option<f64> {
        let at = Point {
            gro,
            ..Point::default()
        };
        let of = Of::select(&self.words, who, Series::Compare, &at);
        (!of.whole.is_empty()).then(|| of.in_loop().0)
    }

    /// One's goodput against another's, round by round: what the rounds had in common cancels out.
    pub(super) fn goodput(
        &self,
        one: (&str, Series, &Point),
        other: (&str, Series, &Point),
    ) -> Option<f64> {
        let of = |(who, series, at)| Of::select(&self.speed, who, series, at).whole;
        let pairs = of(one).into_iter().zip(of(other));
        median(
            pairs
                .map(|(one, other)| one.goodput() / other.goodput())
                .collect(),
        )
    }
}

impl Sample {
    /// MiB a second.
    fn goodput(&self) -> f64 {
        self.bytes as f64 / MIB / self.cost.seconds
    }
}

/// Transfers of one kind.
struct Of<'a> {
    whole: Vec<&'a Sample>,
    /// Of next to nothing.
    nothing: Vec<&'a Sample>,
    /// Of both sizes, with the system calls counted, which costs.
    counted: Vec<&'a Sample>,
}

impl<'a> Of<'a> {
    fn select(samples: &'a [Sample], who: &str, series: Series, at: &Point) -> Self {
        let all = samples.iter();
        let of = all.filter(|it| it.who == who && it.series == series && it.at == *at);
        let (counted, of): (Vec<_>, Vec<_>) = of.partition(|it| it.cost.calls.is_some());
        let (whole, nothing) = of.into_iter().partition(|it| it.bytes > NOTHING);
        Self {
            whole,
            nothing,
            counted,
        }
    }

    /// CPU seconds a GiB in the loop, and those in user mode: these the kernel knows by its ticks
    /// only, so their share is that of all transfers together.
    fn in_loop(&self) -> (f64, f64) {
        let spent = |it: &&Sample| Some((it.cost.in_loop?, it.cost.user, it.bytes));
        let all: Vec<_> = self.whole.iter().filter_map(spent).collect();
        let per_gib = all.iter().map(|(cpu, _, bytes)| cpu * GIB / *bytes as f64);
        let cpu = median(per_gib.collect()).unwrap_or(0.0);
        let sum = all
            .iter()
            .fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        let share = if sum.0 > 0.0 { sum.1 / sum.0 } else { 0.0 };
        (cpu, cpu * share.clamp(0.0, 1.0))
    }

    /// System calls a GiB, without those to begin and end.
    fn calls(&self) -> Option<f64> {
        let of = |whole: bool| {
            let mut counted = self.counted.iter();
            let it = counted.find(|it| (it.bytes > NOTHING) == whole)?;
            Some((it.cost.calls? as f64, it.bytes as f64))
        };
        let ((all, bytes), (nothing, _)) = (of(true)?, of(false)?);
        Some((all - nothing) * GIB / bytes)
    }

    /// The median of one count by another, or by the bytes.
    fn counted(
        &self,
        one: fn(&super::Counts) -> u64,
        by: fn(&super::Counts, u64) -> f64,
    ) -> Option<f64> {
        let counts = self.whole.iter().filter_map(|it| {
            let counts = it.cost.counts?;
            let by = by(&counts, it.bytes);
            (one(&counts) > 0 && by > 0.0).then(|| one(&counts) as f64 / by)
        });
        median(counts.collect())
    }
}

/// The middle one, or the mean of the two in the middle; `None` of none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::Counts;
    use crate::bench::contender::{BARE, TRUNC};

    pub(in crate::bench::report) fn sample(
        who: &str,
        bytes: u64,
        user: f64,
        system: f64,
    ) -> Sample {
        Sample {
            who: who.to_owned(),
            series: Series::Compare,
            at: Point::default(),
            bytes,
            cost: Cost {
                seconds: 2.0,
                cpu: user + system,
                in_loop: Some(user + system),
                user,
                ..Cost::default()
            },
        }
    }

    fn measured(samples: Vec<Sample>) -> Measured {
        Measured {
            words: Vec::new(),
            speed: samples.clone(),
            cost: samples,
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_row_is_about_the_loop() {
        let mut whole = sample(BARE.name, 1 << 29, 1.0, 1.0);
        whole.cost.cpu = 5.0;
        let measured = measured(vec![whole, sample(BARE.name, NOTHING, 0.0, 1.0)]);
        let rows = measured.rows().unwrap();
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.cpu, row.user, row.system), (4.0, 2.0, 2.0));
        assert_eq!((row.setup, row.goodput), (Some(1.0), 256.0));
    }

    #[test]
    fn system_calls_are_those_of_the_loop() {
        let mut whole = sample(BARE.name, 1 << 20, 0.0, 0.0);
        whole.cost.calls = Some(30);
        let mut nothing = sample(BARE.name, NOTHING, 0.0, 0.0);
        nothing.cost.calls = Some(10);
        let samples = [whole, nothing, sample(BARE.name, 1 << 30, 0.0, 1.0)];
        let row = &measured(samples.into()).rows().unwrap()[0];
        assert_eq!((row.calls, row.cpu), (Some(20.0 * 1024.0), 1.0));
    }

    #[test]
    fn counts_and_the_worst_of_all() {
        let mut one = sample(BARE.name, 1 << 20, 0.0, 1.0);
        one.cost.counts = Some(Counts {
            recvmsg: 4,
            frags: 256,
            dontneed: 2,
        });
        one.cost.retransmitted = 3;
        let mut other = one.clone();
        (other.cost.retransmitted, other.cost.memory) = (0, 7);
        let row = &measured(vec![one, other]).rows().unwrap()[0];
        assert_eq!(row.frags_per_mib, Some(256.0));
        assert_eq!(row.frags_per_recvmsg, Some(64.0));
        assert_eq!(row.tokens_per_dontneed, Some(128.0));
        assert_eq!((row.retransmitted, row.memory), (3, 7));
    }

    #[test]
    fn rates_are_compared_round_by_round() {
        let fast = |who, seconds| {
            let mut sample = sample(who, 1 << 30, 0.0, 1.0);
            sample.cost.seconds = seconds;
            sample
        };
        // The machine was busy in the second round.
        let rounds = [(1.0, 2.0), (10.0, 20.0), (1.0, 4.0)];
        let samples = rounds.map(|(a, b)| [fast(TRUNC.name, a), fast(OURS.name, b)]);
        let measured = measured(samples.into_iter().flatten().collect());
        let at = &Point::default();
        let one = (OURS.name, Series::Compare, at);
        assert_eq!(
            measured.goodput(one, (TRUNC.name, Series::Compare, at)),
            Some(0.5)
        );
    }
}
