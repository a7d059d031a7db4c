//! Processor time that receiving takes.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;

/// Processor time of the process while it received, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Cpu {
    user: f64,
    system: f64,
}

impl Cpu {
    /// Processor time of this process until now; zero if `getrusage` fails.
    pub(super) fn now() -> Self {
        let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
        getrusage(UsageWho::RUSAGE_SELF).map_or_else(
            |_| Self::default(),
            |usage| Self {
                user: seconds(usage.user_time()),
                system: seconds(usage.system_time()),
            },
        )
    }

    /// Difference between this processor time and an earlier one.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
        }
    }
}
