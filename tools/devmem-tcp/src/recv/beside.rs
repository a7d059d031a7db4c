//! Detection of peers whose payload all comes in host memory, beside the dmabuf. TCP works for
//! them, but nothing is in device memory.

use common::remedy::of_connection;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use devmem::StreamStats;
use devmem::engine::{Connection, ConnectionError, Monitor, Progress, Report, Snapshot};

use super::pool::PATIENCE;
use super::sinks::Ready;

/// Time from a peer's first bytes until the peer is judged, unless a MiB comes sooner: a NIC may
/// leave a short first message beside the dmabuf, but not all of the first second or MiB.
const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// Longest time between two snapshots while some peers have sent nothing yet.
const LONGEST: Duration = Duration::from_secs(8);
/// Shortest time between two warnings of payload beside the dmabuf.
const EPISODE: Duration = Duration::from_secs(10);

/// Detector of peers whose payload all comes beside the dmabuf, in host memory. A snapshot wakes
/// the engine, so one is taken when peers come, more while some peers can't be judged, and none
/// after that.
pub(super) struct Beside {
    device: String,
    progress: Progress,
    monitor: Monitor,
    /// Number of connections accepted until the last tick.
    connections: u64,
    due: Option<Due>,
    pause: Duration,
    /// Time of the first snapshot with bytes from a peer, by peer index, until the peer is judged.
    since: HashMap<usize, Instant>,
    judged: HashSet<usize>,
    /// Whether unsteered payload is an error (`--refuse-unsteered`).
    refused: bool,
    warned: Option<Instant>,
    warning: Option<String>,
}

/// Time of the next snapshot, or the number of received bytes at which it is taken if sooner.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    bytes: u64,
}

/// Peers that a snapshot shows to receive nothing into the dmabuf, and whether to look again.
#[derive(Debug, Default)]
struct Judgement {
    /// Peers whose payload all came beside the dmabuf, with their counters.
    beside: Vec<(String, StreamStats)>,
    /// Whether a peer has sent bytes but can't be judged, or warned of, yet.
    sending: bool,
    /// Whether a peer has sent nothing yet, or an engine did not answer.
    silent: bool,
}

impl Beside {
    /// Makes a detector for a receiver's peers; `refused` says that unsteered payload is an error.
    pub(super) fn new(ready: &Ready<'_>, refused: bool) -> Self {
        Self {
            device: ready.device().link.name.clone(),
            progress: ready.progress(),
            monitor: ready.monitor(),
            connections: 0,
            due: None,
            pause: SECOND,
            since: HashMap::new(),
            judged: HashSet::new(),
            refused,
            warned: None,
            warning: None,
        }
    }

    /// Last warning of payload beside the dmabuf, without its remedy; `None` if there was none.
    pub(super) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Judges the peers if a snapshot is due. May return a warning, with a remedy on a second line.
    pub(super) fn tick(&mut self) -> Option<String> {
        let (now, bytes) = (Instant::now(), self.progress.bytes());
        if bytes == 0 {
            return None;
        }
        let connections = self.progress.connections();
        if std::mem::replace(&mut self.connections, connections) != connections {
            self.pause = SECOND;
            self.due = Some(Due { at: now, bytes });
        }
        let due = self.due?;
        if now < due.at && bytes < due.bytes {
            return None;
        }
        let snapshot = self.monitor.snapshot(PATIENCE);
        let judgement = match &snapshot {
            Some(snapshot) => self.judge(snapshot, now),
            // Busy: another look, later.
            None => Judgement {
                silent: true,
                ..Judgement::default()
            },
        };
        self.due = match judgement {
            Judgement { sending: true, .. } => Some(Due {
                at: now + SECOND,
                bytes: bytes.saturating_add(MIB),
            }),
            Judgement { silent: true, .. } => {
                let at = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST);
                Some(Due {
                    at,
                    bytes: u64::MAX,
                })
            }
            _ => None,
        };
        let (peer, stats) = judgement.beside.first()?;
        self.warned = Some(now);
        let others = match judgement.beside.len() {
            1 => String::new(),
            all => format!(", and all of {} more,", all - 1),
        };
        self.warn(
            &format!("all {} bytes so far from {peer}{others} came", stats.bytes),
            stats,
        )
    }

    fn judge(&mut self, snapshot: &Snapshot, now: Instant) -> Judgement {
        let quiet = self.warned.is_some_and(|at| now < at + EPISODE);
        let mut judgement = Judgement {
            silent: snapshot.missing > 0,
            ..Judgement::default()
        };
        // Nothing is kept of those that have ended: a receiver may serve without end.
        if snapshot.missing == 0 {
            let open: HashSet<_> = snapshot
                .connections
                .iter()
                .map(|it| it.peer.index)
                .collect();
            self.judged.retain(|index| open.contains(index));
            self.since.retain(|index, _| open.contains(index));
        }
        for look in &snapshot.connections {
            let (index, stats) = (look.peer.index, look.stats);
            if self.judged.contains(&index) {
                continue;
            }
            if stats.bytes == 0 {
                judgement.silent = true;
                continue;
            }
            let since = *self.since.entry(index).or_insert(now);
            let enough = stats.bytes >= MIB || now.saturating_duration_since(since) >= SECOND;
            if stats.frags == 0 && (quiet || !enough) {
                judgement.sending = true;
                continue;
            }
            self.since.remove(&index);
            self.judged.insert(index);
            if stats.frags == 0 {
                judgement
                    .beside
                    .push((look.peer.address.to_string(), stats));
            }
        }
        judgement
    }

    /// Returns a final warning if no payload of any peer came into the dmabuf, unless an earlier
    /// warning or an error says that.
    pub(super) fn end(&mut self) -> Option<String> {
        let stats = self.monitor.snapshot(PATIENCE)?.total().stats;
        let refused = self.refused && stats.unsteered_bytes > 0;
        if self.warning.is_some() || refused || !is_beside(&stats) {
            return None;
        }
        self.warn(&format!("all {} bytes came", stats.bytes), &stats)
    }

    fn warn(&mut self, what: &str, stats: &StreamStats) -> Option<String> {
        let device = &self.device;
        let text = format!("recv {device}: {what} beside the dmabuf, nothing into it");
        let with_remedy = format!("{text}\n  {}", remedy(stats));
        self.warning = Some(text);
        Some(with_remedy)
    }
}

/// Makes the summary's warning of payload beside the dmabuf, with a remedy. `of_ended` is the
/// number of bytes, all beside the dmabuf, of connections that the report does not have.
pub(super) fn warning<S>(report: &Report<S>, of_ended: u64) -> Option<String> {
    let beside = |connection: &&Connection<S>| is_beside(&connection.stats);
    let peers: Vec<_> = report.connections.iter().filter(beside).collect();
    let all = &report.stats.stream;
    let (what, stats) = match peers.first() {
        _ if is_beside(all) => (format!("all {} bytes came", all.bytes), *all),
        Some(first) => {
            let (some, all) = (peers.len(), report.connections.len());
            let what = format!("all bytes of {some} of {all} connections came");
            (what, first.stats)
        }
        None if of_ended > 0 => (
            format!("all {of_ended} bytes of some connections came"),
            *all,
        ),
        None => return None,
    };
    Some(format!(
        "{what} beside the dmabuf, nothing into it: {}",
        remedy(&stats)
    ))
}

/// Whether a stream has payload, and none of it came into the dmabuf.
fn is_beside(stats: &StreamStats) -> bool {
    stats.bytes > 0 && stats.frags == 0
}

/// Remedy for payload beside the dmabuf, as `--refuse-unsteered` or `--refuse-linear` gives it.
fn remedy(stats: &StreamStats) -> &'static str {
    let unsteered = ConnectionError::Unsteered {
        offset: 0,
        bytes: 0,
    };
    let linear = ConnectionError::Linear {
        offset: 0,
        bytes: 0,
    };
    let error = match stats.unsteered_bytes {
        0 => linear,
        _ => unsteered,
    };
    of_connection(&error).unwrap_or("see devmem-tcp doctor IF")
}
