//! SIGINT and SIGTERM as a reason to stop a receiver in good order.
//!
//! The first signal stops the engine. A second one ends the process, which may be stuck in a write to a
//! full pipe; the guardian then restores the NIC.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use devmem::engine::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator;
use signal_hook::low_level::exit;

/// A signal of the same number that follows so soon is the same request: `timeout(1)` signals its
/// child, then the process group that the child is in.
const SAME: Duration = Duration::from_millis(200);

/// What a second signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// It ends the process at once, with status 128 and its number.
    Ends,
    /// It is counted like the first, as what the process does takes a moment only and must be undone.
    Waits,
}

#[derive(Default)]
struct State {
    first: Option<(i32, Instant)>,
    engine: Option<StopHandle>,
    /// Nothing is left to be stopped or restored.
    done: bool,
}

/// SIGINT and SIGTERM, caught.
#[derive(Clone)]
pub struct Signals(Arc<Mutex<State>>);

impl Signals {
    /// Catches both signals from here on, in a thread that ends with the process.
    ///
    /// # Errors
    /// Of `sigaction`, or of starting a thread.
    pub fn catch(second: Second) -> io::Result<Self> {
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM])?;
        let caught = Self(Arc::default());
        let theirs = caught.clone();
        let run = move || {
            for signal in signals.forever() {
                if theirs.is_second(signal) && second == Second::Ends {
                    exit(128 + signal);
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(run)?;
        Ok(caught)
    }

    /// Stops this engine when a signal comes, or has come.
    pub fn stop_engine(&self, engine: StopHandle) {
        let mut state = self.lock();
        if state.first.is_some() {
            engine.stop();
        }
        state.engine = Some(engine);
    }

    /// Nothing is left to be stopped or restored: from here on a signal ends the process at once, which may
    /// be stuck in the printing of its results.
    pub fn done(&self) {
        self.lock().done = true;
    }

    /// The first signal that came, if any.
    pub fn received(&self) -> Option<i32> {
        self.lock().first.map(|(signal, _)| signal)
    }

    /// Takes note of a signal; whether it follows another, or comes when all is done.
    fn is_second(&self, signal: i32) -> bool {
        let mut state = self.lock();
        match state.first {
            Some((first, at)) => first != signal || at.elapsed() > SAME,
            None => {
                state.first = Some((signal, Instant::now()));
                if let Some(engine) = &state.engine {
                    engine.stop();
                }
                state.done
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_signal_at_once_is_one_request() {
        let caught = Signals(Arc::default());
        assert!(!caught.is_second(SIGTERM));
        assert!(!caught.is_second(SIGTERM));
        assert!(
            caught.is_second(SIGINT),
            "another signal is another request"
        );
        thread::sleep(SAME + Duration::from_millis(1));
        assert!(caught.is_second(SIGTERM));
        assert_eq!(caught.received(), Some(SIGTERM));
    }

    #[test]
    fn a_signal_after_the_end_is_the_last() {
        let caught = Signals(Arc::default());
        caught.done();
        assert!(caught.is_second(SIGTERM));
    }
}
