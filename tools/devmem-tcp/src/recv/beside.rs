//! Peers whose payload all comes beside the dmabuf: TCP works, and nothing is in device memory.

use common::remedy::of_connection;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use devmem::StreamStats;
use devmem::engine::{Connection, ConnectionError, Monitor, Progress, Report, Snapshot};

use super::pool::PATIENCE;
use super::sinks::Ready;

/// A peer is judged by its first second, or its first MiB if that comes sooner: a NIC may leave a
/// short first message beside the dmabuf, but not all of that.
const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// Longest time between two looks while peers are waited for that have sent nothing yet.
const LONGEST: Duration = Duration::from_secs(8);
/// Shortest time between two warnings.
const EPISODE: Duration = Duration::from_secs(10);

/// Looks for such peers while they are received from. A look wakes the engine, so there is one when
/// peers come, others while some of them can't be judged, and none after that.
pub(super) struct Beside {
    device: String,
    progress: Progress,
    monitor: Monitor,
    /// Accepted when looked last.
    connections: u64,
    due: Option<Due>,
    pause: Duration,
    /// When a peer that can't be judged was first seen to have sent something.
    since: HashMap<usize, Instant>,
    judged: HashSet<usize>,
    /// Unsteered payload is an error.
    refused: bool,
    warned: Option<Instant>,
    warning: Option<String>,
}

/// When to look again, or at how many bytes in all if that comes sooner.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    bytes: u64,
}

/// What a look came to.
#[derive(Debug, Default)]
struct Judgement {
    /// Peers of which all came beside.
    beside: Vec<(String, StreamStats)>,
    /// Peers that have sent too little yet.
    sending: bool,
    /// Peers that have sent nothing yet.
    silent: bool,
}

impl Beside {
    /// For the peers of a receiver; `refused` says that unsteered payload is an error.
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

    /// The last warning.
    pub(super) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// A warning if there is one to give, with what to do on a second line.
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

    /// At the end: a warning if nothing at all came into the dmabuf, and neither a warning nor an
    /// error says so.
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

/// Warning of a receiver's end, with what to do. `of_ended` is the number of bytes, all beside the dmabuf, of
/// connections that the report does not have.
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

/// Whether a stream brought something, and nothing of it into the dmabuf.
fn is_beside(stats: &StreamStats) -> bool {
    stats.bytes > 0 && stats.frags == 0
}

/// What to do about it: that of the error which `--refuse-unsteered` or `--refuse-linear` makes of it.
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
