//! Errors of setting a receiver up, and of receiving.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use devmem::engine::EngineError;
use devmem::listen::SocketError;
use netdev::{DmabufId, QueueId, queue_list};
use undo::with_sources;

/// Error of setting a receiver up, or of receiving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request: the device does not exist, or a binding failed.
    #[error(transparent)]
    Kernel(#[from] netdev::Error),
    /// The NIC could not be set up, or could not be restored after all was received.
    #[error(transparent)]
    Nic(Box<nic::Error>),
    /// The receiver can't listen on an address.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The CPU can't map the dmabuf.
    #[error("mapping the dmabuf")]
    Map(#[source] dmabuf::Error),
    /// The device to receive on is down: the kernel lists no queue of it
    /// (`netdev_nl_queue_dump_one`).
    #[error("{device}: the device is down")]
    Down {
        /// Name of the device.
        device: String,
    },
    /// The device is a VLAN, a bond or another device on top of NICs, whose queues are not its own.
    #[error("{device}: a {kind} over {}, whose queues are its own", nics.join(", "))]
    Stacked {
        /// Name of the device.
        device: String,
        /// Kind of the device, in the kernel's word.
        kind: String,
        /// Names of the NICs below the device: one at least.
        nics: Vec<String>,
    },
    /// The device does not have the rx queue.
    #[error("{device} has rx queues {}: there is no {queue}", queue_list(there))]
    NoSuchQueue {
        /// Name of the device.
        device: String,
        /// Number of the queue that was named.
        queue: QueueId,
        /// Numbers of the queues that the device has.
        there: Vec<QueueId>,
    },
    /// The same rx queue was named twice.
    #[error("{device}: queue {queue} is named twice")]
    NamedTwice {
        /// Name of the device.
        device: String,
        /// Number of the queue.
        queue: QueueId,
    },
    /// The rx queue 0 of a netkit was named, which is its own and no leased one.
    #[error("{device}: a netkit's queue 0 is its own, it leases others")]
    NotLeased {
        /// Name of the netkit.
        device: String,
    },
    /// All rx queues of the NIC are in use, or all but one, which other traffic needs.
    #[error("{device}: no rx queue is free")]
    NoFreeQueue {
        /// Name of the NIC.
        device: String,
    },
    /// The virtual device has no leased queue.
    #[error("{device}: a virtual device that leases no queue")]
    NoLease {
        /// Name of the device.
        device: String,
    },
    /// An rx queue of the NIC is bound, and was not freed in time.
    #[error("{device}: rx queue {queue} of {nic} is {by}")]
    InUse {
        /// Name of the device to receive on.
        device: String,
        /// Name of the NIC behind the device.
        nic: String,
        /// Number of the NIC's queue.
        queue: QueueId,
        /// User of the queue.
        by: UsedBy,
    },
    /// No packet from the peer's address can reach the listening address: one is IPv4, the other
    /// IPv6.
    #[error("nothing from {from} can come to {address}")]
    NothingFrom {
        /// Remote address that connections were to come from.
        from: IpAddr,
        /// Address to listen on.
        address: SocketAddr,
    },
    /// No address to listen on was given.
    #[error("{device}: no address to listen on")]
    NoAddress {
        /// Name of the device.
        device: String,
    },
    /// The number of dmabufs is neither one, for all queues, nor that of the queues.
    #[error(
        "{device}: {given} dmabufs for {queues} queues: one is for all, or there is one for each"
    )]
    MemoryCount {
        /// Name of the device.
        device: String,
        /// Number of dmabufs that were given.
        given: usize,
        /// Number of queues to receive on.
        queues: usize,
    },
    /// The receiver failed, and then restoring the NIC failed.
    #[error("{}; then {}", with_sources(error), with_sources(restore))]
    NotRestored {
        /// Error of the receiver.
        error: Box<Error>,
        /// Error of restoring the NIC.
        restore: Box<nic::Error>,
    },
}

impl Error {
    /// Splits the error into the receiver's error, and the result of restoring the NIC after it.
    pub fn into_parts(self) -> (Self, Result<(), nic::Error>) {
        match self {
            Self::NotRestored { error, restore } => (*error, Err(*restore)),
            error => (error, Ok(())),
        }
    }

    /// Joins the receiver's error with the result of restoring the NIC after it
    /// ([`Receiver::undo`](crate::Receiver::undo)): the inverse of [`Error::into_parts`].
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

/// User of an rx queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsedBy {
    /// Binding of the dmabuf with this id.
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
