//! SIGINT and SIGTERM as a request to stop a receiver in order.
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

/// Time within which a second signal of the same number is the same request: `timeout(1)` signals
/// its child, then the process group that the child is in.
const SAME_REQUEST: Duration = Duration::from_millis(200);

/// Effect of a second SIGINT or SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// Ends the process at once, with status 128 plus the signal's number.
    Ends,
    /// Is handled like the first, because the process takes only a moment longer and must undo its
    /// changes.
    Waits,
}

#[derive(Default)]
struct SignalState {
    first: Option<(i32, Instant)>,
    stop: StopHandle,
    /// Whether nothing is left to be stopped or restored, so that a signal may end the process.
    done: bool,
}

/// Handler of SIGINT and SIGTERM.
#[derive(Clone)]
pub struct Signals(Arc<Mutex<SignalState>>);

impl Signals {
    /// Catches SIGINT and SIGTERM from now on, in a thread that ends with the process. The first
    /// signal stops the engines that have this handle, or get it later.
    ///
    /// # Errors
    /// Those of `sigaction`, or of starting a thread.
    pub fn catch(second: Second, stop: &StopHandle) -> io::Result<Self> {
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM])?;
        let caught = Self(Arc::default());
        caught.lock().stop = stop.clone();
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

    /// Marks that nothing is left to be stopped or restored: from now on a signal ends the process
    /// at once, which may be stuck in printing its results.
    pub fn done(&self) {
        self.lock().done = true;
    }

    /// Returns the number of the first signal that came, if any.
    pub fn received(&self) -> Option<i32> {
        self.lock().first.map(|(signal, _)| signal)
    }

    /// Records a signal. Returns whether it is a second request, or comes when nothing is left to
    /// be done.
    fn is_second(&self, signal: i32) -> bool {
        let mut state = self.lock();
        match state.first {
            Some((first, at)) => first != signal || at.elapsed() > SAME_REQUEST,
            None => {
                state.first = Some((signal, Instant::now()));
                state.stop.stop();
                state.done
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, SignalState> {
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
        thread::sleep(SAME_REQUEST + Duration::from_millis(1));
        assert!(caught.is_second(SIGTERM));
        assert_eq!(caught.received(), Some(SIGTERM));
        assert!(caught.lock().stop.is_stopped());
    }

    #[test]
    fn a_signal_after_the_end_is_the_last() {
        let caught = Signals(Arc::default());
        caught.done();
        assert!(caught.is_second(SIGTERM));
    }
}
