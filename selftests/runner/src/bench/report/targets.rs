//! All performance targets, each with its figure.

use super::data::{Data, Host, Row};
use super::spread::{Spread, ratios};
use super::target::{Limit, Subject, Target};
use crate::Guest;
use crate::contender::{
    COPY, HUGE, HUGE_VALIDATING, IOU_ZCRX, OURS, QUIET, QUIET_PRINTING, TRUNC, UPSTREAM, VALIDATING,
};
use crate::sweep::{Point, Series};

/// Memory in KiB that a receiver may have beside the dmabuf, before the allowance for each
/// connection.
const MEMORY_LIMIT_KIB: u64 = 8 << 10;
const MEMORY_PER_CONNECTION_KIB: u64 = 16;

/// Computes the targets of the receive path.
pub(super) fn targets(data: &Data) -> Vec<Target> {
    let mut targets = Vec::new();
    for gro in [false, true] {
        let cpu = Spread::of(&against_bare(data, Guest::OneCpu, OURS.name, gro));
        let validating = Spread::of(&against_bare(data, Guest::OneCpu, VALIDATING.name, gro));
        let limit = if gro { 1.4 } else { 1.3 };
        targets.extend(
            [
                Target::new(
                    Subject::Cpu,
                    "CPU in the loop, against the better bare loop",
                    cpu,
                    Limit::AtMost(1.05),
                ),
                Target::new(
                    Subject::CpuValidating,
                    "CPU in the loop, validating, against the better bare loop",
                    validating,
                    Limit::AtMost(limit),
                ),
            ]
            .map(|it| it.in_guest(Guest::OneCpu, gro)),
        );
    }
    for (guest, limit) in [(Guest::OneCpu, 1.0 / 200.0), (Guest::TwoCpu, 1.0 / 40.0)] {
        for gro in [false, true] {
            let calls = |who| data.compared(guest, who, gro).map(|row| &row.calls[..]);
            let target = Target::new(
                Subject::Calls,
                "system calls, against the quiet ncdevmem, both validating",
                ratio(calls(VALIDATING.name), calls(QUIET.name)),
                Limit::AtMost(limit),
            );
            targets.push(Target {
                each: true,
                ..target.in_guest(guest, gro)
            });
        }
    }
    for gro in [false, true] {
        let goodput = |who| {
            let row = data.compared(Guest::TwoCpu, who, gro);
            row.map(|row| &row.goodput[..])
        };
        let against = |who| ratio(goodput(who), goodput(TRUNC.name));
        targets.extend(
            [
                Target::new(
                    Subject::CpuTwo,
                    "CPU, against the better bare loop",
                    Spread::of(&against_bare(data, Guest::TwoCpu, OURS.name, gro)),
                    Limit::AtMost(1.0),
                ),
                Target::new(
                    Subject::Goodput,
                    "goodput, against MSG_TRUNC on the same queue",
                    against(OURS.name),
                    Limit::AtLeast(0.95),
                ),
                Target::new(
                    Subject::GoodputValidating,
                    "goodput, validating, against MSG_TRUNC",
                    against(VALIDATING.name),
                    Limit::AtLeast(0.85),
                ),
                Target::without_limit("goodput of the better bare loop, against MSG_TRUNC", {
                    let bare = data.better_bare(Guest::TwoCpu, gro);
                    ratio(bare.map(|row| &row.goodput[..]), goodput(TRUNC.name))
                }),
            ]
            .map(|it| it.in_guest(Guest::TwoCpu, gro)),
        );
    }
    targets.push(connections_target(data, 256, true));
    targets.push(echo_target(data));
    targets.extend(host_targets(data));
    for gro in [false, true] {
        let setup = |who| {
            data.compared(Guest::OneCpu, who, gro)
                .map(|it| &it.setup[..])
        };
        let target = Target::new(
            Subject::Setup,
            "set-up, against the quiet ncdevmem, both discarding",
            ratio(setup(OURS.name), setup(QUIET_PRINTING.name)),
            Limit::AtMost(0.5),
        );
        targets.push(target.in_guest(Guest::OneCpu, gro));
    }
    targets
}

/// Computes the comparisons of the second table, some of which have a limit.
pub(super) fn comparisons(data: &Data) -> Vec<Target> {
    let mut targets = Vec::new();
    for gro in [false, true] {
        let row = |who| data.compared(Guest::OneCpu, who, gro);
        let cpu = |one, other| {
            let cpu = |who| row(who).map(|row| &row.cpu[..]);
            ratio(cpu(one), cpu(other))
        };
        let words = |who| {
            let row = data.compared(Guest::Words, who, gro);
            row.map(|row| &row.cpu[..])
        };
        let copy = "CPU in the loop, against recv with copy";
        targets.extend(
            [
                // The limit is about receive coalescing.
                match gro {
                    true => Target::new(
                        Subject::Copy,
                        copy,
                        cpu(OURS.name, COPY.name),
                        Limit::AtMost(0.4),
                    ),
                    false => Target::without_limit(copy, cpu(OURS.name, COPY.name)),
                },
                Target::without_limit(
                    "the same on a processor that copies by words",
                    ratio(words(OURS.name), words(COPY.name)),
                ),
                Target::without_limit(
                    "CPU in the loop, validating, against ncdevmem",
                    cpu(VALIDATING.name, UPSTREAM.name),
                ),
                Target::without_limit(
                    "CPU in the loop, validating, against the quiet ncdevmem",
                    cpu(VALIDATING.name, QUIET.name),
                ),
                Target::without_limit(
                    "CPU in the loop, validating, against iou-zcrx",
                    cpu(VALIDATING.name, IOU_ZCRX.name),
                ),
                Target::without_limit(
                    "CPU in the loop, pages of 2 MiB against 4 KiB",
                    cpu(HUGE.name, OURS.name),
                ),
                Target::without_limit(
                    "CPU in the loop, validating, pages of 2 MiB against 4 KiB",
                    cpu(HUGE_VALIDATING.name, VALIDATING.name),
                ),
                Target::without_limit("set-up, pages of 2 MiB against 4 KiB", {
                    let setup = |who| row(who).map(|row| &row.setup[..]);
                    ratio(setup(HUGE.name), setup(OURS.name))
                }),
            ]
            .map(|it| it.in_guest(Guest::OneCpu, gro)),
        );
        for connections in [64, 256] {
            if (connections, gro) != (256, true) {
                targets.push(connections_target(data, connections, gro));
            }
            targets.extend(loss_targets(data, connections, gro));
        }
        let netkit = |netkit| {
            let at = Point {
                gro,
                netkit,
                ..Point::default()
            };
            let row = data.row(Guest::TwoCpu, OURS.name, Series::Netkit, &at);
            row.map(|row| &row.goodput[..])
        };
        let target = Target::new(
            Subject::Netkit,
            "goodput, through a netkit's lease against direct",
            ratio(netkit(true), netkit(false)),
            Limit::AtLeast(0.9),
        );
        targets.push(target.in_guest(Guest::TwoCpu, gro));
    }
    targets.extend(memory_targets(data));
    targets
}

/// Divides one receiver's values by another's, round by round, and returns the spread of the
/// ratios.
fn ratio(one: Option<&[f64]>, other: Option<&[f64]>) -> Option<Spread> {
    Spread::of(&ratios(one?, other?))
}

/// Divides a receiver's CPU time by that of the better bare loop in the same guest, round by round.
pub(super) fn against_bare(data: &Data, guest: Guest, who: &str, gro: bool) -> Vec<f64> {
    let pair = data
        .compared(guest, who, gro)
        .zip(data.better_bare(guest, gro));
    pair.map_or_else(Vec::new, |(one, bare)| ratios(&one.cpu, &bare.cpu))
}

pub(super) fn with_connections(
    data: &Data,
    guest: Guest,
    connections: u32,
    gro: bool,
) -> Option<&Row> {
    let at = Point {
        connections,
        gro,
        ..Point::default()
    };
    data.row(guest, OURS.name, Series::Connections, &at)
}

fn connections_target(data: &Data, connections: u32, gro: bool) -> Target {
    let with = |connections| {
        let row = with_connections(data, Guest::OneCpu, connections, gro);
        row.map(|row| &row.cpu[..])
    };
    let target = Target::new(
        Subject::Connections,
        format!("CPU in the loop, {connections} connections against 1"),
        ratio(with(connections), with(1)),
        Limit::AtMost(1.15),
    );
    target.in_guest(Guest::OneCpu, gro)
}

/// Targets for packets without a buffer at the NIC and for retransmitted segments: the larger count
/// of both guests, to be 0.
fn loss_targets(data: &Data, connections: u32, gro: bool) -> [Target; 2] {
    let rows =
        [Guest::OneCpu, Guest::TwoCpu].map(|guest| with_connections(data, guest, connections, gro));
    let most = |value: fn(&Row) -> u64| {
        let values = rows.iter().flatten().map(|row| value(row) as f64);
        let most = values.reduce(f64::max);
        most.and_then(|most| Spread::of(&[most]))
    };
    let target = |what: &str, figure| Target {
        gro: Some(gro),
        ..Target::new(
            Subject::Lost,
            format!("{connections} connections: {what}"),
            figure,
            Limit::AtMost(0.0),
        )
    };
    [
        target("no buffer at the NIC, times", most(|row| row.alloc_fail)),
        target("segments sent again", most(|row| row.retransmitted)),
    ]
}

fn echo_target(data: &Data) -> Target {
    let of = |gathers| {
        let of = data.echo.iter().find(|it| it.gathers == gathers);
        of.map(|it| &it.p99[..])
    };
    Target {
        guest: Some(Guest::OneCpu),
        ..Target::new(
            Subject::Echo,
            "p99 of a 64-byte echo, against the same with gathering off",
            ratio(of(true), of(false)),
            Limit::AtMost(1.1),
        )
    }
}

fn host_targets(data: &Data) -> [Target; 2] {
    let of = |value: fn(&Host) -> Option<f64>| {
        let value = data.host.as_ref().and_then(value);
        value.and_then(|value| Spread::of(&[value]))
    };
    [
        Target::new(
            Subject::UserSpace,
            "user space per frag, on the host, in ns",
            of(|it| it.recv_frag_ns),
            Limit::AtMost(15.0),
        ),
        Target::new(
            Subject::Validation,
            "validation on the host, bytes a second against memcmp",
            of(|it| it.validate_fraction_of_memcmp),
            Limit::AtLeast(0.8),
        ),
    ]
}

/// Targets for the peak memory of `devmem-tcp recv`, by number of connections.
fn memory_targets(data: &Data) -> Vec<Target> {
    let mut most = std::collections::BTreeMap::<u32, u64>::new();
    let is_ours = |row: &&Row| row.who.starts_with(OURS.name);
    for row in data.rows.iter().filter(is_ours) {
        let entry = most.entry(row.at.connections).or_default();
        *entry = row.memory.max(*entry);
    }
    let target = |(connections, memory): (u32, u64)| {
        let most = MEMORY_LIMIT_KIB + MEMORY_PER_CONNECTION_KIB * u64::from(connections);
        Target::new(
            Subject::Memory,
            format!("memory beside the dmabuf, KiB, {connections} connections"),
            Spread::of(&[memory as f64]),
            Limit::AtMost(most as f64),
        )
    };
    most.into_iter().map(target).collect()
}

#[cfg(test)]
#[path = "targets_tests.rs"]
mod tests;
