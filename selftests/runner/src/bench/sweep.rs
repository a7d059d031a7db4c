//! What is varied.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use framework::testbed;

/// Under which conditions a transfer is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Whether the NIC coalesces.
    pub(crate) gro: bool,
    pub(crate) connections: u32,
    /// Queues that they come by: 1, 2 or 4.
    pub(crate) queues: u32,
    /// Through a netkit that leases the queue.
    pub(crate) netkit: bool,
    /// `rx-page-size` in KiB, of 2 MiB pages.
    pub(crate) rx_page: Option<u32>,
    /// The dmabuf in MiB.
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

/// A set of transfers that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Series {
    /// The contenders, one connection, one queue.
    Compare,
    Connections,
    /// The same in a dmabuf of 256 MiB: a connection's part of it is as many times larger.
    Roomy,
    Queues,
    Netkit,
    RxPageSize,
    Pool,
}

impl Series {
    /// Those that vary one condition, for our receiver.
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

    /// Whether this kernel can do it.
    pub(crate) fn is_possible(self) -> Result<bool> {
        // Before 7.3 udmabuf makes 64 MiB at most, unless told otherwise.
        let recent = matches!(self, Self::RxPageSize | Self::Roomy);
        Ok(!recent || testbed::kernel()? >= (7, 3))
    }

    /// What of a point it varies: its place, and how that is called.
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

    /// The points of a sweep, in the order of a round.
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
