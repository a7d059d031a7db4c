//! When to check a connection's receive window again.
//!
//! [`DevmemStream::spare_window`](crate::DevmemStream::spare_window) takes a third off it, but not for
//! long: the kernel computes the clamp again whenever a segment longer than all before comes
//! (`tcp_measure_rcv_mss`), as when a bulk transfer follows small messages, and may raise it with
//! `SO_RCVLOWAT` (`tcp_set_rcvlowat`) or as the receive buffer grows (`tcp_rcv_space_adjust`).

/// Bytes of the stream between checks of the receive window, where it may have changed much.
const MIN_BYTES_BETWEEN_CHECKS: u64 = 16 << 10;
/// Bytes of the stream between checks of the receive window in a long stream: at most one call in
/// this many.
const MAX_BYTES_BETWEEN_CHECKS: u64 = 4 << 20;

/// Schedule of the checks of a connection's receive window, in bytes of the stream.
#[derive(Debug)]
pub(super) struct WindowChecks {
    next: u64,
    interval: u64,
}

impl WindowChecks {
    /// Makes a schedule whose first check is due when the first bytes have come.
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            interval: MIN_BYTES_BETWEEN_CHECKS,
        }
    }

    /// Starts the schedule again, with a check at once and others soon, after a change that may
    /// have changed the window.
    pub(super) fn restart(&mut self) {
        *self = Self::new();
    }

    /// Whether a check is due, after this many bytes of the stream.
    pub(super) fn is_due(&mut self, bytes: u64) -> bool {
        if bytes < self.next {
            return false;
        }
        self.next = bytes.saturating_add(self.interval);
        self.interval = (self.interval * 2).min(MAX_BYTES_BETWEEN_CHECKS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_checks(looks: &mut WindowChecks, bytes: impl Iterator<Item = u64>) -> usize {
        bytes.filter(|bytes| looks.is_due(*bytes)).count()
    }

    #[test]
    fn window_checks_are_frequent_at_first_and_rare_later() {
        let mut window = WindowChecks::new();
        assert!(!window.is_due(0));
        assert_eq!(count_checks(&mut window, (0..MIB).step_by(1000)), 7);
        assert_eq!(
            count_checks(&mut window, (MIB..1024 * MIB).step_by(100_000)),
            256
        );
    }

    /// The window is checked when much data follows small messages: the end of the small ones was
    /// once the last check.
    #[test]
    fn the_window_is_checked_when_bulk_follows_small_messages() {
        let mut window = WindowChecks::new();
        count_checks(&mut window, (0..64 * MIB).step_by(100));
        window.restart();
        let bulk = 64 * MIB..65 * MIB;
        assert_eq!(count_checks(&mut window, bulk.step_by(32 << 10)), 6);
    }

    const MIB: u64 = 1 << 20;
}
