//! Wake-ups of an engine by other threads: to stop, and for frags that are given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mio::Waker;

/// Ends an engine, or all workers, from another thread, or from a signal handler's.
#[derive(Debug, Clone)]
pub struct StopHandle {
    stopped: Arc<AtomicBool>,
    wakers: Vec<Arc<Waker>>,
}

impl StopHandle {
    pub(super) fn new(stopped: Arc<AtomicBool>, wakers: Vec<Arc<Waker>>) -> Self {
        Self { stopped, wakers }
    }

    /// Has the engine give all tokens back, close its connections and return. May be called at any
    /// time, any number of times.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.wakers.iter().for_each(|waker| wake(waker));
    }
}

pub(super) fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        tracing::warn!(%error, "wake the event loop");
    }
}

/// Connections that got frags back from elsewhere.
#[derive(Debug)]
pub(super) struct Returned {
    connections: Mutex<Vec<usize>>,
    any: AtomicBool,
    waker: Arc<Waker>,
}

impl Returned {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self {
            connections: Mutex::default(),
            any: AtomicBool::new(false),
            waker,
        }
    }

    /// Wakes the engine to look at a connection.
    pub(super) fn tell(&self, index: usize) {
        let lock = self.connections.lock();
        lock.unwrap_or_else(PoisonError::into_inner).push(index);
        if !self.any.swap(true, Ordering::AcqRel) {
            wake(&self.waker);
        }
    }

    /// Takes them, into `out`, which is empty.
    pub(super) fn take(&self, out: &mut Vec<usize>) {
        if self.any.swap(false, Ordering::AcqRel) {
            let lock = self.connections.lock();
            std::mem::swap(&mut *lock.unwrap_or_else(PoisonError::into_inner), out);
        }
    }
}
