//! SIGINT and SIGTERM as a reason to stop a receiver in good order.
//!
//! The first signal stops the engine. A second one ends the process, which may be stuck in a write
//! that nobody reads; the guardian then restores the NIC.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use devmem::engine::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator;
use signal_hook::low_level::exit;

#[derive(Default)]
struct State {
    came: Option<i32>,
    stop: Option<StopHandle>,
}

/// SIGINT and SIGTERM, caught.
pub struct Signals(Arc<Mutex<State>>);

impl Signals {
    /// Catches both signals from here on.
    ///
    /// # Errors
    /// Of `sigaction`, or of starting a thread.
    pub fn catch() -> io::Result<Self> {
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM])?;
        let state = Arc::new(Mutex::new(State::default()));
        let theirs = Self(Arc::clone(&state));
        let run = move || {
            for signal in signals.forever() {
                let mut state = theirs.lock();
                if state.came.replace(signal).is_some() {
                    exit(128 + signal);
                }
                if let Some(stop) = &state.stop {
                    stop.stop();
                }
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(run)?;
        Ok(Self(state))
    }

    /// Stops this engine when a signal comes, or has come.
    pub fn stop_engine(&self, stop: StopHandle) {
        let mut state = self.lock();
        if state.came.is_some() {
            stop.stop();
        }
        state.stop = Some(stop);
    }

    /// The signal that came last, if any.
    pub fn received(&self) -> Option<i32> {
        self.lock().came
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
