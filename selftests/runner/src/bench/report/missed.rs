//! Explanations of targets that are not met, from the figures.

use super::data::{Data, Row};
use super::spread::{Spread, median, ratios};
use super::target::{Subject, Target, gro_text, processors};
use super::targets::with_connections;
use super::text::percent;
use crate::Guest;
use crate::contender::{OURS, QUIET, QUIET_PRINTING, TRUNC, VALIDATING};
use crate::sweep::{Point, Series};

/// Returns a paragraph for each target that is not met, with the figures behind it.
pub(super) fn explain_missed(data: &Data, targets: &[Target]) -> Vec<String> {
    let missed = targets.iter().filter(|it| it.is_met() == Some(false));
    missed.map(|it| paragraph(data, it)).collect()
}

fn paragraph(data: &Data, target: &Target) -> String {
    let mut place = Vec::new();
    if let Some(guest) = target.guest {
        place.push(processors(guest).to_owned());
    }
    if let Some(gro) = target.gro {
        place.push(format!("{} coalescing", gro_text(Some(gro))));
    }
    let place = match place.is_empty() {
        true => String::new(),
        false => format!(" ({})", place.join(", ")),
    };
    let head = format!(
        "**{}**{place}: {}, for {}.",
        target.what.trim(),
        target.figure_text(),
        target.limit_text()
    );
    let more = [
        explain_figures(data, target),
        explain_alternatives(data, target),
    ];
    let more = more.into_iter().flatten().map(|text| format!(" {text}"));
    head + &more.collect::<String>()
}

/// Tells which other designs were tried to meet a target, and why they were not kept.
fn explain_alternatives(data: &Data, target: &Target) -> Option<String> {
    let text = match target.about {
        Subject::Calls => {
            "Tried: to let a steady stream wait for 16 ms instead of 8. That halves the wake-ups of a stream \
             too slow to bring 2 MiB in 8 ms, as this one is, and saved a fifth to a third of the calls; \
             but what such a stream brings last before a pause is late by twice as much. It is left at 8."
        }
        Subject::CpuValidating if target.gro == Some(true) => {
            "On 27 and 28 November 2026 it was 1.395 (1.389 to 1.405) and 1.403 (1.393 to 1.408): the limit is inside the spread. What it takes above the same receiver without `--validate` is \
             `memcmp`, and two ioctls for each batch of frags, which tell the exporter that the processor reads \
             (`DMA_BUF_IOCTL_SYNC`)."
        }
        Subject::Connections => return explain_larger_dmabuf(data, target.gro?),
        Subject::Setup => {
            "Tried: pages of 2 MiB (above), the default where there are some. A dmabuf of pages of 4 KiB \
             is made of 16,384 pieces, each allocated, cleared, mapped and entered into the NIC's pool by itself."
        }
        Subject::CpuTwo => {
            "Tried, in a run of its own of five rounds: to gather 4 MiB instead of 2. That was 1.23 (1.13 to 1.44) without \
             coalescing and 1.66 (1.53 to 1.91) with; with 2 MiB 1.32 (1.05 to 1.48) and 1.86 (1.51 to 2.09) in the run before it. \
             Less, inside the spread, and each \
             connection would let twice as much of the dmabuf wait. The bare loop has no other connections, \
             signals or limits to look after: it sleeps in `recvmsg`, where the engine sleeps in \
             `epoll_wait` and calls `recvmsg` after it."
        }
        Subject::Goodput | Subject::GoodputValidating => {
            "Tried, in a run of its own of five rounds: to gather 4 MiB instead of 2. That was 0.99 (0.86 to 1.19) without coalescing \
             and 0.92 (0.90 to 1.03) with; with 2 MiB 0.93 (0.87 to 1.01) and 0.93 (0.91 to 0.96) in the run before it: no \
             difference beyond the spread of a machine of two processors that emulates two."
        }
        Subject::Validation => {
            "It compares by `memcmp`, too, a frag at a time. What is missing is memory's latency at the \
             beginning of each frag, which a plain loop hides, as the processor runs ahead of it. The first 512 \
             bytes of the next frag are fetched meanwhile. Tried, one run each: 1 KiB (0.62), 2 KiB (0.72), and 512 bytes \
             before and after these (0.72, 0.68): no difference beyond the spread."
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// Tells how much a larger dmabuf would help with many connections.
fn explain_larger_dmabuf(data: &Data, gro: bool) -> Option<String> {
    let with = |connections| {
        let at = Point {
            connections,
            gro,
            pool: 256,
            ..Point::default()
        };
        data.row(Guest::OneCpu, OURS.name, Series::Roomy, &at)
    };
    let (one, many) = (with(1)?, with(256)?);
    let ratio = median(&many.cpu)? / median(&one.cpu)?;
    Some(format!(
        "Tried: a dmabuf of 256 MiB, where each of 256 connections may let four times as much gather: \
         {:.0} frags a call, and {ratio:.3} times the CPU of one. In 64 MiB a fifth of all niovs is {} for each; \
         more, and late packets find none.",
        median(&many.frags_per_recvmsg)?,
        (64 << 20) / 4096 / 5 / 256
    ))
}

fn explain_figures(data: &Data, target: &Target) -> Option<String> {
    let gro = target.gro.unwrap_or(true);
    match target.about {
        Subject::Cpu | Subject::CpuValidating | Subject::CpuTwo => explain_cpu(data, target, gro),
        Subject::Calls => explain_calls(data, target.guest?, gro),
        Subject::Goodput | Subject::GoodputValidating => explain_goodput(data, gro),
        Subject::Connections => explain_connections(data, gro),
        Subject::Echo => explain_echo(data),
        Subject::Setup => explain_setup(data, gro),
        _ => None,
    }
}

/// Compares CPU time, user-mode fraction, system calls and sleeps with those of the better bare
/// loop.
fn explain_cpu(data: &Data, target: &Target, gro: bool) -> Option<String> {
    let guest = target.guest?;
    let who = match target.about {
        Subject::CpuValidating => VALIDATING.name,
        _ => OURS.name,
    };
    let (ours, bare) = (
        data.compared(guest, who, gro)?,
        data.better_bare(guest, gro)?,
    );
    let of = |row: &Row| {
        let (calls, sleeps) = (median(&row.calls), median(&row.wakeups));
        format!(
            "{:.3} s a GiB{}, {} system calls and {} sleeps a GiB",
            median(&row.cpu).unwrap_or(0.0),
            in_user_mode(row.user),
            calls.map_or("?".to_owned(), |it| format!("{it:.0}")),
            sleeps.map_or("?".to_owned(), |it| format!("{it:.0}")),
        )
    };
    Some(format!(
        "`{who}` takes {}; the better loop (*{}*) {}.",
        of(ours),
        bare.who,
        of(bare)
    ))
}

fn in_user_mode(share: Option<f64>) -> String {
    match share {
        Some(_) => format!(" ({} in user mode)", percent(share)),
        None => String::new(),
    }
}

/// Tells which system calls a receiver makes, and how many `ncdevmem` makes.
fn explain_calls(data: &Data, guest: Guest, gro: bool) -> Option<String> {
    let (ours, quiet) = (
        data.compared(guest, VALIDATING.name, gro)?,
        data.compared(guest, QUIET.name, gro)?,
    );
    let kinds = ours.calls_by.iter();
    let kinds: Vec<String> = kinds
        .map(|(kind, count)| format!("{count:.0} {kind}"))
        .collect();
    Some(format!(
        "Of ours a GiB takes {} calls ({}), of the quiet `ncdevmem` {}.",
        Spread::of(&ours.calls)?.text(0),
        kinds.join(", "),
        Spread::of(&quiet.calls)?.text(0)
    ))
}

/// Tells the throughput of `MSG_TRUNC` and of the better bare loop, each with its spread.
fn explain_goodput(data: &Data, gro: bool) -> Option<String> {
    let row = |who| data.compared(Guest::TwoCpu, who, gro);
    let trunc = row(TRUNC.name)?;
    let bare = data.better_bare(Guest::TwoCpu, gro)?;
    let against = Spread::of(&ratios(&bare.goodput, &trunc.goodput))?;
    Some(format!(
        "`MSG_TRUNC` itself came to {} MiB/s; the better bare loop (*{}*) to {against} of it.",
        Spread::of(&trunc.goodput)?.text(1),
        bare.who,
    ))
}

/// Compares 256 connections with one: frags per call of `recvmsg`, frags per MiB, sleeps per GiB.
fn explain_connections(data: &Data, gro: bool) -> Option<String> {
    let with = |connections| with_connections(data, Guest::OneCpu, connections, gro);
    let (one, many) = (with(1)?, with(256)?);
    Some(format!(
        "A call of `recvmsg` brings {:.0} frags of one connection and {:.0} of 256; a MiB takes {:.0} and {:.0} frags, a GiB {:.0} and {:.0} sleeps.",
        median(&one.frags_per_recvmsg)?,
        median(&many.frags_per_recvmsg)?,
        median(&one.frags_per_mib)?,
        median(&many.frags_per_mib)?,
        median(&one.wakeups)?,
        median(&many.wakeups)?
    ))
}

fn explain_echo(data: &Data) -> Option<String> {
    let of = |gathers| data.echo.iter().find(|it| it.gathers == gathers);
    let (on, off) = (of(true)?, of(false)?);
    Some(format!(
        "The median is {} µs with gathering and {} µs without.",
        Spread::of(&on.p50)?.text(1),
        Spread::of(&off.p50)?.text(1)
    ))
}

/// Tells how much of the set-up time the kernel takes.
fn explain_setup(data: &Data, gro: bool) -> Option<String> {
    let row = |who| data.compared(Guest::OneCpu, who, gro);
    let (ours, quiet) = (row(OURS.name)?, row(QUIET_PRINTING.name)?);
    let parts = data.parts.iter().find(|it| !it.huge)?;
    let (make, bind) = (median(&parts.make)?, median(&parts.bind)?);
    let huge = data.parts.iter().find(|it| it.huge)?;
    let huge = median(&huge.make)? + median(&huge.bind)?;
    Some(format!(
        "Ours takes {} s{}, upstream's {} s. The kernel alone takes {:.3} s \
         to make 64 MiB of 4 KiB pages a dmabuf ({make:.3}) and bind a queue to it ({bind:.3}), \
         whichever receiver asks for it; it frees them later, in a worker of its own, which is in no figure. For pages of 2 MiB it takes {huge:.3} s, \
         which is why `recv` takes these where it can.",
        Spread::of(&ours.setup)?.text(3),
        in_user_mode(ours.setup_user),
        Spread::of(&quiet.setup)?.text(3),
        make + bind
    ))
}

#[cfg(test)]
mod tests {
    use super::super::fold::tests::{compared, of};
    use super::super::targets::targets;
    use super::*;

    #[test]
    fn a_missed_target_is_explained_by_its_figures() {
        let mut ours = compared(Guest::OneCpu, OURS.name);
        ours.cpu = vec![2.0, 2.2, 2.4];
        ours.calls = vec![300.0];
        let bare = compared(Guest::OneCpu, "bare loop");
        let data = of(vec![ours, bare]);
        let missed = explain_missed(&data, &targets(&data));
        let [one] = &missed[..] else {
            panic!("{missed:?}");
        };
        assert!(
            one.contains("2.200 (2.000 to 2.400), for at most 1.05."),
            "{one}"
        );
        assert!(one.contains("300 system calls"), "{one}");
        assert!(one.contains("*bare loop*"), "{one}");
    }

    #[test]
    fn a_met_target_is_not_explained() {
        let data = of(vec![
            compared(Guest::OneCpu, OURS.name),
            compared(Guest::OneCpu, "bare loop"),
        ]);
        assert_eq!(explain_missed(&data, &targets(&data)), Vec::<String>::new());
    }
}
