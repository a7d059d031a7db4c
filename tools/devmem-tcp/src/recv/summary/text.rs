//! Text form of a receiver's summary.

use common::text::width;

use super::{Calls, Connection, Counts, Refused, Summary};
use crate::recv::live::plural;
use crate::recv::spread::{Spread, Spreads};
use crate::wrap::flow;

/// Greatest number of peers that the summary's text names.
const NAMED: usize = 4;
/// Greatest width of a line in columns, also on a wider terminal and without a terminal.
const COLUMNS: usize = 80;
/// Column at which a line's text begins, after the line's name.
const INDENT: usize = 13;

/// Lines of a summary's text, wrapped at a number of columns.
struct Lines {
    columns: usize,
    lines: Vec<String>,
}

impl Lines {
    /// Adds a line with a name, wrapped between phrases where it is too long.
    fn add(&mut self, name: &str, phrases: &[&str]) {
        let [first, rest @ ..] = phrases else { return };
        let first = format!("  {name:<10} {first}");
        let phrases = std::iter::once(first.as_str()).chain(rest.iter().copied());
        self.lines.extend(flow(phrases, self.columns, INDENT));
    }

    /// Adds a line with a name, wrapped between words where it is too long.
    fn add_text(&mut self, name: &str, text: &str) {
        self.add(name, &text.split(' ').collect::<Vec<_>>());
    }
}

impl Summary {
    /// Formats the summary as text: a line with the total, then a line for each part. Lines are at
    /// most as wide as a terminal of `columns` columns or 80.
    pub(super) fn to_text(&self, columns: Option<usize>) -> String {
        let mut lines = Lines {
            columns: columns.unwrap_or(COLUMNS).min(COLUMNS),
            lines: Vec::new(),
        };
        self.whole(&mut lines);
        let Self {
            frag_bytes, frags, ..
        } = self;
        let mean = frag_bytes.checked_div(*frags).unwrap_or(0);
        lines.add(
            "dmabuf",
            &[
                &format!("{frag_bytes} bytes in {frags} frags"),
                &format!(
                    "({mean} bytes a frag, {:.0} frags a MiB)",
                    self.frags_per_mib
                ),
            ],
        );
        lines.add("linear", &[&format!("{} bytes", self.linear_bytes)]);
        lines.add("unsteered", &[&format!("{} bytes", self.unsteered_bytes)]);
        lines.add(
            "tokens",
            &[
                &format!("{} issued,", self.tokens.issued),
                &format!("{} returned", self.tokens.returned),
            ],
        );
        let Calls {
            recvmsg,
            dontneed,
            epoll_wait,
        } = self.calls;
        lines.add(
            "calls",
            &[
                &format!("{recvmsg} recvmsg,"),
                &format!("{dontneed} dontneed,"),
                &format!("{epoll_wait} epoll_wait:"),
                &format!("{:.2} a MiB", self.calls_per_mib),
            ],
        );
        self.telemetry(&mut lines);
        self.memory(&mut lines);
        self.checksums(&mut lines);
        self.refused(&mut lines);
        if let Some(warning) = &self.warning {
            lines.add_text("warning", warning);
        }
        lines.lines.join("\n") + "\n"
    }

    /// Adds the total: bytes, peers and rate, in one line if the peers' names fit.
    fn whole(&self, lines: &mut Lines) {
        let received = format!("received {} bytes", self.bytes);
        let rate = format!(
            "in {:.2} s ({:.1} MiB/s)",
            self.seconds, self.mib_per_second
        );
        let validated = self.validated();
        let rate = match validated.is_empty() {
            true => rate,
            false => rate + ",",
        };
        let peers = self.peers();
        let one = format!("{received} from {} {rate} {validated}", peers.join(" "));
        let one = one.trim_end();
        if width(one) <= lines.columns {
            return lines.lines.push(one.to_owned());
        }
        let phrases = [received.as_str(), &rate, &validated];
        let phrases = phrases.into_iter().filter(|phrase| !phrase.is_empty());
        lines.lines.extend(flow(phrases, lines.columns, INDENT));
        let peers: Vec<_> = peers.iter().map(String::as_str).collect();
        lines.add("from", &peers);
    }

    fn refused(&self, lines: &mut Lines) {
        let Refused { count, first } = &self.refused;
        if *count == 0 {
            return;
        }
        let mut phrases = vec![format!("{count} from elsewhere:")];
        let more = count.saturating_sub(first.len() as u64);
        phrases.extend(list(first, more));
        let phrases: Vec<_> = phrases.iter().map(String::as_str).collect();
        lines.add("refused", &phrases);
    }

    /// Says how many bytes were validated. Claims all bytes only if all were compared and no
    /// connection failed.
    fn validated(&self) -> String {
        let (Some(period), Some(validated)) = (self.validate_period, self.validated_bytes) else {
            return String::new();
        };
        let all = validated == self.bytes;
        match all && self.ended.failed == 0 {
            _ if self.bytes == 0 => String::new(),
            true => format!("every byte validated (period {period})"),
            false => format!(
                "{validated} of {} bytes validated (period {period})",
                self.bytes
            ),
        }
    }

    /// Counts ended connections by how they ended, where each was printed at its end.
    fn served(&self) -> String {
        let Counts {
            failed,
            stopped,
            unprinted,
            ..
        } = self.ended;
        let mut text = plural(self.ended.all(), "connection");
        for (number, what) in [
            (failed, "failed"),
            (stopped, "open still"),
            (unprinted, "not printed"),
        ] {
            if number > 0 {
                text += &format!(", {number} {what}");
            }
        }
        text
    }

    /// Names of the first peers, and the number of further peers.
    fn peers(&self) -> Vec<String> {
        let peers = self.connections.iter().map(|peer| peer.peer.clone());
        let named: Vec<_> = peers.take(NAMED).collect();
        match self.connections.len() {
            0 if self.served => vec![self.served()],
            0 => vec!["nobody".to_owned()],
            all => list(&named, (all - named.len()) as u64),
        }
    }

    fn telemetry(&self, lines: &mut Lines) {
        let Spreads {
            frag_size,
            frags_per_call,
            held_at_flush,
            hold_time_us,
        } = &self.telemetry;
        let mut line = |name: &str, spread: &Spread, unit: &str, mean: &str| {
            if let Some(spread) = spread.to_text() {
                let first = format!("{spread} {unit}");
                match mean.is_empty() {
                    true => lines.add(name, &[&first]),
                    false => lines.add(name, &[&first, mean]),
                }
            }
        };
        line("frag size", frag_size, "bytes", "");
        let per_call = format!("({:.1} on average)", self.frags_per_call);
        line("a recvmsg", frags_per_call, "frags", &per_call);
        let per_call = format!("({:.1} a dontneed)", self.tokens.per_dontneed);
        line("a flush", held_at_flush, "tokens", &per_call);
        line("held for", hold_time_us, "µs", "");
    }

    fn checksums(&self, lines: &mut Lines) {
        for connection in &self.connections {
            let Connection { peer, bytes, .. } = connection;
            let (Some(crc32), Some(of)) = (connection.crc32, connection.crc32_bytes) else {
                continue;
            };
            if of == *bytes && connection.closed {
                let sum = format!("{crc32:08x} of {bytes} bytes");
                lines.add("crc32", &[&sum, &format!("from {peer}")]);
            } else {
                let sum = format!("{crc32:08x} of the first {of} of {bytes} bytes");
                let phrases = [&sum, &format!("from {peer}:"), "not its whole stream"];
                lines.add("crc32", &phrases);
            }
        }
    }

    fn memory(&self, lines: &mut Lines) {
        for pool in &self.memory.pools {
            if let (Some(in_use), niovs) = (pool.peak_in_use, pool.niovs) {
                let mut taken = format!("{in_use} of {niovs} niovs taken");
                if let Some(inflight) = pool.peak_inflight {
                    taken += &format!(" ({inflight} with the pool's own)");
                }
                let looks = "the most seen at a look; there are 1 to 5 a second";
                lines.add("memory", &[&(taken + ","), looks]);
            }
        }
        if let Some(failed) = self.memory.alloc_fail {
            let failed = format!("{failed} failed allocations");
            match self.memory.hw_drops {
                Some(drops) => lines.add(
                    "nic",
                    &[&(failed + ","), &format!("{drops} packets dropped")],
                ),
                None => lines.add("nic", &[&failed]),
            }
        }
    }
}

/// Makes a list of phrases: names with commas between them, then the number of further names.
fn list(names: &[String], more: u64) -> Vec<String> {
    let last = names.len().saturating_sub(1);
    let with_comma = |(at, name): (usize, &String)| match at == last {
        true => name.clone(),
        false => format!("{name},"),
    };
    let mut list: Vec<_> = names.iter().enumerate().map(with_comma).collect();
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    list
}

#[cfg(test)]
mod tests {
    use devmem::Histogram;
    use netdev::{DmabufId, QueueId};

    use super::super::Tokens;
    use super::*;
    use crate::golden;
    use crate::recv::cpu::Cpu;
    use crate::recv::pool::{Pool, State};

    fn spread(values: &[u64]) -> Spread {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        (&histogram).into()
    }

    fn connection(number: u64, bytes: u64) -> Connection {
        Connection {
            peer: format!(
                "[2001:db8:1234:5678:9abc:def0:1234:{number:x}]:{}",
                40_000 + number
            ),
            bytes,
            closed: number != 1,
            error: None,
            remedy: None,
            silent: false,
            validated_bytes: Some(bytes),
            crc32: Some(0x1234_5678 * number as u32),
            crc32_bytes: Some(if number == 1 {
                bytes.saturating_sub(5)
            } else {
                bytes
            }),
        }
    }

    fn summary(connections: Vec<Connection>) -> Summary {
        let bytes: u64 = connections.iter().map(|one| one.bytes).sum();
        let frags = bytes >> 12;
        Summary {
            device: "enp129s0f1np1".to_owned(),
            queues: vec![QueueId::new(15)],
            bytes,
            frag_bytes: bytes,
            frags,
            frags_per_mib: 256.0,
            frags_per_call: 31.9,
            linear_bytes: 1_048_576,
            unsteered_bytes: 1_099_511_627_776,
            tokens: Tokens {
                issued: frags,
                returned: frags,
                per_dontneed: 1012.3,
            },
            calls: Calls {
                recvmsg: frags / 32,
                dontneed: frags / 1012,
                epoll_wait: frags / 64,
            },
            seconds: 1234.56,
            mib_per_second: 10_192.4,
            cpu: Cpu::default(),
            calls_per_mib: 12.34,
            telemetry: Spreads {
                frag_size: spread(&[1448, 4096, 4096]),
                frags_per_call: spread(&[1, 32, 128]),
                held_at_flush: spread(&[1, 1024]),
                hold_time_us: spread(&[0, 2_000, 8_000_000]),
            },
            memory: State {
                pools: vec![Pool::of(DmabufId::new(3), 262_144)],
                alloc_fail: Some(12_345_678),
                hw_drops: Some(1_234_567_890),
                ..State::default()
            },
            validate_period: Some(4096),
            validated_bytes: Some(bytes),
            ended: Counts {
                closed: connections.len() as u64,
                ..Counts::default()
            },
            connections,
            refused: Refused {
                count: 1234,
                first: (0..5).map(|number| connection(number, 0).peer).collect(),
            },
            warning: Some(
                "nothing came from [2001:db8::1]:40000, as from a port scan: --from ADDRESS accepts \
                 one address only"
                    .to_owned(),
            ),
            signal: None,
            complete: true,
            served: false,
            unreturned: 0,
        }
    }

    #[test]
    fn golden_summary() {
        let peers = (0..12).map(|number| connection(number, 1 << 40));
        let summary = summary(peers.collect());
        for columns in [60, 80] {
            let text = summary.to_text(Some(columns));
            golden::check(&format!("summary.{columns}.txt"), &text);
        }
        // No longer lines on a wider terminal, nor where there is none.
        let text = summary.to_text(Some(80));
        assert_eq!(summary.to_text(Some(160)), text);
        assert_eq!(summary.to_text(None), text);
        let long: Vec<_> = text.lines().filter(|line| width(line) > 80).collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn one_peer_is_named_in_the_first_line() {
        let mut one = connection(2, 3 << 20);
        one.peer = "192.0.2.1:4711".to_owned();
        let text = Summary {
            seconds: 2.5,
            mib_per_second: 1.2,
            validated_bytes: None,
            ..summary(vec![one])
        }
        .to_text(None);
        let first = "received 3145728 bytes from 192.0.2.1:4711 in 2.50 s (1.2 MiB/s)\n";
        assert!(text.starts_with(first), "{text}");
    }
}
