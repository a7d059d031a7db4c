//! Counters of a running engine, updated once a turn, never by the frag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a running [`Engine`](super::Engine), for another thread to read. They lag behind by
/// at most one turn of a connection ([`Config::budget`](super::Config::budget)).
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    connections: AtomicU64,
}

impl Progress {
    /// Number of payload bytes received so far, over all connections.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Number of connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Relaxed)
    }

    pub(super) fn received(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn connected(&self) {
        self.0.connections.fetch_add(1, Relaxed);
    }
}
