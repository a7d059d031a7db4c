//! Why a receiver could not be set up, or failed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use devmem::engine::EngineError;
use devmem::listen::SocketError;
use netdev::{DmabufId, QueueId, queue_list};
use undo::with_sources;

/// Why a receiver could not be set up, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused: a device that does not exist, a binding.
    #[error(transparent)]
    Kernel(#[from] netdev::Error),
    /// The NIC could not be set up, or could not be restored after all was received.
    #[error(transparent)]
    Nic(Box<nic::Error>),
    /// An address that can't be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The event loop failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The CPU can't map the memory.
    #[error("mapping the dmabuf")]
    Map(#[source] dmabuf::Error),
    /// The device is down: the kernel lists no queue of it (`netdev_nl_queue_dump_one`).
    #[error("{device}: the device is down")]
    Down {
        /// The device.
        device: String,
    },
    /// A VLAN, a bond or another device on top of NICs, whose queues are not its own.
    #[error("{device}: a {kind} over {}, whose queues are its own", nics.join(", "))]
    Stacked {
        /// The device.
        device: String,
        /// What it is, in the kernel's word.
        kind: String,
        /// The NICs below it: one at least.
        nics: Vec<String>,
    },
    /// The device does not have the queue.
    #[error("{device} has rx queues {}: there is no {queue}", queue_list(there))]
    NoSuchQueue {
        /// The device.
        device: String,
        /// The queue that was named.
        queue: QueueId,
        /// Those that it has.
        there: Vec<QueueId>,
    },
    /// The queue was named twice.
    #[error("{device}: queue {queue} is named twice")]
    NamedTwice {
        /// The device.
        device: String,
        /// The queue.
        queue: QueueId,
    },
    /// Queue 0 of a netkit is no leased one.
    #[error("{device}: a netkit's queue 0 is its own, it leases others")]
    NotLeased {
        /// The netkit.
        device: String,
    },
    /// All rx queues of the NIC are in use, or all but one, which the other traffic needs.
    #[error("{device}: no rx queue is free")]
    NoFreeQueue {
        /// The NIC.
        device: String,
    },
    /// A virtual device without a leased queue.
    #[error("{device}: a virtual device that leases no queue")]
    NoLease {
        /// The device.
        device: String,
    },
    /// A queue of the NIC is bound, and was not freed in time.
    #[error("{device}: rx queue {queue} of {nic} is {by}")]
    InUse {
        /// The device that is received on.
        device: String,
        /// The NIC behind it.
        nic: String,
        /// The NIC's queue.
        queue: QueueId,
        /// What uses it.
        by: UsedBy,
    },
    /// No packet from the one address reaches the other: they are of two families.
    #[error("nothing from {from} can come to {address}")]
    NothingFrom {
        /// The peer's address that was given.
        from: IpAddr,
        /// Where it is listened.
        address: SocketAddr,
    },
    /// There is no address to listen on.
    #[error("{device}: no address to listen on")]
    NoAddress {
        /// The device.
        device: String,
    },
    /// Neither one dmabuf for all queues nor one for each.
    #[error(
        "{device}: {given} dmabufs for {queues} queues: one is for all, or there is one for each"
    )]
    MemoryCount {
        /// The device.
        device: String,
        /// Dmabufs that were given.
        given: usize,
        /// Queues that are received on.
        queues: usize,
    },
    /// Two failures: of the receiver, then of restoring the NIC.
    #[error("{}; then {}", with_sources(error), with_sources(restore))]
    NotRestored {
        /// What failed first.
        error: Box<Error>,
        /// Why the NIC is not what it was.
        restore: Box<nic::Error>,
    },
}

impl Error {
    /// The failure of the receiver, and what came of restoring the NIC after it.
    pub fn into_parts(self) -> (Self, Result<(), nic::Error>) {
        match self {
            Self::NotRestored { error, restore } => (*error, Err(*restore)),
            error => (error, Ok(())),
        }
    }

    /// This failure, and what came of restoring the NIC after it ([`Receiver::undo`](crate::Receiver::undo)), as
    /// one: the inverse of [`Error::into_parts`].
    #[must_use]
    pub fn and(self, restored: Result<(), nic::Error>) -> Self {
        match restored {
            Ok(()) => self,
            Err(restore) => Self::NotRestored {
                error: Box::new(self),
                restore: Box::new(restore),
            },
        }
    }
}

impl From<nic::Error> for Error {
    fn from(error: nic::Error) -> Self {
        Self::Nic(Box::new(error))
    }
}

/// What uses a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsedBy {
    /// The binding of this dmabuf.
    Dmabuf(DmabufId),
    /// Zero-copy receive of io_uring.
    IoUring,
}

impl fmt::Display for UsedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmabuf(id) => write!(f, "bound to dmabuf {id}"),
            Self::IoUring => f.write_str("in use by io_uring"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Error {
        Error::Down {
            device: "eth1".to_owned(),
        }
    }

    #[test]
    fn neither_of_two_failures_is_lost() {
        let gone = || nic::Error::Gone {
            device: "eth1".to_owned(),
        };
        // The kernel's words are in the sources.
        let any = "127.0.0.1:0".parse().unwrap();
        let options = devmem::listen::SocketOptions::default();
        let first = devmem::listen::listen(any, &options).unwrap();
        let taken = first.local_addr().unwrap();
        let socket = Error::from(devmem::listen::listen(taken, &options).unwrap_err());
        let full = undo::RunDirError::Io {
            op: "write",
            path: "/run/x".into(),
            source: std::io::Error::from_raw_os_error(28),
        };
        let text = socket.and(Err(full.into())).to_string();
        assert!(text.contains("Address already in use"), "{text}");
        assert!(text.contains("No space left on device"), "{text}");
        let both = down().and(Err(gone()));
        let text = both.to_string();
        assert_eq!(text, format!("{}; then {}", down(), gone()));
        let (first, restored) = both.into_parts();
        assert!(matches!(first, Error::Down { .. }));
        assert!(matches!(restored, Err(nic::Error::Gone { .. })));
        let (first, restored) = down().and(Ok(())).into_parts();
        assert!(matches!(first, Error::Down { .. }) && restored.is_ok());
    }

    #[test]
    fn errors_name_device_and_queue() {
        let error = Error::NoSuchQueue {
            device: "eth1".to_owned(),
            queue: QueueId::new(99),
            there: (0..4).map(QueueId::new).collect(),
        };
        assert_eq!(error.to_string(), "eth1 has rx queues 0-3: there is no 99");
        let error = Error::InUse {
            device: "nk0".to_owned(),
            nic: "eth1".to_owned(),
            queue: QueueId::new(3),
            by: UsedBy::Dmabuf(DmabufId::new(5)),
        };
        let text = "nk0: rx queue 3 of eth1 is bound to dmabuf 5";
        assert_eq!(error.to_string(), text);
    }
}
