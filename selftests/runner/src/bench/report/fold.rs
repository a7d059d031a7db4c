//! Computes the figures of a benchmark run from the records of single transfers.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::data::{Check, Data, Host, Latency, Parts, Row};
use crate::{About, Guest, Kind, Line, Sample};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;
/// CPU seconds from which on the kernel's ticks of 4 ms can tell the fraction in user mode.
const TICKS: f64 = 0.1;

impl Data {
    /// Computes the figures from the guests' output: the lines of all files, one file after the
    /// other.
    pub(super) fn fold(lines: &[Line], host: Option<Host>) -> Result<Self> {
        let abouts = lines.iter().filter_map(|line| match line {
            Line::About(about) => Some(about),
            _ => None,
        });
        let mut of = None::<&About>;
        let mut guest = Guest::OneCpu;
        for about in abouts {
            let first = of.get_or_insert(about);
            let same = |it: &About| (it.mib, it.rounds, it.sweeps, it.kernel.clone());
            ensure!(
                same(first) == same(about),
                "files of different runs: {first:?} and {about:?}"
            );
        }
        let Some(about) = of else {
            bail!("no run in the files");
        };
        let mut groups: Vec<(Guest, Vec<&Sample>)> = Vec::new();
        for line in lines {
            let sample = match line {
                Line::About(about) => {
                    guest = about.guest;
                    continue;
                }
                Line::Sample(sample) => sample,
                _ => continue,
            };
            let same = |one: &Sample| {
                (&one.who, one.series, one.at) == (&sample.who, sample.series, sample.at)
            };
            let mut known = groups.iter_mut();
            match known.find(|(of, group)| *of == guest && group.first().is_some_and(|it| same(it)))
            {
                Some((_, group)) => group.push(sample),
                None => groups.push((guest, vec![sample])),
            }
        }
        let rows = groups.iter().filter_map(|(guest, of)| row(*guest, of));
        Ok(Self {
            kernel: about.kernel.clone(),
            mib: about.mib,
            rounds: about.rounds,
            sweeps: about.sweeps,
            rows: rows.collect(),
            echo: [true, false].map(|gathers| latency(lines, gathers)).into(),
            parts: [false, true].map(|huge| parts(lines, huge)).into(),
            host,
        })
    }
}

/// Computes the figures of one receiver under one set of conditions; `None` if only warm-up
/// transfers were made.
fn row(guest: Guest, samples: &[&Sample]) -> Option<Row> {
    let first = samples.first()?;
    let of = |kind| samples.iter().copied().filter(move |it| it.kind == kind);
    let per_gib = |it: &Sample, value: f64| value * GIB / it.bytes as f64;
    let whole: Vec<_> = of(Kind::Whole).collect();
    let nothing: Vec<_> = of(Kind::Nothing).collect();
    let counted: Vec<_> = of(Kind::Counted).collect();
    if whole.is_empty() && nothing.is_empty() {
        return None;
    }
    // By an ordinary clock a transfer that settles is one of its own.
    let settled: Vec<_> = match of(Kind::Settled).next() {
        Some(_) => of(Kind::Settled).collect(),
        None => whole.clone(),
    };
    let in_loop = |of: &[&Sample]| {
        let each = of.iter().map(|it| Some(per_gib(it, it.cost.in_loop?)));
        values(each)
    };
    let goodput = |it: &&Sample| Some(it.bytes as f64 / MIB / it.cost.seconds);
    let real_time = guest == Guest::TwoCpu;
    let most = |value: fn(&Sample) -> u64| samples.iter().map(|it| value(it)).max().unwrap_or(0);
    let by_counts = |one: fn(&Sample) -> Option<u64>, by: fn(&Sample) -> Option<f64>| {
        let each = whole.iter().filter_map(|it| Some((one(it)?, by(it)?)));
        let some = each.filter(|(one, by)| *one > 0 && *by > 0.0);
        values(some.map(|(one, by)| Some(one as f64 / by)))
    };
    let frags = |it: &Sample| Some(it.cost.counts?.frags);
    Some(Row {
        guest,
        who: first.who.clone(),
        series: first.series,
        at: first.at,
        bytes: whole.first().map_or(0, |it| it.bytes),
        warm_up: of(Kind::WarmUp).count(),
        cpu: in_loop(&settled),
        user: share(&settled, |it| {
            (it.cost.user, it.cost.in_loop.unwrap_or(0.0))
        }),
        cpu_counted: in_loop(&counted),
        goodput: match real_time {
            true => values(whole.iter().map(goodput)),
            false => Vec::new(),
        },
        wakeups: values(settled.iter().map(|it| {
            let wakeups = it.cost.wakeups? as f64;
            Some(per_gib(it, wakeups))
        })),
        calls: values(counted.iter().map(|it| {
            let calls = it.cost.calls.as_ref()?.all as f64;
            Some(per_gib(it, calls))
        })),
        calls_by: by_kind(&counted),
        check: check(&counted),
        setup: by_round(&nothing, |it| it.cost.cpu),
        setup_user: share(&nothing, |it| (it.cost.user_of_process, it.cost.cpu)),
        first: values(nothing.iter().map(|it| it.cost.in_loop)),
        frags_per_mib: by_counts(frags, |it| Some(it.bytes as f64 / MIB)),
        frags_per_recvmsg: by_counts(frags, |it| Some(it.cost.counts?.recvmsg as f64)),
        tokens_per_dontneed: by_counts(frags, |it| Some(it.cost.counts?.dontneed as f64)),
        memory: most(|it| it.cost.memory),
        alloc_fail: most(|it| it.cost.alloc_fail),
        retransmitted: most(|it| it.cost.retransmitted),
    })
}

fn by_kind(counted: &[&Sample]) -> BTreeMap<String, f64> {
    let bytes: u64 = counted.iter().map(|it| it.bytes).sum();
    let mut by = BTreeMap::new();
    for calls in counted.iter().filter_map(|it| it.cost.calls.as_ref()) {
        let known: u64 = calls.by.values().sum();
        let others = ("others".to_owned(), calls.all - known.min(calls.all));
        let each = calls.by.clone().into_iter().chain([others]);
        for (name, count) in each.filter(|(_, count)| *count > 0) {
            *by.entry(name).or_insert(0.0) += count as f64;
        }
    }
    by.values_mut()
        .for_each(|count| *count = round(*count * GIB / bytes as f64));
    by
}

fn check(counted: &[&Sample]) -> Option<Check> {
    let mut sum = Check::default();
    for sample in counted {
        let (calls, own) = (sample.cost.calls_of_process.as_ref()?, sample.cost.counts?);
        let add = |sum: &mut (u64, u64), counted: u64, own: u64| {
            sum.0 += counted;
            sum.1 += own;
        };
        // Plain receivers use recv(2), which is recvfrom; ours uses that for netlink alone.
        let recvmsg = match calls.count("recvmsg") {
            0 => calls.count("recvfrom"),
            count => count,
        };
        add(&mut sum.recvmsg, recvmsg, own.recvmsg);
        add(&mut sum.setsockopt, calls.count("setsockopt"), own.dontneed);
        if let Some(own) = own.epoll_wait {
            let counted = calls.count("epoll_wait") + calls.count("epoll_pwait");
            add(sum.epoll_wait.get_or_insert((0, 0)), counted, own);
        }
        sum.transfers += 1;
    }
    (sum.transfers > 0).then_some(sum)
}

fn latency(lines: &[Line], gathers: bool) -> Latency {
    let of = lines.iter().filter_map(|line| match line {
        Line::Echo(echo) if echo.gathers == gathers && echo.round > 0 => Some(echo),
        _ => None,
    });
    let of: Vec<_> = of.collect();
    Latency {
        gathers,
        messages: of.first().map_or(0, |it| it.messages),
        p50: values(of.iter().map(|it| Some(it.p50))),
        p99: values(of.iter().map(|it| Some(it.p99))),
        max: values(of.iter().map(|it| Some(it.max))),
    }
}

fn parts(lines: &[Line], huge: bool) -> Parts {
    let of = lines.iter().filter_map(|line| match line {
        Line::Parts(parts) if parts.huge == huge => Some(parts),
        _ => None,
    });
    let of: Vec<_> = of.collect();
    Parts {
        huge,
        make: values(of.iter().map(|it| Some(it.make))),
        bind: values(of.iter().map(|it| Some(it.bind))),
        unbind: values(of.iter().map(|it| Some(it.unbind))),
        free: values(of.iter().map(|it| Some(it.free))),
    }
}

fn values(values: impl Iterator<Item = Option<f64>>) -> Vec<f64> {
    values.flatten().map(round).collect()
}

/// Returns the sum of the first values as a fraction of the sum of the second; `None` if the sum is
/// too short for the kernel's ticks.
fn share(of: &[&Sample], value: fn(&Sample) -> (f64, f64)) -> Option<f64> {
    let sum = |sum: (f64, f64), it: (f64, f64)| (sum.0 + it.0, sum.1 + it.1);
    let (part, all) = of.iter().map(|it| value(it)).fold((0.0, 0.0), sum);
    (all >= TICKS).then(|| round((part / all).clamp(0.0, 1.0)))
}

/// Returns the mean of a value in each round.
fn by_round(of: &[&Sample], value: fn(&Sample) -> f64) -> Vec<f64> {
    let mut rounds = BTreeMap::<u32, Vec<f64>>::new();
    for sample in of {
        rounds.entry(sample.round).or_default().push(value(sample));
    }
    let mean = |all: &Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
    values(rounds.values().map(|all| Some(mean(all))))
}

/// Rounds to five significant digits: more would say nothing.
fn round(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

#[cfg(test)]
#[path = "fold_tests.rs"]
pub(super) mod tests;
