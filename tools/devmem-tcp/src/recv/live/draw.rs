//! The view on a terminal: drawn in place, over what was drawn before. No mode of the terminal is
//! changed, so that there is nothing to restore, whatever ends the receiver.

use common::text::shown;
use devmem::{Histogram, Telemetry};

use super::second::{Connection, Queue, Second, plural};
use crate::recv::pool::Pool;
use crate::style::Style;
use crate::table::align;

/// Lines of a terminal that does not say.
const HEIGHT: usize = 24;
const WIDTH: usize = 80;
/// Of the bar that shows a pool.
const BAR: usize = 24;
/// From nothing to most.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What was drawn on a terminal.
pub(super) struct Screen {
    title: String,
    style: Style,
    to_stderr: bool,
    /// The most lines to draw.
    most: usize,
    /// Lines that are ours, up to the cursor in the last of them.
    drawn: usize,
    size: (usize, usize),
}

impl Screen {
    pub(super) fn new(title: String, to_stderr: bool, most: usize) -> Self {
        let style = match to_stderr {
            true => Style::stderr(),
            false => Style::stdout(),
        };
        Self {
            title,
            style,
            to_stderr,
            most,
            drawn: 0,
            size: (0, 0),
        }
    }

    /// The bytes that draw it anew.
    pub(super) fn draw(&mut self, second: &Second, telemetry: &Telemetry) -> String {
        let size = size(self.to_stderr);
        let mut text = match self.drawn {
            // Lines may have been wrapped anew: where they begin is not known any more.
            drawn if drawn > 1 && size != self.size => "\x1b[H\x1b[2J".to_owned(),
            drawn => to_first(drawn),
        };
        self.size = size;
        let (columns, rows) = size;
        let lines = self.lines(second, telemetry, self.most.min(rows.saturating_sub(1)));
        self.drawn = lines.len();
        let lines = lines.iter();
        let lines = lines.map(|line| cut(&shown(line), columns.saturating_sub(1)));
        text += &lines.collect::<Vec<_>>().join("\x1b[K\n");
        text + "\x1b[J"
    }

    /// The bytes that take it off the terminal.
    pub(super) fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            drawn => to_first(drawn) + "\x1b[J",
        }
    }

    /// At most `rows` lines; connections get what is left.
    fn lines(&self, second: &Second, telemetry: &Telemetry, rows: usize) -> Vec<String> {
        let style = self.style;
        let mut lines = vec![self.head(second)];
        lines.extend(second.memory.pools.iter().map(|pool| self.pool(pool)));
        lines.push(self.counters(second));
        lines.push(String::new());
        lines.extend(self.table(
            &[
                "queue",
                "MiB/s",
                "bytes",
                "connections",
                "alloc-fail",
                "drops",
            ],
            second.queues.iter().map(queue),
        ));
        lines.push(String::new());
        let histograms = [
            (
                "frag bytes",
                &telemetry.frag_size,
                &second.telemetry.frag_size,
            ),
            (
                "frags a call",
                &telemetry.frags_per_call,
                &second.telemetry.frags_per_call,
            ),
            (
                "held at flush",
                &telemetry.held_at_flush,
                &second.telemetry.held_at_flush,
            ),
            (
                "held for µs",
                &telemetry.hold_time,
                &second.telemetry.hold_time_us,
            ),
        ];
        let bars = histograms.map(|(name, histogram, spread)| {
            let spread = spread.to_text().unwrap_or_default();
            vec![style.bold(name), bars(histogram), style.dim(&spread)]
        });
        lines.extend(align(&bars).lines().map(str::to_owned));
        lines.push(String::new());
        let room = rows.saturating_sub(lines.len() + 1);
        if room > 1 && !second.connections.is_empty() {
            let all = second.connections.len();
            let shown = if all > room { room - 1 } else { all };
            let rows = second.connections.iter().take(shown).map(connection);
            lines.extend(self.table(
                &[
                    "peer", "queue", "MiB/s", "bytes", "frags", "held", "kept", "queued",
                ],
                rows,
            ));
            if shown < all {
                lines.push(style.dim(&format!("and {} more", all - shown)));
            }
        }
        lines.truncate(rows);
        lines
    }

    fn head(&self, second: &Second) -> String {
        let at = second.at as u64;
        let mut text = format!(
            "{}  {}  {:.1} on average, {} in {}:{:02}, {}",
            self.style.bold(&self.title),
            self.style
                .good(&format!("{:.1} MiB/s", second.mib_per_second)),
            second.mean_mib_per_second,
            amount(second.bytes),
            at / 60,
            at % 60,
            plural(second.connections.len() as u64, "connection"),
        );
        if second.ended > 0 {
            text += &format!(", {} ended", second.ended);
        }
        if second.missing > 0 {
            let threads = plural(second.missing as u64, "thread");
            text += &self.style.warn(&format!("  no answer from {threads}"));
        }
        text
    }

    fn pool(&self, pool: &Pool) -> String {
        let Some(in_use) = pool.in_use else {
            return format!("dmabuf {}: {} niovs", pool.dmabuf, pool.niovs);
        };
        let peak = pool.peak_in_use.unwrap_or(in_use);
        let niovs = pool.niovs.max(1);
        let bar = bar(in_use, niovs);
        let bar = match in_use * 8 / niovs {
            0..=5 => self.style.good(&bar),
            6 => self.style.warn(&bar),
            _ => self.style.bad(&bar),
        };
        format!(
            "dmabuf {} [{bar}] {in_use} of {niovs} niovs taken, {peak} the most seen",
            pool.dmabuf
        )
    }

    fn counters(&self, second: &Second) -> String {
        let tokens = &second.tokens;
        let count = |name: &str, count: Option<u64>| match count {
            None => format!(", no {name} known"),
            Some(0) => format!(", {name} 0"),
            Some(count) => format!(", {}", self.style.bad(&format!("{name} {count}"))),
        };
        format!(
            "tokens: {} issued, {} held, {} kept{}{}",
            tokens.issued,
            tokens.held,
            tokens.kept,
            count("rx-alloc-fail", second.memory.alloc_fail),
            count("rx-hw-drops", second.memory.hw_drops),
        )
    }

    fn table(&self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
        let head = head.iter().map(|cell| self.style.bold(cell)).collect();
        let all: Vec<_> = std::iter::once(head).chain(rows).collect();
        align(&all).lines().map(str::to_owned).collect()
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn queue(queue: &Queue) -> Vec<String> {
    let name = match (queue.queue, queue.napi_id) {
        (Some(id), _) => id.to_string(),
        (None, Some(napi)) => format!("napi {napi}"),
        (None, None) => "not known".to_owned(),
    };
    vec![
        name,
        format!("{:.1}", queue.mib_per_second),
        amount(queue.bytes),
        queue.connections.to_string(),
        or_dash(queue.alloc_fail),
        or_dash(queue.hw_drops),
    ]
}

fn connection(connection: &Connection) -> Vec<String> {
    let paused = connection.paused_seconds;
    vec![
        connection.peer.clone(),
        or_dash(connection.queue),
        match paused {
            Some(seconds) => format!("paused {seconds:.0} s"),
            None => format!("{:.1}", connection.mib_per_second),
        },
        amount(connection.bytes),
        connection.frags.to_string(),
        connection.tokens.held.to_string(),
        connection.tokens.kept.to_string(),
        amount(connection.queued_bytes),
    ]
}

/// `1.5 GiB`.
fn amount(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// `######------`.
fn bar(part: u64, whole: u64) -> String {
    let full = (part.min(whole) * BAR as u64).div_ceil(whole.max(1)) as usize;
    "#".repeat(full) + &"-".repeat(BAR - full)
}

/// A block for each power of two between the least value and the greatest.
fn bars(histogram: &Histogram) -> String {
    let most = histogram.buckets().map(|bucket| bucket.count).max();
    let (Some(most), Some(first)) = (most, histogram.buckets().next()) else {
        return String::new();
    };
    let mut text = String::new();
    let mut next = first.from;
    for bucket in histogram.buckets() {
        while next < bucket.from {
            text.push(' ');
            next = (next * 2).max(1);
        }
        let height = (bucket.count * 7).div_ceil(most) as usize;
        text.push(BLOCKS[height.min(7)]);
        next = bucket.to.saturating_add(1);
    }
    text
}

/// The first columns of text as it is shown, and no colour that goes on behind them.
fn cut(text: &str, columns: usize) -> String {
    let mut cut = String::new();
    let mut chars = text.chars();
    let mut taken = 0;
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            cut.push(c);
            for c in chars.by_ref() {
                cut.push(c);
                if c == 'm' {
                    break;
                }
            }
        } else if taken < columns {
            cut.push(c);
            taken += 1;
        }
    }
    cut
}

/// The bytes that move the cursor from the last of these lines to the begin of the first.
fn to_first(drawn: usize) -> String {
    match drawn {
        0 => String::new(),
        1 => "\r".to_owned(),
        _ => format!("\x1b[{}A\r", drawn - 1),
    }
}

/// Columns and rows.
fn size(of_stderr: bool) -> (usize, usize) {
    let size = match of_stderr {
        true => terminal_size::terminal_size_of(std::io::stderr()),
        false => terminal_size::terminal_size_of(std::io::stdout()),
    };
    match size {
        Some((columns, rows)) if columns.0 > 0 && rows.0 > 0 => (columns.0.into(), rows.0.into()),
        _ => (WIDTH, HEIGHT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_all_is_taken() {
        assert_eq!(bar(0, 8), "-".repeat(BAR));
        assert_eq!(bar(8, 8), "#".repeat(BAR));
        assert_eq!(bar(9, 8), "#".repeat(BAR));
        assert!(bar(1, 1000).starts_with("#-"));
        assert_eq!(bar(4, 8).matches('#').count(), BAR / 2);
    }

    #[test]
    fn bars_leave_room_for_what_never_came() {
        let mut histogram = Histogram::default();
        assert_eq!(bars(&histogram), "");
        for value in [0, 1, 8, 8, 8, 8, 8, 8, 8] {
            histogram.record(value);
        }
        assert_eq!(bars(&histogram), "▂▂  █");
    }

    #[test]
    fn a_line_is_cut_with_its_colours_closed() {
        assert_eq!(cut("abcdef", 3), "abc");
        assert_eq!(cut("\x1b[1mabcdef\x1b[0mgh", 3), "\x1b[1mabc\x1b[0m");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn amounts() {
        let said = [0, 1023, 1024, 3 << 19, 5 << 40].map(amount);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5120.0 GiB"]);
    }

    #[test]
    fn one_line_is_drawn_over_itself_and_taken_off() {
        let mut screen = Screen::new("recv eth1".to_owned(), false, 1);
        assert_eq!(screen.erase(), "");
        let first = screen.draw(&Second::default(), &Telemetry::default());
        assert!(
            first.starts_with("recv eth1 ") && !first.contains('\n'),
            "{first:?}"
        );
        let next = screen.draw(&Second::default(), &Telemetry::default());
        assert_eq!(next, format!("\r{first}"));
        assert_eq!(screen.erase(), "\r\x1b[J");
        assert_eq!(screen.erase(), "");
    }

    #[test]
    fn it_fits_the_terminal() {
        let screen = Screen::new("recv eth1".to_owned(), false, usize::MAX);
        let one = Connection {
            peer: "192.0.2.1:4711".to_owned(),
            queue: Some(3),
            napi_id: None,
            bytes: 1 << 30,
            mib_per_second: 7.0,
            frags: 5,
            tokens: crate::recv::live::second::Tokens::default(),
            queued_bytes: 0,
            paused_seconds: None,
        };
        let second = Second {
            connections: vec![one; 40],
            ..Second::default()
        };
        for rows in [0, 1, 5, 23, 60] {
            let lines = screen.lines(&second, &Telemetry::default(), rows);
            assert!(lines.len() <= rows, "{lines:#?}");
        }
        let lines = screen.lines(&second, &Telemetry::default(), 23);
        let last = lines.last().unwrap();
        assert!(
            last.starts_with("and ") && last.ends_with(" more"),
            "{last}"
        );
    }
}
