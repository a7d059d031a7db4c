//! Changes that were made for a receiver: bindings, and settings of the NIC.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use devmem::DmabufId;
use devmem::sink::Memory;
use dmabuf::{Dmabuf, Protection};
use netdev::queues::{BindOptions, Binding};
use netdev::{Netdev, QueueId, queue_list};
use nic::{Applied, Change};

use crate::device::RxDevice;
use crate::error::Error;
use crate::queues::{PATIENCE, TICK};

/// Bindings of a receiver, and the changes of its NIC, in the order of their end.
///
/// Dropped in the order of its fields: while a queue is bound, the kernel keeps header split on, and the
/// NIC can't be restored.
#[derive(Debug)]
pub(crate) struct SetUp<M> {
    bindings: Vec<Binding>,
    applied: Option<Applied>,
    /// Dmabufs: one for all bindings, or one for each.
    memory: Vec<M>,
}

impl<M> SetUp<M> {
    pub(crate) fn new(applied: Option<Applied>, memory: Vec<M>) -> Self {
        Self {
            bindings: Vec::new(),
            applied,
            memory,
        }
    }

    /// Unbinds the memory, then restores the NIC.
    #[allow(clippy::result_large_err)] // as of `Applied::restore`
    pub(crate) fn end(self) -> Result<(), nic::Error> {
        let Self {
            bindings, applied, ..
        } = self;
        drop(bindings);
        applied.map_or(Ok(()), Applied::restore)
    }

    pub(crate) fn changes(&self) -> &[Change] {
        self.applied.as_ref().map_or(&[], Applied::changes)
    }

    pub(crate) fn bindings(&self) -> impl ExactSizeIterator<Item = (&Binding, &M)> {
        self.bindings.iter().zip(&self.memory)
    }

    /// Whether all queues share one dmabuf.
    pub(crate) fn is_shared(&self) -> bool {
        self.memory.len() == 1
    }
}

impl<M: Dmabuf> SetUp<M> {
    /// Length of the smallest dmabuf in bytes.
    pub(crate) fn pool(&self) -> u64 {
        self.memory.iter().map(Dmabuf::len).min().unwrap_or(0)
    }

    /// Binds one dmabuf to all queues, or each dmabuf to its own queue.
    pub(crate) fn bind(
        &mut self,
        device: &RxDevice,
        rx_page_size: Option<u32>,
    ) -> Result<(), Error> {
        let each = match self.is_shared() {
            true => device.queues.len().max(1),
            false => 1,
        };
        let options = BindOptions { rx_page_size };
        for (memory, queues) in self.memory.iter().zip(device.queues.chunks(each)) {
            let binding = bind_one(device, memory, queues, options)?;
            self.bindings.push(binding);
        }
        Ok(())
    }

    /// CPU mappings of the bound dmabufs.
    pub(crate) fn mapped(&self) -> Result<Memory, Error> {
        let mut mapped = Memory::new();
        for (binding, memory) in self.bindings() {
            let mapping = memory.map(Protection::Read).map_err(Error::Map)?;
            mapped = mapped.with(DmabufId::new(binding.id().get()), Arc::new(mapping));
        }
        Ok(mapped)
    }
}

/// Binds a dmabuf to queues. Through a netkit the binding of a killed process may not be seen
/// before the kernel refuses (`__netif_mp_open_rxq`): then waits a moment for its end.
fn bind_one(
    device: &RxDevice,
    memory: &impl Dmabuf,
    queues: &[QueueId],
    options: BindOptions,
) -> Result<Binding, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        let netdev = Netdev::open_in(&device.netns)?;
        let error = match netdev.bind_rx(device.link.ifindex, memory, queues, options) {
            Ok(binding) => return Ok(binding),
            Err(error) => error,
        };
        let text = error.message().unwrap_or_default();
        if text.contains("already memory provider bound") && Instant::now() < end {
            thread::sleep(TICK);
            continue;
        }
        let object = format!("{} queue {}", device.link.name, queue_list(queues));
        return Err(error.about(object).into());
    }
}
