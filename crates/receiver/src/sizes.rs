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
    /// Number of connections after whose end the receiver ends; `None` for one that is stopped.
    pub(crate) connections: Option<u32>,
    /// Number of connections that are open at a time.
    pub(crate) open: u32,
    /// Number of listening sockets.
    pub(crate) listeners: u32,
}

/// Most connections that wait at a listener for others to end. What a waiting connection has received takes memory
/// that no receiver gives back.
const BACKLOG: u32 = 8;

impl Sizes {
    /// Whether connections may have to wait for others to end.
    fn may_wait(&self) -> bool {
        self.connections.is_none_or(|all| all > self.open)
    }

    /// Greatest number of connections that wait to be accepted, for
    /// [`SocketOptions::backlog`](devmem::listen::SocketOptions::backlog); `None` where none has to wait.
    pub(crate) fn backlog(&self) -> Option<i32> {
        let backlog = i32::try_from(self.open.clamp(1, BACKLOG)).ok()?;
        self.may_wait().then_some(backlog)
    }

    /// Number of connections that may have payload in the memory: the kernel queues one more than the backlog
    /// (`sk_acceptq_is_full`).
    fn with_memory(&self) -> u32 {
        match self.backlog() {
            Some(backlog) => {
                let waiting = self.listeners.saturating_mul(backlog.unsigned_abs() + 1);
                self.open.saturating_add(waiting)
            }
            None => self.open,
        }
    }

    /// Size of the receive buffers in bytes, for
    /// [`SocketOptions::recv_buffer`](devmem::listen::SocketOptions::recv_buffer).
    pub(crate) fn recv_buffer(&self) -> Option<usize> {
        match self.descriptors {
            Some(descriptors) => {
                let rings = descriptors.saturating_mul(self.niov);
                recv_buffer_beside(self.pool, self.niov, rings, self.with_memory())
            }
            None => recv_buffer_for(self.pool, self.with_memory()),
        }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            until: self.connections.map_or(Until::Stopped, Until::Peers),
            open: self.may_wait().then_some(self.open),
            ..Config::for_pool_in(self.pool, self.niov, self.open)
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
        connections: Some(64),
        open: 64,
        listeners: 1,
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
            connections: None,
            ..SIZES
        };
        let config = serving.config();
        assert_eq!((config.until, config.open), (Until::Stopped, Some(64)));
        // 64 and 9 that wait.
        assert_eq!(serving.backlog(), Some(8));
        assert_eq!(serving.recv_buffer(), Some((16 << 20) / 2 / 73 / 2));
    }
}
