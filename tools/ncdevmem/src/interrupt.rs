//! SIGINT and SIGTERM: a reason to stop, and never one to leave the NIC as it is.

use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use devmem::engine::StopHandle;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// From its making on, the two signals are noted rather than deadly.
#[derive(Debug)]
pub(crate) struct Interrupt(Signals);

impl Interrupt {
    /// Before the first change to the NIC.
    pub(crate) fn install() -> Result<Self> {
        Ok(Self(
            Signals::new([SIGINT, SIGTERM]).context("signal handlers")?,
        ))
    }

    /// Between two steps: an error if a signal has come.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.0.pending().next() {
            Some(signal) => bail!("ended by signal {signal}"),
            None => Ok(()),
        }
    }

    /// Stops an engine when a signal comes, or has come.
    pub(crate) fn stops(mut self, engine: StopHandle) -> Watch {
        let handle = self.0.handle();
        let thread = thread::spawn(move || {
            let signal = self.0.forever().next();
            if signal.is_some() {
                engine.stop();
            }
            signal
        });
        Watch { handle, thread }
    }
}

/// A thread that waits for a signal.
#[derive(Debug)]
pub(crate) struct Watch {
    handle: Handle,
    thread: JoinHandle<Option<i32>>,
}

impl Watch {
    /// Ends it; the signal that came, if one did.
    pub(crate) fn end(self) -> Option<i32> {
        self.handle.close();
        self.thread.join().ok().flatten()
    }
}
