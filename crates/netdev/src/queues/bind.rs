//! Bindings of dmabufs to a device.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink::{Attrs, Family, Request, Result};

use super::queue::queue_id;
use super::{Netdev, cmd};
use crate::parse::{Parsed, attributes, required};
use crate::{DmabufId, Ifindex, QueueId, QueueType};

attributes! {
    /// Attributes of a binding: `NETDEV_A_DMABUF_*`.
    pub(super) mod attr {
        IFINDEX = 1, number("ifindex");
        QUEUES = 2, nest("queues", queue_id::ALL);
        FD = 3, number("fd");
        ID = 4, number("id");
        RX_PAGE_SIZE = 5, number("rx-page-size");
    }
}

/// Options of a binding for receiving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BindOptions {
    /// Size in bytes of the niovs that the NIC writes to: a power of two, at least a page and at
    /// most the driver's limit; every entry of the dmabuf's sg table must be aligned to it. `None`
    /// is a page. Since Linux 7.3; earlier kernels say "Unknown attribute type".
    #[doc(alias = "NETDEV_A_DMABUF_RX_PAGE_SIZE")]
    pub rx_page_size: Option<u32>,
}

impl Netdev {
    /// Binds a dmabuf to rx queues: from now on the payload that the queues receive goes into the
    /// dmabuf (`netdev_nl_bind_rx_doit`, `net_devmem_bind_dmabuf`).
    ///
    /// The handle becomes the binding's: the kernel unbinds when its socket is closed.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` in the user namespace of the network namespace; `EINVAL`
    /// where header split is off, hds-thresh is not 0, a queue is out of range, the list of queues
    /// is empty, or the dmabuf is not aligned; `EEXIST` where XDP is attached or a queue is bound;
    /// `EBUSY` for a queue of AF_XDP; `EOPNOTSUPP` for a device without DMA device or queue
    /// operations, and, because `netdev_queue_get_dma_dev` comes first, for a queue that is leased
    /// out; `ERANGE` for an `rx_page_size` that is too small or too large.
    #[doc(alias = "NETDEV_CMD_BIND_RX")]
    pub fn bind_rx(
        mut self,
        ifindex: Ifindex,
        dmabuf: impl AsFd,
        queues: &[QueueId],
        options: BindOptions,
    ) -> Result<Binding> {
        let mut object = self.0.device(ifindex);
        for queue in queues {
            object += &format!(" queue {queue}");
        }
        let request = bind_rx(
            &self.0.family,
            ifindex,
            dmabuf.as_fd(),
            queues,
            options,
            object,
        );
        let id = self.0.ask(&request, parse_id)?;
        Ok(Binding {
            id,
            ifindex,
            queues: queues.to_vec(),
            _socket: self,
        })
    }

    /// Binds a dmabuf to a device for sending (`netdev_nl_bind_tx_doit`). Needs no privilege.
    ///
    /// The handle becomes the binding's: the kernel unbinds when its socket is closed.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a device that can't send from memory that the CPU can't read; those of
    /// mapping the dmabuf.
    #[doc(alias = "NETDEV_CMD_BIND_TX")]
    pub fn bind_tx(mut self, ifindex: Ifindex, dmabuf: impl AsFd) -> Result<Binding> {
        let object = self.0.device(ifindex);
        let request = bind_tx(&self.0.family, ifindex, dmabuf.as_fd(), object);
        let id = self.0.ask(&request, parse_id)?;
        Ok(Binding {
            id,
            ifindex,
            queues: Vec::new(),
            _socket: self,
        })
    }
}

pub(super) fn bind_rx(
    family: &Family,
    ifindex: Ifindex,
    dmabuf: BorrowedFd<'_>,
    queues: &[QueueId],
    options: BindOptions,
    object: String,
) -> Request {
    let mut request = family.request(cmd::BIND_RX, "bind-rx", object);
    request
        .attrs()
        .u32(attr::IFINDEX, ifindex.get())
        .put(attr::FD, &fd_payload(dmabuf));
    for id in queues {
        request.attrs().nest(attr::QUEUES, |nest| {
            nest.u32(queue_id::ID, id.get())
                .u32(queue_id::TYPE, QueueType::Rx.raw());
        });
    }
    if let Some(size) = options.rx_page_size {
        request.attrs().u32(attr::RX_PAGE_SIZE, size);
    }
    request
}

pub(super) fn bind_tx(
    family: &Family,
    ifindex: Ifindex,
    dmabuf: BorrowedFd<'_>,
    object: String,
) -> Request {
    let mut request = family.request(cmd::BIND_TX, "bind-tx", object);
    request
        .attrs()
        .u32(attr::IFINDEX, ifindex.get())
        .put(attr::FD, &fd_payload(dmabuf));
    request
}

/// Encodes a file descriptor as the payload of an attribute.
fn fd_payload(fd: BorrowedFd<'_>) -> [u8; 4] {
    fd.as_raw_fd().to_ne_bytes()
}

/// Parses the answer to `bind-rx` and `bind-tx`: an id.
pub(super) fn parse_id(attrs: Attrs<'_>) -> Parsed<DmabufId> {
    for attr in attrs {
        let attr = attr?;
        if attr.kind() == attr::ID {
            return Ok(DmabufId::new(attr.u32()?));
        }
    }
    required(None, attr::ID)
}

/// A dmabuf that is bound to a device as long as this value exists.
#[derive(Debug)]
#[must_use = "dropping it unbinds"]
pub struct Binding {
    id: DmabufId,
    ifindex: Ifindex,
    queues: Vec<QueueId>,
    /// Netlink socket whose closing unbinds the dmabuf (`netdev_nl_sock_priv_destroy`).
    _socket: Netdev,
}

impl Binding {
    /// Number by which control messages name the dmabuf.
    pub fn id(&self) -> DmabufId {
        self.id
    }

    /// Device that the dmabuf was bound through, physical or virtual.
    pub fn ifindex(&self) -> Ifindex {
        self.ifindex
    }

    /// Rx queues that the dmabuf is bound to; empty for a binding for sending.
    pub fn queues(&self) -> &[QueueId] {
        &self.queues
    }

    /// Unbinds the dmabuf, as dropping the binding does. Frags that sockets still hold keep the
    /// dmabuf mapped.
    pub fn unbind(self) {}
}
