//! Receive buffers and the engine's limits, by the size of the memory.

use devmem::engine::{Config, Until};
use devmem::listen::{recv_buffer_beside, recv_buffer_for};

/// Sizes from which receive buffers and the engine's limits are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Length of the smallest dmabuf in bytes: all connections may come through its queue.
    pub(crate) pool: u64,
    /// Size in bytes of the niovs that the NIC fills.
    pub(crate) niov: u64,
    /// Number of descriptors in the rx rings that take their niovs from the dmabuf, where the NIC
    /// can be asked.
    pub(crate) descriptors: Option<u64>,
    /// Connections at a time.
    pub(crate) connections: u32,
    /// Receives until it is stopped, not until these connections have ended.
    pub(crate) until_stopped: bool,
}

impl Sizes {
    /// Size of the receive buffers in bytes, for
    /// [`SocketOptions::recv_buffer`](devmem::listen::SocketOptions::recv_buffer).
    pub(crate) fn recv_buffer(&self) -> Option<usize> {
        match self.descriptors {
            Some(descriptors) => {
                let rings = descriptors.saturating_mul(self.niov);
                recv_buffer_beside(self.pool, self.niov, rings, self.connections)
            }
            None => recv_buffer_for(self.pool, self.connections),
        }
    }

    pub(crate) fn config(&self) -> Config {
        let (until, open) = match self.until_stopped {
            true => (Until::Stopped, Some(self.connections)),
            false => (Until::Peers(self.connections), None),
        };
        Config {
            until,
            open,
            ..Config::for_pool_in(self.pool, self.niov, self.connections)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        pool: 16 << 20,
        niov: 4096,
        descriptors: None,
        connections: 64,
        until_stopped: false,
    };

    #[test]
    fn rings_that_are_known_leave_more_to_receive_buffers() {
        let half = SIZES.recv_buffer().unwrap();
        // The kernel doubles a receive buffer.
        assert_eq!(half, (16 << 20) / 2 / 64 / 2);
        let with = |descriptors| Sizes {
            descriptors: Some(descriptors),
            ..SIZES
        };
        assert!(with(64).recv_buffer().unwrap() > half);
        assert_eq!(with(1 << 20).recv_buffer(), Some(half));
        assert_eq!(with(u64::MAX).recv_buffer(), Some(half));
    }

    #[test]
    fn limits_follow_connections_and_niovs() {
        let config = SIZES.config();
        assert_eq!(config.until, Until::Peers(64));
        let large = Sizes {
            niov: 65_536,
            ..SIZES
        };
        assert!(large.config().held < config.held);
        let serving = Sizes {
            until_stopped: true,
            ..SIZES
        };
        let serving = serving.config();
        assert_eq!((serving.until, serving.open), (Until::Stopped, Some(64)));
    }
}
