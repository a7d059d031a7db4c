//! The text of `docs/performance.md`, and what `make bench` prints.

use std::fmt::Write;

use super::data::Data;
use super::missed;
use super::target;
use super::target::{Target, gro_text, guest_text, processors, summary};
use super::targets::{comparisons, targets};
use super::text;
use crate::Guest;
use crate::contender::ALL;

/// Explanation of the tables' columns, and of the instrument that each figure comes from.
const COLUMNS: &str = "\
CPU s/GiB    CPU seconds a GiB of payload: the CPU clock of the receiver's process (CLOCK_PROCESS_CPUTIME_ID),
             from before the first byte until the receiver has nothing to do any more, in transfers where nothing is
             counted. With one processor the guest counts instructions for time, 2 ns each. The NIC's work is done by
             threads of the kernel (threaded NAPI) and is not in it.
/bare        The same against the better of the two bare loops, by the median of the rounds' ratios.
user         The part in user mode, as the kernel's ticks tell (getrusage); left out where these were too few.
set-up       CPU seconds of a process that receives 4 KiB, from its start to its end (getrusage): the mean of two.
             The kernel unmaps and frees a bound dmabuf in a worker of its own, later, which is in no figure.
first        CPU seconds in the loop for the first 4 KiB. They are in CPU s/GiB, too: ncdevmem then maps all of its memory.
calls/GiB    All system calls from the first byte to the last, by the tracepoint raw_syscalls:sys_enter
             (perf_event_open), in transfers of their own, which with two processors come after all others. Nothing
             stops the receiver.
sleeps/GiB   Voluntary context switches: how often the receiver went to sleep, and was woken.
frags        The receiver's own counts: a MiB, a call of recvmsg, a call of SO_DEVMEM_DONTNEED.
MiB/s        From the first byte sent to the receiver's close, by the guest's clock, in transfers of their own.
             /TRUNC: against MSG_TRUNC.
mem          The most private memory that a receiver ever had (VmHWM without files).
alloc, retr  Packets that the NIC had no buffer for (qstats), and TCP segments sent again: the worst transfer. The
             sender's probes for lost tails, which a late receiver provokes, are off (tcp_early_retrans = 0).";

/// Formats the text that `make bench` prints.
pub(super) fn terminal(data: &Data) -> String {
    let (targets, comparisons) = (targets(data), comparisons(data));
    let mut text = String::new();
    for guest in [Guest::OneCpu, Guest::TwoCpu] {
        for gro in [false, true] {
            let _infallible = writeln!(
                text,
                "\n{}, {} receive coalescing (rx-gro-hw)\n\n{}",
                guest_title(guest),
                gro_text(Some(gro)),
                text::cost_table(data, guest, gro) + "\n" + &text::count_table(data, guest, gro)
            );
        }
    }
    let _infallible = write!(
        text,
        "{COLUMNS}\n\nsystem calls counted / by the receivers' own counts\n{}\n\
         set-up\n{}\necho of 64 bytes\n{}\n{}\n{}",
        text::check_table(data),
        text::setup_table(data),
        text::echo_table(data),
        target::text("targets", &targets),
        target::text("beside these", &comparisons),
    );
    for line in disagreement_lines(data) {
        let _infallible = writeln!(text, "{line}");
    }
    text
}

fn guest_title(guest: Guest) -> &'static str {
    match guest {
        Guest::OneCpu => "One processor, a clock of instructions",
        Guest::Words => "The same, copying by words",
        Guest::TwoCpu => "Two processors, an ordinary clock",
    }
}

/// Formats `docs/performance.md`, with links to these pictures.
pub(super) fn markdown(data: &Data, pictures: &[&str]) -> String {
    let (targets, comparisons) = (targets(data), comparisons(data));
    let mut text = introduction(data);
    for name in pictures {
        let _infallible = writeln!(text, "![{name}](performance/{name}.svg)");
    }
    let _infallible = write!(
        text,
        "\n## Targets\n\n{}: the median of the rounds, with the least and the most; *each round* where no round may miss it. \
         A ratio is taken round by round.\n\n{}",
        summary(&targets),
        table(&targets)
    );
    let missed = missed::explain_missed(data, &targets);
    if !missed.is_empty() {
        text += "\n## Where a target is not met\n\n";
        for why in missed {
            let _infallible = writeln!(text, "- {why}");
        }
    }
    let _infallible = write!(
        text,
        "\n## What else is compared\n\n{}.\n\n{}",
        summary(&comparisons),
        table(&comparisons)
    );
    for guest in [Guest::OneCpu, Guest::TwoCpu] {
        let _infallible = write!(text, "\n## {}\n", guest_title(guest));
        for gro in [false, true] {
            let with = gro_text(Some(gro));
            let (costs, counts) = (
                text::cost_table(data, guest, gro),
                text::count_table(data, guest, gro),
            );
            let kinds = text::calls_table(data, guest, gro);
            let _infallible = write!(
                text,
                "\n{} receive coalescing (`rx-gro-hw`):\n\n```text\n{costs}```\n\n```text\n{counts}```\n\n\
                 System calls a GiB, by kind, {with} receive coalescing:\n\n```text\n{kinds}```\n",
                capitalize(with)
            );
        }
    }
    let _infallible = write!(
        text,
        "\n## What the columns mean\n\n```text\n{COLUMNS}\n```\n{}",
        closing_sections(data)
    );
    text
}

fn capitalize(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|it| it.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn introduction(data: &Data) -> String {
    let Data {
        kernel,
        mib,
        rounds,
        sweeps,
        ..
    } = data;
    let of = |name: &str| ALL.iter().find(|it| it.name == name);
    let bytes = |name: &str| of(name).map_or(0, |it| it.bytes(mib << 20) >> 10);
    let upstream = bytes(crate::contender::UPSTREAM.name);
    let zcrx = bytes(crate::contender::IOU_ZCRX.name);
    format!(
        "<!-- Written by `make performance-docs` from performance/data.json: do not edit. -->\n\
         # What receiving costs\n\n\
         `make bench` measures receivers side by side, one after the other on the same queue of the software NIC, in an emulated VM:\n\n\
         | receiver | |\n|---|---|\n\
         | `devmem-tcp recv` | this toolkit's, with `--no-config`; pages and size as below, else its default settings |\n\
         | `ncdevmem` | upstream's, built from the kernel's source. It prints a line for each frag (to `/dev/null` here), and is charged for that |\n\
         | `ncdevmem`, quiet | the same source with these prints compiled away ([quiet.h](../selftests/bench/quiet.h)) |\n\
         | `iou-zcrx` | the kernel's test of zero-copy receive with io_uring, as it is |\n\
         | bare loop | `recvmsg` and `SO_DEVMEM_DONTNEED` at the kernel's limits and nothing else ([bare.c](../selftests/bench/bare.c)); a second one also sets `SO_RCVLOWAT`. \
         Ours is compared with whichever costs less |\n\
         | `recv` | plain TCP, with a copy, and with `MSG_TRUNC`, which has the kernel throw the payload away |\n\n\
         *Validating* receivers compare every byte, the others discard the payload; only receivers of one kind are compared. Their memory is \
         64 MiB of 4 KiB pages (`ncdevmem`: 62.5 MiB, `iou-zcrx`: 32 MiB, their fixed sizes), except in the rows that say otherwise.\n\n\
         These figures are of Linux {kernel}: {rounds} rounds of {mib} MiB a transfer ({upstream} KiB for `ncdevmem`, which is slow, and {zcrx} KiB for `iou-zcrx`, \
         the most that it can compare), {sweeps} where one condition is varied. Each round runs every receiver, in an order that moves on by one from round to round. \
         One transfer to each comes before the first round and is in none of the figures, but not where one condition is varied.\n\n\
         There are three guests. **One processor**: the clock counts instructions, 2 ns each (`-icount`), so that CPU times \
         do not depend on how busy the machine is. It says how many instructions a receiver and the kernel take, and nothing about \
         caches or memory. **Two processors**: the sender has one, the receiver and its side of the NIC the other, and the clock is \
         the machine's: times vary from round to round with whatever else the machine does. The third is the first with the instructions that move strings of bytes masked \
         (`clearcpuid=erms,fsrm`), so that the kernel copies by words; only ours, `recv` and the bare loops run there. No figure says how fast hardware is. \
         Without receive coalescing a frag is one packet; with it the NIC packs frags full. Both exist in the field.\n\n"
    )
}

fn table(targets: &[Target]) -> String {
    let mut text =
        "| | processors | coalescing | figure | target | |\n|---|---|---|---|---|---|\n".to_owned();
    for target in targets {
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            target.what.trim(),
            guest_text(target.guest),
            gro_text(target.gro),
            target.figure_text(),
            target.limit_text(),
            match target.verdict() {
                "NOT MET" => "**not met**",
                other => other,
            }
        );
    }
    text
}

/// Formats the sections that follow the tables of each guest.
fn closing_sections(data: &Data) -> String {
    let mut text = format!(
        "\n## Whether the system calls are right\n\n\
         The tracepoints' counts against the receivers' own, of all counted transfers together, from the start of each process to its end. \
         They must be equal, but for `setsockopt`, which also sets other options. Receivers that are not listed do not count.\n\n\
         ```text\n{}```\n\n",
        text::check_table(data)
    );
    let disagreements = disagreement_lines(data);
    text += match disagreements.is_empty() {
        true => "All of them agree.\n",
        false => "They disagree here:\n\n",
    };
    for line in disagreements {
        let _infallible = writeln!(text, "- {line}");
    }
    let _infallible = write!(
        text,
        "\nCounting costs the receiver CPU time (at each system call, and more at each context switch), so CPU times \
         come from transfers without it. What it costs:\n\n```text\n{}```\n\n\
         ## Set-up and tear-down\n\n\
         The kernel's part was measured by a program that only makes the memory, binds a queue to it, unbinds it, and frees it \
         (CLOCK_THREAD_CPUTIME_ID).\n\n```text\n{}```\n\n\
         ## Latency\n\n\
         {} messages of 64 bytes a round, one after the other, there and back over a devmem connection, in the guest of one processor; \
         100 before them are not timed, and a round before the first is in none of the figures. The receiver is the engine with a sink that answers, with its default settings and with `gather` 0.\n\n\
         ```text\n{}```\n\n\
         ## User space alone\n\n{}",
        text::overhead_table(data),
        text::setup_table(data),
        data.echo.first().map_or(0, |it| it.messages),
        text::echo_table(data),
        host_section(data)
    );
    text
}

fn host_section(data: &Data) -> String {
    let Some(host) = &data.host else {
        return "`make bench-host` was not run for these figures.\n".to_owned();
    };
    let some =
        |value: Option<f64>| value.map_or("not measured".to_owned(), |it| format!("{it:.2}"));
    format!(
        "`make bench-host`, with no kernel in the path. To take a frag out of a control message, discard and recycle it, 64 a call: \
         {} ns. Validation, against a `memcmp` of the same memory: {} of its bytes a second. That a frag allocates nothing is a test \
         (selftests/hostbench/tests/no_allocation.rs).\n",
        some(host.recv_frag_ns),
        some(host.validate_fraction_of_memcmp)
    )
}

fn disagreement_lines(data: &Data) -> Vec<String> {
    let rows = text::disagreements(data).into_iter();
    let line = |row: &super::data::Row| {
        format!(
            "{}, {}, {} receive coalescing: its own count of system calls and the tracepoints' DISAGREE",
            row.who,
            processors(row.guest),
            gro_text(Some(row.at.gro))
        )
    };
    rows.map(line).collect()
}
