//! Sinks that validate the payload and then panic, or keep frags for some time or for ever.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use devmem::engine::Peer;
use devmem::pattern::{Pattern, Validator};
use devmem::sink::{Memory, Sink, SinkError};
use devmem::{Received, ReturnHandle, Segment, Token};

use framework::probe_receiver::SinkKind;

use super::Args;

/// Time after a connection's end before a sink of [`SinkKind::Late`] returns its frags.
const LATE_RETURN: Duration = Duration::from_millis(200);

/// Factory of the sinks, one for each peer.
pub(super) struct Sinks {
    kind: SinkKind,
    memory: Memory,
    culprit: Option<u16>,
    shared: Arc<Shared>,
}

/// State that all sinks share.
#[derive(Debug)]
struct Shared {
    /// Number of fair peers that have not ended yet.
    others: AtomicU64,
    bytes: AtomicU64,
    frags: AtomicU64,
    tell: u64,
}

impl Sinks {
    pub(super) fn new(kind: SinkKind, memory: Memory, args: &Args) -> Self {
        let culprits = args.culprit.map_or(args.peers, |_| 1);
        Self {
            kind,
            memory,
            culprit: args.culprit,
            shared: Arc::new(Shared {
                others: u64::from(args.peers - culprits).into(),
                bytes: 0.into(),
                frags: 0.into(),
                tell: args.tell.unwrap_or(u64::MAX),
            }),
        }
    }

    /// Creates the sink of a peer: of the probe's kind for the culprit, fair for others.
    pub(super) fn open(&self, peer: &Peer) -> Result<Checked, SinkError> {
        let guilty = self.culprit.is_none_or(|port| port == peer.address.port());
        let kind = if guilty { self.kind } else { SinkKind::Fair };
        let (keeper, kept) = channel();
        if kind == SinkKind::Last {
            let shared = Arc::clone(&self.shared);
            thread::spawn(move || give_back_last(&shared, &kept));
        } else if kind == SinkKind::Late {
            thread::spawn(move || give_back_late(kept));
        }
        Ok(Checked {
            kind,
            validator: Validator::new(Pattern::default()),
            memory: self.memory.clone(),
            shared: Arc::clone(&self.shared),
            keeper: Some(keeper),
            keeps: Vec::new(),
            kept: Arc::default(),
            most_kept: 0,
            threads: BTreeSet::new(),
        })
    }
}

/// Tokens that a sink kept, the handle to return them by, and the sink's count of kept frags.
struct Kept {
    handle: ReturnHandle,
    tokens: Vec<Token>,
    count: Arc<AtomicU64>,
}

impl Kept {
    fn give_back(self) {
        let frags = self.tokens.len() as u64;
        self.handle.give_back_all(self.tokens);
        self.count.fetch_sub(frags, Ordering::Relaxed);
    }
}

fn give_back_last(shared: &Shared, kept: &Receiver<Kept>) {
    while shared.others.load(Ordering::SeqCst) > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    kept.iter().for_each(Kept::give_back);
}

fn give_back_late(kept: Receiver<Kept>) {
    // Until the sink has no more.
    let all: Vec<Kept> = kept.into_iter().collect();
    thread::sleep(LATE_RETURN);
    all.into_iter().for_each(Kept::give_back);
}

/// A sink that validates the payload, and returns or keeps frags according to its kind.
pub(super) struct Checked {
    kind: SinkKind,
    validator: Validator,
    memory: Memory,
    shared: Arc<Shared>,
    /// Sends kept tokens to the thread that returns them; `None` after the peer's end.
    keeper: Option<Sender<Kept>>,
    /// Tokens that a [`SinkKind::Miser`] never returns.
    keeps: Vec<Token>,
    kept: Arc<AtomicU64>,
    most_kept: u64,
    threads: BTreeSet<String>,
}

impl Checked {
    /// Number of bytes, from the start on, that were right.
    pub(super) fn right_bytes(&self) -> u64 {
        self.validator.offset()
    }

    pub(super) fn most_kept(&self) -> u64 {
        self.most_kept.max(self.keeps.len() as u64)
    }

    pub(super) fn threads(&self) -> Vec<String> {
        self.threads.iter().cloned().collect()
    }

    /// Validates all received payload, and returns the tokens of its frags.
    fn check(&mut self, received: &mut Received<'_>) -> Result<Vec<Token>, SinkError> {
        let mut tokens = Vec::new();
        let mut reading = self.memory.read();
        for segment in received {
            match segment {
                Segment::Inline(bytes) => self.validator.check(bytes)?,
                Segment::Frag(frag) => {
                    let access = reading.of(frag.dmabuf)?;
                    let len = frag.len as usize;
                    self.validator.check_dmabuf(access, frag.offset, len)?;
                    tokens.push(frag.token);
                }
            }
        }
        reading.end()?;
        Ok(tokens)
    }

    fn keep(&mut self, handle: ReturnHandle, tokens: Vec<Token>) {
        let (frags, count) = (tokens.len() as u64, Arc::clone(&self.kept));
        let kept = count.fetch_add(frags, Ordering::Relaxed) + frags;
        self.most_kept = self.most_kept.max(kept);
        if let Some(keeper) = &self.keeper {
            // Only a thread that panicked does not listen: then the frags are missed.
            let _gone = keeper.send(Kept {
                handle,
                tokens,
                count,
            });
        }
    }
}

impl Sink for Checked {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.threads.insert(name);
        let (bytes, frags) = (received.bytes() as u64, received.frags() as u64);
        assert!(self.kind != SinkKind::Panic, "a sink that panics");
        let tokens = self.check(received)?;
        match self.kind {
            SinkKind::Miser => self.keeps.extend(tokens),
            SinkKind::Last | SinkKind::Late => self.keep(received.return_handle(), tokens),
            _ => tokens
                .into_iter()
                .for_each(|token| received.give_back(token)),
        }
        self.shared.tell(bytes, frags);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.keeper = None;
        if self.kind == SinkKind::Fair {
            self.shared.others.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Shared {
    /// Adds to the counts, and prints the number of frags once the number of bytes is reached.
    fn tell(&self, bytes: u64, frags: u64) {
        let frags = self.frags.fetch_add(frags, Ordering::SeqCst) + frags;
        let before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        if before < self.tell && before + bytes >= self.tell {
            // In one piece, which a trace shows as one call.
            let text = format!("{frags} frags\n");
            let _closed = std::io::stderr().write_all(text.as_bytes());
        }
    }
}
