//! Tests of the figures that are computed from records of transfers.

use super::*;
use crate::contender::{BARE, LOWAT, OURS};
use crate::counters::Calls;
use crate::echo::Echo;
use crate::sweep::{Point, Series};
use crate::{Cost, Counts, TINY_TRANSFER};

pub(in crate::report) fn about(guest: Guest) -> Line {
    Line::About(About {
        kernel: "7.3".to_owned(),
        guest,
        mib: 32,
        rounds: 3,
        sweeps: 2,
    })
}

pub(in crate::report) fn sample(who: &str, kind: Kind, round: u32, bytes: u64) -> Sample {
    Sample {
        who: who.to_owned(),
        series: Series::Compare,
        kind,
        round,
        at: Point::default(),
        bytes,
        cost: Cost {
            seconds: 2.0,
            cpu: 5.0,
            in_loop: Some(2.0),
            user: 1.0,
            ..Cost::default()
        },
    }
}

fn line(sample: Sample) -> Line {
    Line::Sample(Box::new(sample))
}

/// A row of the comparison that has one CPU second per GiB in each of three rounds.
pub(in crate::report) fn compared(guest: Guest, who: &str) -> Row {
    let sample = sample(who, Kind::Whole, 1, 1 << 30);
    let row = row(guest, &[&sample]).unwrap();
    Row {
        cpu: vec![1.0; 3],
        ..row
    }
}

pub(in crate::report) fn of(rows: Vec<Row>) -> Data {
    Data {
        rows,
        ..Data::fold(&[about(Guest::OneCpu)], None).unwrap()
    }
}

pub(in crate::report) fn some() -> Data {
    let mut counted = sample(OURS.name, Kind::Counted, 1, 1 << 20);
    counted.cost.calls = Some(Calls {
        all: 7,
        by: [("recvmsg".to_owned(), 4)].into(),
    });
    let samples = [
        sample(OURS.name, Kind::WarmUp, 0, 1 << 20),
        sample(OURS.name, Kind::Whole, 1, 1 << 20),
        counted,
        sample(OURS.name, Kind::Nothing, 1, TINY_TRANSFER),
    ];
    let lines = [about(Guest::TwoCpu)].into_iter();
    let lines: Vec<Line> = lines.chain(samples.map(line)).collect();
    Data::fold(&lines, None).unwrap()
}

#[test]
fn a_row_is_about_the_loop() {
    let mut nothing = sample(BARE.name, Kind::Nothing, 1, TINY_TRANSFER);
    (nothing.cost.cpu, nothing.cost.user_of_process) = (1.0, 0.25);
    let mut dearer = nothing.clone();
    dearer.cost.cpu = 2.0;
    let samples = [
        sample(BARE.name, Kind::Whole, 1, 1 << 29),
        nothing,
        sample(BARE.name, Kind::Whole, 2, 1 << 29),
        dearer,
    ];
    let lines = [about(Guest::OneCpu)].into_iter();
    let lines: Vec<Line> = lines.chain(samples.map(line)).collect();
    let data = Data::fold(&lines, None).unwrap();
    let [row] = &data.rows[..] else {
        panic!("{data:?}");
    };
    assert_eq!((&row.cpu[..], row.user), (&[4.0, 4.0][..], Some(0.5)));
    assert_eq!(
        (&row.setup[..], row.setup_user),
        (&[1.5][..], Some(0.16667))
    );
    // By a clock of instructions there is no goodput to tell.
    assert_eq!(row.goodput, Vec::<f64>::new());
}

#[test]
fn by_an_ordinary_clock_goodput_and_cpu_are_of_different_transfers() {
    let mut whole = sample(OURS.name, Kind::Whole, 1, 1 << 30);
    whole.cost.in_loop = None;
    let mut settled = sample(OURS.name, Kind::Settled, 1, 1 << 30);
    settled.cost.seconds = 100.0;
    let lines = [about(Guest::TwoCpu), line(whole), line(settled)];
    let row = &Data::fold(&lines, None).unwrap().rows[0];
    assert_eq!((&row.cpu[..], &row.goodput[..]), (&[2.0][..], &[512.0][..]));
}

#[test]
fn a_few_ticks_tell_nothing() {
    let mut short = sample(OURS.name, Kind::Whole, 1, 1 << 20);
    short.cost.in_loop = Some(0.01);
    let row = |sample: &Sample| row(Guest::OneCpu, &[sample]).unwrap();
    assert_eq!(row(&short).user, None);
    short.cost.in_loop = Some(4.0);
    assert_eq!(row(&short).user, Some(0.25));
}

#[test]
fn warm_ups_are_counted_and_left_out() {
    let data = some();
    let row = &data.rows[0];
    assert_eq!((row.warm_up, row.cpu.len(), row.calls.len()), (1, 1, 1));
    assert_eq!(row.goodput, [0.5]);
    let warm = [about(Guest::OneCpu), line(sample("x", Kind::WarmUp, 0, 1))];
    assert!(Data::fold(&warm, None).unwrap().rows.is_empty());
}

#[test]
fn guests_are_told_apart() {
    let of = |guest| {
        [
            about(guest),
            line(sample(OURS.name, Kind::Whole, 1, 1 << 30)),
        ]
    };
    let lines = [of(Guest::OneCpu), of(Guest::TwoCpu), of(Guest::OneCpu)];
    let data = Data::fold(&lines.concat(), None).unwrap();
    let rows: Vec<_> = data
        .rows
        .iter()
        .map(|it| (it.guest, it.cpu.len()))
        .collect();
    assert_eq!(rows, [(Guest::OneCpu, 2), (Guest::TwoCpu, 1)]);
}

#[test]
fn files_of_different_runs_are_refused() {
    let mut other = about(Guest::TwoCpu);
    if let Line::About(about) = &mut other {
        about.mib = 64;
    }
    let error = Data::fold(&[about(Guest::OneCpu), other], None).unwrap_err();
    assert!(error.to_string().contains("different runs"), "{error}");
    assert!(Data::fold(&[], None).is_err());
}

#[test]
fn system_calls_by_kind() {
    let row = &some().rows[0];
    assert_eq!(row.calls, [7.0 * 1024.0]);
    let by: Vec<_> = row
        .calls_by
        .iter()
        .map(|(kind, count)| (&kind[..], *count))
        .collect();
    assert_eq!(by, [("others", 3.0 * 1024.0), ("recvmsg", 4.0 * 1024.0)]);
}

#[test]
fn counts_are_checked_against_each_other() {
    let with = |recvmsg, setsockopt, own: u64, dontneed| {
        let mut sample = sample(OURS.name, Kind::Counted, 1, 1 << 20);
        let by = [
            ("recvmsg", recvmsg),
            ("setsockopt", setsockopt),
            ("epoll_wait", 100),
        ];
        sample.cost.calls_of_process = Some(Calls {
            all: 1000,
            by: by.map(|(kind, count)| (kind.to_owned(), count)).into(),
        });
        sample.cost.counts = Some(Counts {
            recvmsg: own,
            frags: 1,
            dontneed,
            epoll_wait: Some(100),
        });
        check(&[&sample]).unwrap().agrees()
    };
    assert!(with(500, 60, 500, 50));
    assert!(!with(500, 60, 501, 50), "recvmsg");
    assert!(!with(500, 60, 500, 61), "more returns than setsockopt");
}

#[test]
fn the_better_bare_loop_is_the_cheaper() {
    let mut lowat = compared(Guest::OneCpu, LOWAT.name);
    lowat.cpu = vec![0.9, 3.0, 0.8];
    let data = of(vec![compared(Guest::OneCpu, BARE.name), lowat]);
    let better = |guest| data.better_bare(guest, true).map(|row| &row.who[..]);
    assert_eq!(better(Guest::OneCpu), Some(LOWAT.name));
    assert_eq!(better(Guest::TwoCpu), None);
}

#[test]
fn echoes_are_told_apart_and_warm_ups_left_out() {
    let echo = |gathers, round, p99| {
        Line::Echo(Echo {
            gathers,
            round,
            messages: 10,
            p50: 1.0,
            p99,
            max: 9.0,
        })
    };
    let lines = [
        about(Guest::OneCpu),
        echo(true, 0, 8.0),
        echo(true, 1, 2.0),
        echo(false, 1, 3.0),
    ];
    let data = Data::fold(&lines, None).unwrap();
    let p99: Vec<_> = data.echo.iter().map(|it| (it.gathers, it.p99[0])).collect();
    assert_eq!(p99, [(true, 2.0), (false, 3.0)]);
}
