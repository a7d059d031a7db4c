//! Wake-ups of an engine by other threads: to stop, and for frags that are given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mio::Waker;

/// Handle that stops engines from another thread.
///
/// It may exist before the engine ([`Engine::stopped_by`](super::Engine::stopped_by)): a stop that comes
/// while the engine is set up is not lost. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct StopHandle(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    stopped: AtomicBool,
    /// Wakers of the engines that the handle stops; weak, because the handle may outlive them.
    wakers: Mutex<Vec<Weak<Waker>>>,
}

impl StopHandle {
    /// Makes a handle that stops nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the engines give all tokens back, close their connections and return: engines that
    /// run, and engines that are given this handle later. May be called at any time, any number of
    /// times.
    pub fn stop(&self) {
        // Before the wakers are looked at: an engine adds its waker before it looks at this.
        self.0.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Adds an engine, which looks at [`is_stopped`](Self::is_stopped) whenever its waker wakes it.
    pub(super) fn add(&self, waker: &Arc<Waker>) {
        let mut wakers = self.lock();
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(waker));
    }

    /// Wakes the engines that the handle stops.
    pub(super) fn wake(&self) {
        let wakers = self.lock();
        wakers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|waker| wake(&waker));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Waker>>> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        tracing::warn!(%error, "wake the event loop");
    }
}

/// List of connections whose sinks gave frags back outside of a turn.
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

    /// Adds a connection to the list, and wakes the engine.
    pub(super) fn tell(&self, index: usize) {
        let lock = self.connections.lock();
        lock.unwrap_or_else(PoisonError::into_inner).push(index);
        if !self.any.swap(true, Ordering::AcqRel) {
            wake(&self.waker);
        }
    }

    /// Moves the connections from the list into `out`, which is empty.
    pub(super) fn take(&self, out: &mut Vec<usize>) {
        if self.any.swap(false, Ordering::AcqRel) {
            let lock = self.connections.lock();
            std::mem::swap(&mut *lock.unwrap_or_else(PoisonError::into_inner), out);
        }
    }
}
