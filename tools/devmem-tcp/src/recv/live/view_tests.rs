use common::text::width;
use devmem::Telemetry;
use netdev::DmabufId;

use super::second::{Connection, Queue, Second, Tokens};
use super::view::View;
use crate::golden;
use crate::recv::pool::{Pool, State};
use crate::style::Style;

const TITLE: &str = "recv enp129s0f1np1";

fn connection(number: u64) -> Connection {
    Connection {
        peer: match number % 3 {
            0 => format!(
                "[2001:db8:1234:5678:9abc:def0:1234:{:x}]:{}",
                0x5670 + number,
                40_000 + number
            ),
            1 => format!("[2001:db8::{number:x}]:{}", 40_000 + number),
            _ => format!("192.0.2.{number}:{}", 40_000 + number),
        },
        queue: (number != 5).then_some(12 + number as u32 % 4),
        napi_id: Some(8193),
        bytes: (5 << 40) >> (3 * number).min(60),
        mib_per_second: 12_345.6 / (number + 1) as f64,
        frags: (5 << 28) >> (3 * number).min(60),
        tokens: Tokens {
            held: 511 / (number + 1),
            kept: 60_000 >> number.min(60),
            ..Tokens::default()
        },
        queued_bytes: (6 << 20) >> number.min(60),
        paused_seconds: (number == 2).then_some(12.3),
    }
}

fn queue(number: u32) -> Queue {
    Queue {
        queue: (number < 3).then_some(12 + number),
        napi_id: Some(8224 + number),
        connections: 3,
        ended: 1,
        bytes: (6 << 40) >> (7 * number).min(60),
        mib_per_second: 23_456.7 / f64::from(number + 1),
        frags: 1 << 30,
        alloc_fail: (number < 3).then_some(u64::from(number) * 1234),
        hw_drops: (number < 2).then_some(u64::from(number) * 567_890),
    }
}

fn telemetry() -> Telemetry {
    let mut telemetry = Telemetry::default();
    for value in [52, 1448, 4096, 4096, 4096, 4096] {
        telemetry.frag_size.record(value);
    }
    for value in 1..200_u64 {
        telemetry.frags_per_call.record(value % 64 + 1);
        telemetry.hold_time.record(value * value * value);
    }
    telemetry.held_at_flush.record(1024);
    telemetry
}

fn second(peers: u64, queues: u32, pools: u64) -> Second {
    Second {
        at: 3_725.4,
        bytes: 6 << 40,
        mib_per_second: 34_567.8,
        mean_mib_per_second: 31_234.5,
        frags: 3 << 30,
        tokens: Tokens {
            issued: 3_221_225_472,
            returned: 3_221_165_000,
            held: 472,
            kept: 60_000,
        },
        connections: (0..peers).map(connection).collect(),
        ended: 4,
        queues: (0..queues).map(queue).collect(),
        memory: State {
            pools: (0..pools)
                .map(|number| {
                    Pool::of(
                        DmabufId::new(9 + number as u32),
                        262_144 >> (6 * number).min(60),
                    )
                })
                .collect(),
            alloc_fail: Some(1234),
            hw_drops: Some(0),
            ..State::default()
        },
        telemetry: (&telemetry()).into(),
        missing: 1,
        warning: None,
    }
}

fn lines(second: &Second, style: Style, columns: usize, rows: usize) -> Vec<String> {
    let view = View {
        title: TITLE,
        style,
        second,
        telemetry: &telemetry(),
        columns,
        rows,
    };
    view.lines()
}

#[test]
fn golden_live() {
    let second = second(12, 4, 2);
    for columns in [60, 80, 160] {
        let lines = lines(&second, Style::OFF, columns - 1, 23);
        golden::check(&format!("live.{columns}.txt"), &(lines.join("\n") + "\n"));
    }
    let lines = lines(&second, Style::OFF, 159, 60);
    golden::check("live.tall.txt", &(lines.join("\n") + "\n"));
}

/// Number of entries of a kind that the view's last line counts, as in `+8 more peers, +1 queue`.
fn counted(last: &str, what: &str) -> usize {
    let of = |words: &str| -> Option<usize> {
        let (count, name) = words.strip_prefix('+')?.split_once(' ')?;
        let name = name.strip_prefix("more ").unwrap_or(name);
        (name.trim_end_matches('s') == what).then(|| count.parse().unwrap())
    };
    last.split(", ").find_map(of).unwrap_or(0)
}

#[test]
fn whatever_is_not_shown_is_counted() {
    for (peers, queues, pools) in [
        (12, 4, 2),
        (40, 1, 1),
        (0, 4, 1),
        (3, 64, 64),
        (1000, 16, 16),
    ] {
        let mut second = second(peers, queues, pools);
        for queue in &mut second.queues {
            queue.alloc_fail = Some(987_654);
        }
        for columns in [20, 59, 79, 99, 159, 300] {
            for rows in (2..30).chain([40, 69]) {
                let lines = lines(&second, Style::OFF, columns, rows);
                let all = lines.join("\n");
                assert!(lines.len() <= rows, "{rows}: {all}");
                let last = lines.last().unwrap();
                let shown = all.matches("]:4").count() + all.matches("192.0.2.").count();
                assert_eq!(shown + counted(last, "peer"), peers as usize, "{all}");
                let shown = all.matches("dmabuf ").count();
                assert_eq!(shown + counted(last, "dmabuf"), pools as usize, "{all}");
                let shown = all.matches(" 987654").count();
                assert_eq!(shown + counted(last, "queue"), queues as usize, "{all}");
            }
        }
    }
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for (peers, queues, pools) in [(12, 4, 2), (1, 1, 1), (40, 64, 3)] {
        let second = second(peers, queues, pools);
        for columns in (59..100).chain((100..300).step_by(7)) {
            for rows in [0, 1, 2, 3, 5, 10, 23, 30, 60] {
                for line in lines(&second, Style::ON, columns, rows) {
                    assert!(width(&line) <= columns, "{columns}: {line}");
                }
            }
        }
    }
}

#[test]
fn peers_stand_side_by_side_where_one_table_is_too_long() {
    let second = second(12, 4, 2);
    let heads = |rows| {
        let all = lines(&second, Style::OFF, 159, rows).join("\n");
        all.matches("peer ").count()
    };
    assert_eq!((heads(23), heads(60)), (2, 1));
}

#[test]
fn an_estimate_is_called_one() {
    let mut second = second(1, 1, 1);
    let view = |second: &Second| lines(second, Style::OFF, 120, 40).join("\n");
    let counted = view(&second);
    assert!(counted.contains("] 245760 of 262144 niovs taken, most seen at a look 262144"));
    assert!(counted.contains("about 31234.5 on average") && counted.contains("<= 4096"));
    // Our own count, where the NIC is out of reach.
    second.memory.pools[0].inflight = None;
    assert!(view(&second).contains("] about 245760 of 262144 niovs"));
}
