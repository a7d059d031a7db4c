//! Options of a receiver.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use devmem::engine::{Config, StopHandle, page_size};
use netdev::{NetNs, QueueId};
use nic::{Applied, Plan};

use crate::behind::NicBehind;
use crate::error::Error;
use crate::threads::Threads;

/// Function that applies a plan, with flow rules of its own.
pub(crate) type Apply = Box<dyn FnOnce(Plan, &NicBehind) -> Result<Applied, Error> + Send>;
/// Function that changes the engine's configuration.
pub(crate) type Configure = Box<dyn FnOnce(&mut Config) + Send>;

/// Options of a receiver, made by [`Receiver::on`](crate::Receiver::on). `M` is the kind of memory.
///
/// Unless said otherwise: in the caller's network namespace, on a NIC's last free rx queue or on all queues that
/// a netkit leases, one connection, from anywhere, served by the caller's thread, on a NIC that is set up for
/// it and restored.
#[must_use = "nothing is done until it is set up"]
pub struct Builder<M> {
    pub(crate) device: String,
    pub(crate) netns: Option<NetNs>,
    pub(crate) queues: Vec<QueueId>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) from: Option<IpAddr>,
    pub(crate) memory: Vec<M>,
    pub(crate) rx_page_size: Option<u32>,
    pub(crate) connections: u32,
    pub(crate) at_a_time: Option<u32>,
    pub(crate) until_stopped: bool,
    pub(crate) leave_nic: bool,
    pub(crate) apply: Option<Apply>,
    pub(crate) configure: Option<Configure>,
    pub(crate) threads: Threads,
    pub(crate) stop: StopHandle,
}

impl<M> Builder<M> {
    pub(crate) fn new(device: String) -> Self {
        Self {
            device,
            netns: None,
            queues: Vec::new(),
            addresses: Vec::new(),
            from: None,
            memory: Vec::new(),
            rx_page_size: None,
            connections: 1,
            at_a_time: None,
            until_stopped: false,
            leave_nic: false,
            apply: None,
            configure: None,
            threads: Threads::default(),
            stop: StopHandle::new(),
        }
    }

    /// Sets the network namespace of the device and of the listening sockets.
    pub fn netns(mut self, netns: NetNs) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Adds an rx queue of the device to receive on; may be called again.
    pub fn queue(self, queue: QueueId) -> Self {
        self.queues([queue])
    }

    /// Adds rx queues of the device to receive on; may be called again.
    pub fn queues(mut self, queues: impl IntoIterator<Item = QueueId>) -> Self {
        self.queues.extend(queues);
        self
    }

    /// Adds an address to listen on; may be called again. `[::]` takes IPv4, too. A link-local
    /// address without a scope is one of the device.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the only remote address that connections are accepted from: others are not steered, and
    /// are reset ([`Config::from`]).
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// Adds a dmabuf to receive into: one for all queues; or, called again, one for each queue.
    pub fn memory(mut self, memory: M) -> Self {
        self.memory.push(memory);
        self
    }

    /// Sets the size in bytes of the niovs that the NIC fills, a power of two (Linux 7.3). Default:
    /// a page.
    pub fn rx_page_size(mut self, bytes: u32) -> Self {
        self.rx_page_size = Some(bytes);
        self
    }

    /// Sets the number of connections after whose end the receiver ends. Receive buffers and limits
    /// are sized for as many at a time.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Keeps at most so many connections open at a time; [`Builder::connections`], unless said otherwise. A few
    /// more wait for one of them to end, and have their part of the memory; beyond those the kernel answers no
    /// SYN, which peers send again.
    pub fn at_a_time(mut self, connections: u32) -> Self {
        self.at_a_time = Some(connections);
        self
    }

    /// Receives until it is stopped ([`Builder::stopped_by`]), whatever number of connections comes. Such a
    /// program wants [`Ready::on_end`](crate::Ready::on_end): the report would keep every connection.
    pub fn until_stopped(mut self) -> Self {
        self.until_stopped = true;
        self
    }

    /// Leaves the NIC's settings as they are: another program has set it up. The NIC need not be
    /// visible.
    pub fn leave_nic(mut self) -> Self {
        self.leave_nic = true;
        self
    }

    /// Sets a function that applies the plan of the NIC's settings and adds flow rules of its own:
    /// it is given a plan that has all but the flows, and may try several plans.
    pub fn apply_with(
        mut self,
        apply: impl FnOnce(Plan, &NicBehind) -> Result<Applied, Error> + Send + 'static,
    ) -> Self {
        self.apply = Some(Box::new(apply));
        self
    }

    /// Sets a function that changes the engine's configuration, which is sized for the memory and
    /// the connections.
    pub fn config(mut self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.configure = Some(Box::new(change));
        self
    }

    /// Makes `stop` the receiver's stop handle. A stop that comes during the set-up ends the receiver as soon
    /// as it receives.
    pub fn stopped_by(mut self, stop: &StopHandle) -> Self {
        self.stop = stop.clone();
        self
    }

    /// Serves the connections of each queue on a thread of its own. Where the NIC behind the queues can't be
    /// seen, each thread gets as many connections as the others.
    pub fn thread_per_queue(mut self) -> Self {
        self.threads.per_queue = true;
        self
    }

    /// Pins the threads to these processors, in this order, from the first again when there are
    /// more threads. Without [`thread_per_queue`](Self::thread_per_queue) there is one thread.
    pub fn pin(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.threads.pin.extend(cpus);
        self
    }

    /// Size in bytes of the niovs that the NIC fills.
    pub(crate) fn niov(&self) -> u64 {
        match self.rx_page_size {
            Some(bytes) => bytes.max(1).into(),
            None => page_size(),
        }
    }
}

impl<M> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("device", &self.device)
            .field("queues", &self.queues)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}
