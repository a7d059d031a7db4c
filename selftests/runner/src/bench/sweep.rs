//! Conditions of a benchmark transfer, and the series that vary one of them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use framework::testbed;

/// Conditions of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Whether the NIC coalesces received packets (`rx-gro-hw`).
    pub(crate) gro: bool,
    pub(crate) connections: u32,
    /// Number of rx queues that the connections are spread over: 1, 2 or 4.
    pub(crate) queues: u32,
    /// Whether to receive through a netkit that leases the queue.
    pub(crate) netkit: bool,
    /// `rx-page-size` in KiB, on memory of 2 MiB pages; `None` for the default, on 4 KiB pages.
    pub(crate) rx_page: Option<u32>,
    /// Size of the dmabuf in MiB.
    pub(crate) pool: u64,
}

impl Default for Point {
    fn default() -> Self {
        Self {
            gro: true,
            connections: 1,
            queues: 1,
            netkit: false,
            rx_page: None,
            pool: 64,
        }
    }
}

/// A set of transfers: the comparison of receivers, or a series that varies one condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Series {
    /// All receivers, with one connection and one queue.
    Compare,
    Connections,
    /// Numbers of connections with a dmabuf of 256 MiB, four times the usual size.
    Roomy,
    Queues,
    Netkit,
    RxPageSize,
    Pool,
}

impl Series {
    /// The series that vary one condition, for `devmem-tcp recv`.
    pub(crate) const SWEEPS: [Self; 6] = [
        Self::Connections,
        Self::Roomy,
        Self::Queues,
        Self::Netkit,
        Self::RxPageSize,
        Self::Pool,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Compare => "compare",
            Self::Connections => "connections",
            Self::Roomy => "roomy",
            Self::Queues => "queues",
            Self::Netkit => "netkit",
            Self::RxPageSize => "rx-page-size",
            Self::Pool => "pool",
        }
    }

    /// Whether the running kernel can do the transfers of the series.
    pub(crate) fn is_possible(self) -> Result<bool> {
        // Before 7.3 udmabuf makes 64 MiB at most, unless told otherwise.
        let recent = matches!(self, Self::RxPageSize | Self::Roomy);
        Ok(!recent || testbed::kernel()? >= (7, 3))
    }

    /// Returns the varied condition of a transfer: its position on an axis, and its label.
    pub(crate) fn place(self, point: &Point) -> (f64, String) {
        let number = |value: u32, unit: &str| (f64::from(value), format!("{value}{unit}"));
        match self {
            Self::Compare => (0.0, String::new()),
            Self::Connections | Self::Roomy => number(point.connections, ""),
            Self::Queues => number(point.queues, ""),
            Self::Netkit => match point.netkit {
                false => (1.0, "direct".to_owned()),
                true => (2.0, "netkit".to_owned()),
            },
            Self::RxPageSize => number(point.rx_page.unwrap_or(4), " KiB"),
            Self::Pool => (point.pool as f64, format!("{} MiB", point.pool)),
        }
    }

    /// Returns the conditions of the series' transfers, in the order of a round.
    pub(crate) fn points(self) -> Vec<Point> {
        let both = |points: &[Point]| -> Vec<Point> {
            let with = |gro| points.iter().map(move |it| Point { gro, ..*it });
            with(false).chain(with(true)).collect()
        };
        let some = Point::default;
        match self {
            Self::Compare => Vec::new(),
            Self::Connections => both(&[1, 4, 16, 64, 256].map(|connections| Point {
                connections,
                ..some()
            })),
            Self::Roomy => both(&[1, 256].map(|connections| Point {
                connections,
                pool: 256,
                ..some()
            })),
            // Each queue has the same number of connections.
            Self::Queues => both(&[1, 2, 4].map(|queues| Point {
                queues,
                connections: 4,
                ..some()
            })),
            Self::Netkit => both(&[false, true].map(|netkit| Point { netkit, ..some() })),
            // Without coalescing each segment takes a whole piece.
            Self::RxPageSize => [4, 16, 64]
                .map(|kib| Point {
                    rx_page: Some(kib),
                    ..some()
                })
                .into(),
            Self::Pool => both(&[1, 4, 16, 64].map(|pool| Point { pool, ..some() })),
        }
    }
}
