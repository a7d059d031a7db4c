//! What is told while it is received: a line or a view each second, and warnings.

use super::live::Live;
use super::pool::{State, Watcher};
use super::progress::RateLine;
use crate::style::Style;

/// All that a running receiver is looked at by. It runs on the thread that watches for what may go
/// away, a few times a second, and not on those that receive.
pub(super) struct Observer {
    pub(super) memory: Watcher,
    pub(super) rate: Option<RateLine>,
    pub(super) live: Option<Live>,
}

impl Observer {
    pub(super) fn tick(&mut self) {
        let warnings = self.memory.tick();
        if !warnings.is_empty() {
            self.clear();
        }
        for warning in warnings {
            eprintln!("devmem-tcp: {}: {warning}", Style::stderr().warn("warning"));
        }
        if let Some(rate) = &mut self.rate {
            rate.tick();
        }
        if let Some(live) = &mut self.live {
            live.tick(self.memory.state());
        }
    }

    /// Takes off the terminal what was written over and over.
    fn clear(&mut self) {
        if let Some(rate) = &mut self.rate {
            rate.clear();
        }
        if let Some(live) = &mut self.live {
            live.clear();
        }
    }

    /// The end: the terminal as it was, and how much memory was taken.
    pub(super) fn end(mut self) -> State {
        self.clear();
        self.memory.end()
    }
}
