//! Tables of queues and page pools.

use crate::style::Style;
use crate::table::{Column, Fitted, fit};
use crate::wrap::wrap;

const QUEUES: [Column; 7] = [
    Column::text("NETNS"),
    Column::text("DEVICE"),
    Column::text("DRIVER").spare(1),
    Column::number("RXQ"),
    Column::number("NAPI").spare(2),
    Column::text("LEASE").wraps(),
    Column::number("DMABUF"),
];

const POOLS: [Column; 7] = [
    Column::text("NETNS"),
    Column::text("DEVICE"),
    Column::number("PAGE POOL"),
    Column::number("NAPI").spare(1),
    Column::number("INFLIGHT"),
    Column::number("INFLIGHT BYTES").spare(2),
    Column::number("DMABUF"),
];

/// What `show` prints for people.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) queues: Vec<QueueCells>,
    pub(super) pools: Vec<PoolCells>,
}

/// A queue; its namespace is `None` where it is the caller's.
#[derive(Debug)]
pub(super) struct QueueCells {
    pub(super) netns: Option<String>,
    pub(super) device: String,
    pub(super) driver: String,
    pub(super) rxq: u32,
    pub(super) napi: Option<u32>,
    pub(super) lease: Option<String>,
    pub(super) dmabuf: Option<u32>,
}

/// A page pool; its device is `None` where that is gone.
#[derive(Debug)]
pub(super) struct PoolCells {
    pub(super) netns: Option<String>,
    pub(super) device: Option<String>,
    pub(super) id: u32,
    pub(super) napi: Option<u32>,
    pub(super) inflight: Option<u64>,
    pub(super) inflight_bytes: Option<u64>,
    pub(super) dmabuf: Option<u32>,
}

impl Tables {
    /// The tables, in `columns` columns of a terminal if there is a limit. Columns that are left out
    /// there are named below.
    pub(super) fn text(&self, style: Style, columns: Option<usize>) -> String {
        let mut lines = match self.queues[..] {
            [] => {
                let none = "no rx queue is leased or bound (--all shows the others)";
                wrap(none, columns.unwrap_or(usize::MAX), 0)
            }
            _ => {
                let rows: Vec<_> = self.queues.iter().map(QueueCells::row).collect();
                lines(fit(&QUEUES, &rows, columns, style), style)
            }
        };
        if !self.pools.is_empty() {
            lines.push(String::new());
            let rows: Vec<_> = self.pools.iter().map(PoolCells::row).collect();
            lines.extend(self::lines(fit(&POOLS, &rows, columns, style), style));
        }
        lines.join("\n") + "\n"
    }
}

fn lines(table: Fitted, style: Style) -> Vec<String> {
    let left_out = table.left_out.join(", ");
    let mut lines = table.lines();
    if !left_out.is_empty() {
        lines.push(style.dim(&format!("no room for {left_out}")));
    }
    lines
}

impl QueueCells {
    fn row(&self) -> Vec<String> {
        vec![
            or_dash(self.netns.as_ref()),
            self.device.clone(),
            self.driver.clone(),
            self.rxq.to_string(),
            or_dash(self.napi),
            or_dash(self.lease.as_ref()),
            or_dash(self.dmabuf),
        ]
    }
}

impl PoolCells {
    fn row(&self) -> Vec<String> {
        vec![
            or_dash(self.netns.as_ref()),
            or_dash(self.device.as_ref()),
            self.id.to_string(),
            or_dash(self.napi),
            or_dash(self.inflight),
            or_dash(self.inflight_bytes),
            or_dash(self.dmabuf),
        ]
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn tables() -> Tables {
        let queue = |netns: Option<&str>, device: &str, rxq, napi, lease: Option<&str>, dmabuf| {
            QueueCells {
                netns: netns.map(str::to_owned),
                device: device.to_owned(),
                driver: match netns {
                    None => "mlx5_core".to_owned(),
                    Some(_) => "netkit".to_owned(),
                },
                rxq,
                napi,
                lease: lease.map(str::to_owned),
                dmabuf,
            }
        };
        let pool =
            |netns: Option<&str>, device: Option<&str>, id, inflight, dmabuf: Option<u32>| {
                PoolCells {
                    netns: netns.map(str::to_owned),
                    device: device.map(str::to_owned),
                    id,
                    napi: dmabuf.map(|_| 8224),
                    inflight,
                    inflight_bytes: inflight.map(|niovs: u64| niovs << 12),
                    dmabuf,
                }
            };
        let (nic, box_) = ("enp129s0f1np1", "box-\u{7db2}\u{8def}");
        Tables {
            queues: vec![
                queue(None, "eth1", 3, Some(8193), None, Some(1)),
                queue(
                    None,
                    nic,
                    15,
                    Some(8224),
                    Some("to box-\u{7db2}\u{8def}/nk0 rx 1"),
                    Some(12),
                ),
                queue(
                    None,
                    nic,
                    127,
                    Some(16_777_216),
                    Some("to nk\u{1b}[1m in a namespace without a name, rx 1"),
                    None,
                ),
                queue(
                    Some(box_),
                    "nk0",
                    1,
                    None,
                    Some("from enp129s0f1np1 rx 15"),
                    Some(12),
                ),
            ],
            pools: vec![
                pool(None, Some(nic), 2, Some(16_384), Some(12)),
                pool(Some(box_), None, 1017, Some(7), None),
            ],
        }
    }

    #[test]
    fn golden_show() {
        let tables = tables();
        for columns in [60, 80, 160] {
            let text = tables.text(Style::OFF, Some(columns));
            golden::check(&format!("show.{columns}.txt"), &text);
        }
        assert_eq!(
            tables.text(Style::OFF, None),
            tables.text(Style::OFF, Some(160))
        );
    }

    #[test]
    fn a_terminal_gets_no_wider_line_than_it_has_columns() {
        for columns in 60..160 {
            let text = tables().text(Style::ON, Some(columns));
            for line in text.lines() {
                assert!(common::text::width(line) <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn nothing_to_show_is_said() {
        let none = Tables {
            queues: Vec::new(),
            pools: Vec::new(),
        };
        let text = none.text(Style::OFF, None);
        assert!(text.starts_with("no rx queue is leased or bound (--all"));
        assert_eq!(text.lines().count(), 1);
    }
}
