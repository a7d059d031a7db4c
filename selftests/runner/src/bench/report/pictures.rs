//! The charts of the benchmark's report.

use anyhow::Result;

use super::data::{Data, Row};
use super::spread::median;
use crate::Guest;
use crate::plot::{Dot, bars, panels};
use crate::sweep::Series;

/// Draws the report's pictures; each comes with its file name without extension.
pub(super) fn pictures(data: &Data) -> Result<Vec<(&'static str, String)>> {
    let mut pictures = Vec::new();
    for (name, guest, title, axis) in [
        (
            "cpu",
            Guest::OneCpu,
            "What receiving a GiB costs, on one processor",
            "CPU seconds a GiB in the receive loop, by a clock of instructions; median, logarithmic",
        ),
        (
            "cpu-two",
            Guest::TwoCpu,
            "What receiving a GiB costs, on a processor apart from the sender's",
            "CPU seconds a GiB in the receive loop, emulated; median, logarithmic",
        ),
    ] {
        let bar = |row: &Row| Some((row.who.clone(), row.at.gro, median(&row.cpu)?));
        let all: Vec<_> = of(data, guest, Series::Compare).filter_map(bar).collect();
        let all: Vec<_> = all
            .iter()
            .map(|(who, gro, cpu)| (&who[..], *gro, *cpu))
            .collect();
        if !all.is_empty() {
            pictures.push((name, bars(title, axis, &all)?));
        }
    }
    for series in Series::SWEEPS {
        let (title, x) = match series {
            Series::Compare | Series::Roomy => continue,
            Series::Connections => ("By the number of connections", "connections"),
            Series::Queues => ("By the number of queues, 4 connections", "rx queues"),
            Series::Netkit => ("Direct, and through a leased queue", ""),
            Series::RxPageSize => (
                "By the size of the pieces that the NIC fills",
                "rx-page-size",
            ),
            Series::Pool => ("By the size of the dmabuf", "dmabuf"),
        };
        let dots = |guest, value: fn(&Row) -> &[f64]| -> Vec<Dot> {
            let dot = |row: &Row| {
                Some(Dot {
                    place: series.place(&row.at),
                    gro: row.at.gro,
                    value: median(value(row))?,
                })
            };
            of(data, guest, series).filter_map(dot).collect()
        };
        let cpu = dots(Guest::OneCpu, |row| &row.cpu);
        let goodput = dots(Guest::TwoCpu, |row| &row.goodput);
        if !cpu.is_empty() || !goodput.is_empty() {
            let panes = [
                ("CPU seconds a GiB, one processor", &cpu[..]),
                ("MiB a second, two processors", &goodput[..]),
            ];
            pictures.push((series.name(), panels(title, x, &panes)?));
        }
    }
    Ok(pictures)
}

fn of(data: &Data, guest: Guest, series: Series) -> impl Iterator<Item = &Row> {
    let of = move |row: &&Row| row.guest == guest && row.series == series;
    data.rows.iter().filter(of)
}
