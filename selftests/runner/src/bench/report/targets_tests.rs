//! Tests of targets that are met, missed, or not measured.

use super::super::fold::tests::{compared, of};
use super::*;
use crate::contender::{BARE, LOWAT};

fn find(targets: &[Target], about: Subject, guest: Guest) -> &Target {
    let is_it = |it: &&Target| it.about == about && it.guest == Some(guest) && it.gro == Some(true);
    targets.iter().find(is_it).unwrap()
}

fn with(guest: Guest, who: &str, set: impl FnOnce(&mut Row)) -> Row {
    let mut row = compared(guest, who);
    set(&mut row);
    row
}

#[test]
fn ours_is_measured_by_the_better_loop() {
    let one = Guest::OneCpu;
    let data = of(vec![
        compared(one, BARE.name),
        with(one, LOWAT.name, |row| row.cpu = vec![0.9; 3]),
        compared(one, OURS.name),
    ]);
    let targets = targets(&data);
    let target = find(&targets, Subject::Cpu, one);
    assert!((target.figure.unwrap().median - 1.0 / 0.9).abs() < 1e-9);
    assert_eq!(target.is_met(), Some(false));
    // Not measured is neither met nor missed.
    let target = find(&targets, Subject::CpuTwo, Guest::TwoCpu);
    assert_eq!((target.is_met(), target.verdict()), (None, "not measured"));
}

#[test]
fn each_round_must_meet_some_targets() {
    let two = Guest::TwoCpu;
    let data = |ours: Vec<f64>| {
        of(vec![
            with(two, VALIDATING.name, |row| row.calls = ours),
            with(two, QUIET.name, |row| row.calls = vec![4000.0; 3]),
        ])
    };
    let met = |ours| find(&targets(&data(ours)), Subject::Calls, two).is_met();
    assert_eq!(met(vec![10.0, 100.0, 20.0]), Some(true));
    assert_eq!(met(vec![10.0, 101.0, 20.0]), Some(false));
}

#[test]
fn goodput_is_met_by_the_median() {
    let two = Guest::TwoCpu;
    let data = of(vec![
        with(two, TRUNC.name, |row| row.goodput = vec![100.0; 3]),
        with(two, OURS.name, |row| row.goodput = vec![50.0, 96.0, 97.0]),
        with(two, VALIDATING.name, |row| row.goodput = vec![84.0; 3]),
    ]);
    let targets = targets(&data);
    let met = |about| find(&targets, about, two).is_met();
    assert_eq!(met(Subject::Goodput), Some(true));
    assert_eq!(met(Subject::GoodputValidating), Some(false));
}

#[test]
fn the_host_has_its_place() {
    let figures = |host| {
        let data = Data { host, ..of(vec![]) };
        let targets = targets(&data).into_iter();
        let of = targets.filter(|it| matches!(it.about, Subject::UserSpace | Subject::Validation));
        of.map(|it| it.is_met()).collect::<Vec<_>>()
    };
    assert_eq!(figures(None), [None, None]);
    let host = Host {
        recv_frag_ns: Some(12.5),
        validate_fraction_of_memcmp: Some(0.7),
    };
    assert_eq!(figures(Some(host)), [Some(true), Some(false)]);
}

#[test]
fn the_worst_of_both_guests_counts() {
    let at = |guest, retransmitted| {
        with(guest, OURS.name, |row| {
            row.series = Series::Connections;
            row.at.connections = 64;
            row.retransmitted = retransmitted;
            row.memory = 9 << 10;
        })
    };
    let data = of(vec![at(Guest::OneCpu, 0), at(Guest::TwoCpu, 2)]);
    let comparisons = comparisons(&data);
    let of = |what: &str| {
        comparisons
            .iter()
            .find(|it| it.what == what && it.gro != Some(false))
    };
    assert_eq!(
        of("64 connections: segments sent again").unwrap().is_met(),
        Some(false)
    );
    // 8 MiB and 16 KiB a connection.
    let memory = of("memory beside the dmabuf, KiB, 64 connections").unwrap();
    assert_eq!(memory.is_met(), Some(true));
}
