//! SIGINT and SIGTERM end the receiver, not the process; a second one the process, too, which may be
//! stuck in a write that nobody takes. The guardian of the NIC then puts it back.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use devmem::engine::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::exit;

#[derive(Default)]
struct State {
    came: Option<i32>,
    stop: Option<StopHandle>,
}

/// What has come of them.
pub(super) struct Signal(Arc<Mutex<State>>);

impl Signal {
    /// From here on they end what [`Signal::stops`] names.
    pub(super) fn attend() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
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

    /// Stops this engine when one comes, or has come.
    pub(super) fn stops(&self, stop: StopHandle) {
        let mut state = self.lock();
        if state.came.is_some() {
            stop.stop();
        }
        state.stop = Some(stop);
    }

    /// The one that came, if any.
    pub(super) fn came(&self) -> Option<i32> {
        self.lock().came
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
