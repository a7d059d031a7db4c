//! Layout of a receiver's live view in the rows and columns of a terminal.
//!
//! The last line counts the entries that do not fit. Only columns of a table may be left out
//! without notice, those of least use first.

use common::text::{cut, width};
use devmem::Telemetry;

use super::figures::{DISTRIBUTIONS, PEERS, QUEUES, amount, bar};
use super::figures::{connection, distribution, queue};
use super::second::{Second, plural};
use crate::recv::pool::Pool;
use crate::style::Style;
use crate::table::{Fitted, fit};
use crate::wrap::flow;

/// Width of a dmabuf's bar, in characters, below which the text beside it is shortened.
const LEAST_BAR: usize = 8;
/// Greatest width of a dmabuf's bar, in characters.
const MOST_BAR: usize = 64;
/// Greatest number of peer tables side by side.
const ABREAST: usize = 4;
/// Number of blank columns between two peer tables side by side.
const GAP: usize = 3;
const INDENT: usize = 2;

/// Live view of a receiver, to be laid out in lines for a terminal.
pub(super) struct View<'a> {
    pub(super) title: &'a str,
    pub(super) style: Style,
    pub(super) second: &'a Second,
    pub(super) telemetry: &'a Telemetry,
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Parts of the live view that may be too long for the terminal.
struct Parts {
    pools: Vec<String>,
    queues: Vec<String>,
    /// Lines of the table of distributions with its head; shown whole or not at all.
    distributions: Vec<String>,
    /// Tables of peers with their heads.
    peers: Peers,
}

/// Tables of peers side by side, under their heads, and the number of peers shown.
#[derive(Default)]
struct Peers {
    lines: Vec<String>,
    shown: usize,
}

/// Number of the terminal's rows that are still free.
struct Rows(usize);

impl Rows {
    /// Takes free rows for a table of `wanted` entries and a head of `head` rows, or as many as
    /// fit. Returns the number of entries that fit.
    fn take(&mut self, wanted: usize, head: usize) -> usize {
        let rows = wanted.min(self.0.saturating_sub(head));
        if rows > 0 {
            self.0 -= rows + head;
        }
        rows
    }
}

impl View<'_> {
    /// Lays the view out in at most `rows` lines. A line is wider than `columns` only if no
    /// narrower line is possible.
    pub(super) fn lines(&self) -> Vec<String> {
        let head = self.head();
        if self.rows <= 1 {
            return first(head, self.rows, self.columns);
        }
        let mut lines = head;
        lines.extend(self.counters());
        let mut lines = first(lines, self.rows - 1, self.columns);
        let room = self.rows - lines.len();
        let whole = [true, false].map(|blanks| self.whole(room, blanks));
        match whole.into_iter().flatten().next() {
            Some(whole) => lines.extend(whole),
            None => lines.extend(self.part(room - 1)),
        }
        lines
    }

    /// Lays all parts out, with blank lines before tables or without; `None` if they don't fit.
    fn whole(&self, room: usize, blanks: bool) -> Option<Vec<String>> {
        let mut parts = self.parts();
        let (queues, peers) = (!parts.queues.is_empty(), self.second.connections.len());
        let used = parts.pools.len() + parts.queues.len() + parts.distributions.len();
        let blank = match blanks {
            true => 1 + usize::from(queues) + usize::from(peers > 0),
            false => 0,
        };
        parts.peers = self.peers(room.checked_sub(used + blank)?);
        (parts.peers.shown == peers).then(|| parts.lines(blanks))
    }

    /// Lays out the parts that fit into `room` lines, then a line that counts the entries left out.
    fn part(&self, room: usize) -> Vec<String> {
        let all = self.parts();
        let peers = self.second.connections.len();
        let (queues, pools) = (self.second.queues.len(), self.second.memory.pools.len());
        // A head and some rows are for peers, whatever else there is.
        let kept = match peers {
            0 => 0,
            peers => (1 + peers.min(3)).min(room),
        };
        let kept = if kept < 2 { 0 } else { kept };
        let mut rows = Rows(room - kept);
        let pools_shown = rows.take(pools.min((room / 4).max(1)), 0);
        let queues_shown = rows.take(queues.min(4), 1);
        // Whole or not at all.
        let count = all.distributions.len();
        let distributions = match rows.take(count, 0) {
            some if some == count => all.distributions,
            some => {
                rows.0 += some;
                Vec::new()
            }
        };
        let shown = self.peers(kept + rows.0);
        let mut rows = Rows((kept + rows.0).saturating_sub(shown.lines.len()));
        let queues_shown = match queues_shown {
            0 => rows.take(queues, 1),
            some => some + rows.take(queues - some, 0),
        };
        let pools_shown = pools_shown + rows.take(pools - pools_shown, 0);
        let hidden = if distributions.is_empty() {
            count - 1
        } else {
            0
        };
        let note = self.note(&[
            (peers - shown.shown, "peer"),
            (queues - queues_shown, "queue"),
            (pools - pools_shown, "dmabuf"),
            (hidden, "distribution"),
        ]);
        let parts = Parts {
            pools: all.pools.into_iter().take(pools_shown).collect(),
            queues: match queues_shown {
                0 => Vec::new(),
                some => all.queues.into_iter().take(1 + some).collect(),
            },
            distributions,
            peers: shown,
        };
        let mut lines = parts.lines(false);
        lines.push(note);
        lines
    }

    /// Formats the numbers of entries that are not shown, as `+8 more peers, +2 queues`.
    fn note(&self, hidden: &[(usize, &str)]) -> String {
        let hidden = hidden.iter().filter(|(count, _)| *count > 0);
        let words = hidden.enumerate().map(|(at, (count, what))| {
            let more = if at == 0 { "more " } else { "" };
            let plural = if *count == 1 { "" } else { "s" };
            format!("+{count} {more}{what}{plural}")
        });
        self.style.dim(&words.collect::<Vec<_>>().join(", "))
    }

    /// Makes all parts of the view but the peers, whose tables depend on the room.
    fn parts(&self) -> Parts {
        let second = self.second;
        let queues = second.queues.iter().take(self.rows);
        let queues: Vec<_> = queues.map(queue).collect();
        let queues = match queues[..] {
            [] => Vec::new(),
            _ => fit(&QUEUES, &queues, Some(self.columns), self.style).lines(),
        };
        let (histograms, spreads) = (self.telemetry, &second.telemetry);
        let distributions = [
            distribution("frag bytes", &histograms.frag_size, &spreads.frag_size),
            distribution(
                "frags a call",
                &histograms.frags_per_call,
                &spreads.frags_per_call,
            ),
            distribution(
                "held at flush",
                &histograms.held_at_flush,
                &spreads.held_at_flush,
            ),
            distribution("held for µs", &histograms.hold_time, &spreads.hold_time_us),
        ];
        Parts {
            pools: self.pools(),
            queues,
            distributions: fit(
                &DISTRIBUTIONS,
                &distributions,
                Some(self.columns),
                self.style,
            )
            .lines(),
            peers: Peers::default(),
        }
    }

    fn head(&self) -> Vec<String> {
        let (second, style) = (self.second, self.style);
        let at = second.at as u64;
        let rate = style.good(&format!("{:.1} MiB/s", second.mib_per_second));
        let mut phrases = vec![
            format!("{}  {rate}", style.bold(self.title)),
            // The first bytes came some time in the second before they were seen.
            format!("about {:.1} on average", second.mean_mib_per_second),
            format!("{} in {}:{:02}", amount(second.bytes), at / 60, at % 60),
            plural(second.connections.len() as u64, "connection"),
        ];
        if second.ended > 0 {
            phrases.push(format!("{} ended", second.ended));
        }
        if second.missing > 0 {
            let threads = plural(second.missing as u64, "thread");
            phrases.push(style.warn(&format!("no answer from {threads}")));
        }
        self.list(phrases)
    }

    fn counters(&self) -> Vec<String> {
        let tokens = &self.second.tokens;
        let count = |name: &str, count: Option<u64>| match count {
            None => format!("no {name} known"),
            Some(0) => format!("{name} 0"),
            Some(count) => self.style.bad(&format!("{name} {count}")),
        };
        self.list(vec![
            format!("tokens: {} issued", tokens.issued),
            format!("{} held", tokens.held),
            format!("{} kept", tokens.kept),
            count("rx-alloc-fail", self.second.memory.alloc_fail),
            count("rx-hw-drops", self.second.memory.hw_drops),
        ])
    }

    /// Joins phrases with commas, and wraps them into lines.
    fn list(&self, mut phrases: Vec<String>) -> Vec<String> {
        let last = phrases.len().saturating_sub(1);
        for phrase in phrases.iter_mut().take(last) {
            phrase.push(',');
        }
        let phrases = phrases.iter().map(String::as_str);
        flow(phrases, self.columns, INDENT)
    }

    /// Makes a line for each dmabuf, with a bar of its niovs in use as long as there is room.
    fn pools(&self) -> Vec<String> {
        let pools = &self.second.memory.pools;
        let pools = &pools[..pools.len().min(self.rows)];
        let most = |of: fn(&Pool) -> u64| pools.iter().map(of).max().unwrap_or(0);
        let name = most(|pool| pool.dmabuf.get().into()).to_string().len();
        let wide = most(|pool| pool.niovs.max(pool.in_use.unwrap_or(0)));
        let wide = wide.to_string().len();
        let line = |pool: &Pool, short: bool, bar_wide: usize| {
            let Pool { dmabuf, niovs, .. } = pool;
            let dmabuf = dmabuf.get();
            let Some(in_use) = pool.in_use else {
                return format!("dmabuf {dmabuf:>name$}: {niovs} niovs");
            };
            let bar = bar(in_use, *niovs, bar_wide);
            let bar = match in_use * 8 / niovs.max(&1) {
                0..=5 => self.style.good(&bar),
                6 => self.style.warn(&bar),
                _ => self.style.bad(&bar),
            };
            // Without the NIC's own count it is computed from our tokens and the sockets' memory.
            let about = if pool.inflight.is_none() {
                "about "
            } else {
                ""
            };
            let peak = pool.peak_in_use.unwrap_or(in_use);
            let words = match short {
                true => format!(
                    "{about}{in_use:>wide$} of {niovs:>wide$} taken, most seen {peak:>wide$}"
                ),
                false => format!(
                    "{about}{in_use:>wide$} of {niovs:>wide$} niovs taken, most seen at a look {peak:>wide$}"
                ),
            };
            format!("dmabuf {dmabuf:>name$} [{bar}] {words}")
        };
        let room = |short: bool| {
            let widths = pools.iter().map(|pool| width(&line(pool, short, 0)));
            self.columns.checked_sub(widths.max().unwrap_or(0))
        };
        let long = room(false).filter(|room| *room >= LEAST_BAR);
        let bar = long.or_else(|| room(true)).unwrap_or(0).min(MOST_BAR);
        let lines = pools.iter().map(|pool| line(pool, long.is_none(), bar));
        lines.collect()
    }

    /// Shows the peers that fit into `room` lines, in one table or in narrower ones side by side.
    fn peers(&self, room: usize) -> Peers {
        let peers = self.second.connections.iter().take(ABREAST * self.rows);
        let rows: Vec<_> = peers.map(connection).collect();
        let mut most = Peers::default();
        if room < 2 {
            return most;
        }
        for abreast in 1..=ABREAST {
            let wide = self.columns.saturating_sub(GAP * (abreast - 1)) / abreast;
            let table = fit(&PEERS, &rows, Some(wide), self.style);
            if most.shown == rows.len() || abreast > 1 && table.width > wide {
                break;
            }
            let shown = rows.len().min((room - 1) * abreast);
            most = Peers {
                lines: side_by_side(table, shown, abreast),
                shown,
            };
        }
        most
    }
}

impl Parts {
    fn lines(self, blanks: bool) -> Vec<String> {
        let mut lines = self.pools;
        for part in [self.queues, self.distributions, self.peers.lines] {
            if blanks && !part.is_empty() {
                lines.push(String::new());
            }
            lines.extend(part);
        }
        lines
    }
}

/// Splits the first `shown` rows of a table into tables side by side, with the first rows leftmost.
fn side_by_side(table: Fitted, shown: usize, abreast: usize) -> Vec<String> {
    let Fitted {
        head,
        rows,
        width: wide,
        ..
    } = table;
    let rows: Vec<_> = rows.into_iter().flatten().take(shown).collect();
    let mut tables = rows.chunks(shown.div_ceil(abreast).max(1));
    let Some(first) = tables.next() else {
        return Vec::new();
    };
    let with_head =
        |rows: &[String]| -> Vec<String> { std::iter::once(&head).chain(rows).cloned().collect() };
    let mut lines = with_head(first);
    for (at, rows) in tables.enumerate() {
        let begin = (wide + GAP) * (at + 1);
        for (line, right) in lines.iter_mut().zip(with_head(rows)) {
            let blanks = begin.saturating_sub(width(line));
            *line += &(" ".repeat(blanks) + &right);
        }
    }
    lines
}

/// Cuts lines off after the first `rows`, and adds an ellipsis to the last if any were cut off.
fn first(mut lines: Vec<String>, rows: usize, columns: usize) -> Vec<String> {
    let more = lines.len() > rows;
    lines.truncate(rows);
    if let Some(last) = lines.last_mut().filter(|_| more) {
        *last = cut(&format!("{last} …"), columns);
    }
    lines
}
