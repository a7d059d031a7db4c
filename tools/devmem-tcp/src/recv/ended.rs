//! Connections that have ended: listed in the summary, or printed one by one if unlimited.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::remedy::of_connection;
use common::sink::AnySink;
use common::{stdio, with_sources};
use devmem::engine::{self, End};
use serde::Serialize;

use super::args::Args;
use super::sinks::Ready;

/// Connection that has ended, as it is printed.
#[derive(Serialize)]
pub(super) struct Connection {
    pub(super) peer: String,
    pub(super) bytes: u64,
    /// Whether the peer closed the connection, after all its bytes were received.
    pub(super) closed: bool,
    pub(super) error: Option<String>,
    /// Remedy for the error that ended the connection.
    #[serde(skip)]
    pub(super) remedy: Option<&'static str>,
    /// Whether the connection ended because its peer was silent, which has its own exit code.
    #[serde(skip)]
    pub(super) silent: bool,
    /// Number of payload bytes found equal to the pattern; `None` without `--validate`.
    pub(super) validated_bytes: Option<u64>,
    /// CRC-32 of the payload that the sink received, with `--checksum`.
    pub(super) crc32: Option<u32>,
    /// Number of payload bytes that the CRC-32 covers.
    pub(super) crc32_bytes: Option<u64>,
}

impl From<&engine::Connection<AnySink>> for Connection {
    fn from(connection: &engine::Connection<AnySink>) -> Self {
        let error = match &connection.end {
            End::Closed | End::Stopped => None,
            End::Failed(error) => Some(error),
        };
        let sink = connection.sink.as_ref();
        let crc32 = sink.and_then(AnySink::crc32);
        Self {
            peer: connection.peer.address.to_string(),
            bytes: connection.stats.bytes,
            closed: matches!(connection.end, End::Closed),
            error: error.map(|error| with_sources(error)),
            remedy: error.and_then(of_connection),
            silent: error.is_some_and(|error| error.is_silence()),
            validated_bytes: sink.and_then(AnySink::validated),
            crc32: crc32.map(|(crc32, _)| crc32),
            crc32_bytes: crc32.map(|(_, bytes)| bytes),
        }
    }
}

impl Connection {
    /// Describes the ended connection in one line, without the remedy.
    fn line(&self) -> String {
        let Self { peer, bytes, .. } = self;
        let found = match (self.validated_bytes, self.crc32) {
            (Some(validated), _) if validated == *bytes => ", every byte validated".to_owned(),
            (Some(validated), _) => format!(", {validated} of them validated"),
            (None, Some(crc32)) if self.crc32_bytes == Some(*bytes) => {
                format!(", crc32 {crc32:08x}")
            }
            _ => String::new(),
        };
        match &self.error {
            Some(error) => format!("{peer} failed after {bytes} bytes{found}: {error}"),
            None if self.closed => format!("{peer} closed: {bytes} bytes{found}"),
            None => format!("{peer} was open still: {bytes} bytes{found}"),
        }
    }
}

/// Numbers of connections that have ended, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Number of connections that the peer closed.
    pub(super) closed: u64,
    /// Number of connections that ended by an error.
    pub(super) failed: u64,
    /// Number of connections that were open when the receiver was stopped.
    pub(super) stopped: u64,
    /// Number of ended connections whose line was dropped, because the output was not read in time.
    pub(super) unprinted: u64,
}

impl Counts {
    /// Number of connections that have ended.
    pub(super) fn all(&self) -> u64 {
        self.closed + self.failed + self.stopped
    }

    pub(super) fn add(&mut self, connection: &Connection) {
        let count = match (&connection.error, connection.closed) {
            (Some(_), _) => &mut self.failed,
            (None, true) => &mut self.closed,
            (None, false) => &mut self.stopped,
        };
        *count += 1;
    }
}

/// Greatest number of lines about ended connections that may wait to be printed.
const MAX_LINES: usize = 1000;

/// Shared record of an unlimited receiver: sums over ended connections, and lines to be printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Served(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    sums: Sums,
    lines: Vec<Line>,
}

/// Line about a connection that has ended.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) is_warning: bool,
}

/// Sums over the connections that have ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) counts: Counts,
    /// Number of payload bytes found equal to the pattern of `--validate`.
    pub(super) validated: u64,
    /// Number of payload bytes of connections that received nothing into the dmabuf.
    pub(super) beside: u64,
    /// Number of tokens that were not returned, of connections that ended without an error.
    pub(super) unreturned: u64,
}

impl Served {
    /// Records each of the receiver's connections when it ends. With `--json`, prints it on
    /// standard output, or on standard error if standard output carries the payload; otherwise its
    /// line waits for [`Served::take_lines`].
    pub(super) fn attend(&self, ready: &mut Ready<'_>, args: &Args, stdout_taken: bool) {
        let served = self.clone();
        let (json, quiet) = (args.json, args.quiet);
        ready.on_end(move |ended| {
            let connection = Connection::from(&ended);
            let mut record = served.lock();
            let printed = match (json, record.lines.len() < MAX_LINES) {
                (true, _) => print_json(&connection, stdout_taken),
                (false, false) => false,
                (false, true) => {
                    let line = connection.to_line();
                    if line.is_warning || !quiet {
                        record.lines.push(line);
                    }
                    true
                }
            };
            let sums = &mut record.sums;
            sums.counts.add(&connection);
            sums.counts.unprinted += u64::from(!printed);
            sums.validated += connection.validated_bytes.unwrap_or(0);
            if ended.stats.frags == 0 {
                sums.beside += ended.stats.bytes;
            }
            if connection.error.is_none() {
                let tokens = ended.stats.tokens;
                sums.unreturned += tokens.issued.saturating_sub(tokens.freed);
            }
        });
    }

    /// Takes the waiting lines about ended connections, the earliest end first.
    pub(super) fn take_lines(&self) -> Vec<Line> {
        std::mem::take(&mut self.lock().lines)
    }

    pub(super) fn sums(&self) -> Sums {
        self.lock().sums
    }

    /// Counts an ended connection whose line could not be printed.
    pub(super) fn miss_line(&self) {
        self.lock().sums.counts.unprinted += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn to_line(&self) -> Line {
        let text = self.line();
        Line {
            text: match self.remedy {
                Some(remedy) => format!("{text}\n  {remedy}"),
                None => text,
            },
            is_warning: self.error.is_some(),
        }
    }
}

/// Prints an ended connection as a line of JSON. Never blocks, because it runs on a receiving
/// thread. Returns false if the line was dropped.
fn print_json(connection: &Connection, stdout_taken: bool) -> bool {
    let stream = match stdout_taken {
        true => stdio::stderr(),
        false => stdio::stdout(),
    };
    serde_json::to_string(connection).is_ok_and(|line| stream.post_raw(&(line + "\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Connection {
        Connection {
            peer: "192.0.2.1:4000".to_owned(),
            bytes: 1000,
            closed: true,
            error: None,
            remedy: None,
            silent: false,
            validated_bytes: None,
            crc32: None,
            crc32_bytes: None,
        }
    }

    #[test]
    fn a_line_claims_what_was_found() {
        assert_eq!(example().line(), "192.0.2.1:4000 closed: 1000 bytes");
        let validated = Connection {
            validated_bytes: Some(1000),
            ..example()
        };
        assert!(
            validated
                .line()
                .ends_with("1000 bytes, every byte validated")
        );
        let wrong = Connection {
            validated_bytes: Some(6),
            closed: false,
            error: Some("byte 6 is wrong".to_owned()),
            ..example()
        };
        assert_eq!(
            wrong.line(),
            "192.0.2.1:4000 failed after 1000 bytes, 6 of them validated: byte 6 is wrong"
        );
        // A checksum of a part is none of the stream.
        let part = Connection {
            crc32: Some(1),
            crc32_bytes: Some(10),
            closed: false,
            ..example()
        };
        assert_eq!(part.line(), "192.0.2.1:4000 was open still: 1000 bytes");
    }

    #[test]
    fn each_end_is_counted_once() {
        let mut counts = Counts::default();
        counts.add(&example());
        counts.add(&Connection {
            closed: false,
            ..example()
        });
        counts.add(&Connection {
            closed: false,
            error: Some("reset".to_owned()),
            ..example()
        });
        let once = Counts {
            closed: 1,
            failed: 1,
            stopped: 1,
            unprinted: 0,
        };
        assert_eq!(counts, once);
    }
}
