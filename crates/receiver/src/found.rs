//! A receiver's device and NIC, before anything is changed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use devmem::listen::{self, SocketOptions};
use dmabuf::Dmabuf;
use netdev::ethtool::{Action, FlowRule};
use netdev::{Ethtool, Ifindex, Link, NetNs};
use nic::{Applied, Change, Plan};

use crate::behind::{NicBehind, nic_behind};
use crate::builder::Builder;
use crate::device::RxDevice;
use crate::error::Error;
use crate::queues;
use crate::receiver::{Listening, Receiver};
use crate::set_up::SetUp;
use crate::sizes::Sizes;

/// Device and NIC of a receiver, before anything is changed: made by [`Builder::find`].
#[derive(Debug)]
#[must_use = "nothing is done until it is set up"]
pub struct Found<M> {
    wanted: Builder<M>,
    device: RxDevice,
    /// Bound sockets, if [`Found::take_addresses`] was called.
    sockets: Vec<listen::Bound>,
}

impl<M> Builder<M> {
    /// Finds the receiver's device, its queues, and the NIC behind them. Changes nothing, and needs
    /// no memory and no address yet.
    ///
    /// # Errors
    /// [`Error::Kernel`] without such a device; [`Error::Down`], [`Error::Stacked`]; [`Error::NoSuchQueue`],
    /// [`Error::NamedTwice`], [`Error::NotLeased`], [`Error::NoFreeQueue`], [`Error::NoLease`].
    pub fn find(self) -> Result<Found<M>, Error> {
        let netns = match &self.netns {
            Some(netns) => netns.clone(),
            None => NetNs::current()?,
        };
        let link = Link::open_in(&netns)?.by_name(&self.device)?;
        let queues = queues::choose(&netns, &link, &self.queues)?;
        let nic = match nic_behind(&netns, &link, &queues) {
            // Who leaves the NIC alone need not be able to see it.
            Err(error) if self.leave_nic => {
                tracing::debug!("the NIC behind {}: {error}", link.name);
                None
            }
            nic => nic?,
        };
        let device = RxDevice {
            netns,
            link,
            queues,
            nic,
        };
        Ok(Found::new(self, device))
    }

    /// Sets the receiver up, by [`Builder::find`] and [`Found::set_up`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn set_up(self) -> Result<Receiver<M>, Error>
    where
        M: Dmabuf,
    {
        self.find()?.set_up()
    }
}

impl<M> Found<M> {
    pub(crate) fn new(wanted: Builder<M>, device: RxDevice) -> Self {
        Self {
            wanted,
            device,
            sockets: Vec::new(),
        }
    }

    /// Device to receive on, its queues, and the NIC behind them.
    pub fn device(&self) -> &RxDevice {
        &self.device
    }

    /// Adds addresses to listen on ([`Builder::listen`]).
    pub fn listen(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.wanted.addresses.extend(addresses);
        self
    }

    /// Adds dmabufs to receive into ([`Builder::memory`]): one for all queues, or one for each
    /// queue.
    pub fn memory(mut self, memory: impl IntoIterator<Item = M>) -> Self {
        self.wanted.memory.extend(memory);
        self
    }

    /// Describes the changes that [`Found::set_up`] would make to the NIC now; empty where the NIC
    /// is out of reach or is left alone. Flows that a function of
    /// [`Builder::apply_with`](crate::Builder::apply_with) adds are not among them.
    ///
    /// # Errors
    /// [`Error::Nic`], [`Error::NothingFrom`].
    pub fn preview(&self) -> Result<Vec<Change>, Error> {
        match &self.device.nic {
            Some(nic) if !self.wanted.leave_nic => {
                let plan = match self.wanted.apply {
                    Some(_) => plan_without_flows(nic),
                    None => with_flows(plan_without_flows(nic), nic, &self.flows()?),
                };
                Ok(plan.preview(&nic.netns)?)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Binds sockets to the addresses, without listening yet: an address that is in use is found
    /// before memory is made or the NIC is changed. [`Found::set_up`] does this, if it was not
    /// done.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::NoAddress`].
    pub fn take_addresses(mut self) -> Result<Self, Error> {
        let RxDevice { netns, link, .. } = &self.device;
        if self.wanted.addresses.is_empty() {
            return Err(Error::NoAddress {
                device: link.name.clone(),
            });
        }
        // Those that were added since the last time.
        let new = self.wanted.addresses.iter().skip(self.sockets.len());
        let new: Vec<_> = new.map(|at| with_scope(*at, link.ifindex)).collect();
        let bind = |at| listen::bind(at, &SocketOptions::default());
        let bound = netns.run(|| new.into_iter().map(bind).collect::<Result<Vec<_>, _>>())?;
        self.sockets.extend(bound?);
        Ok(self)
    }

    /// Sets the receiver up: binds the addresses, waits for bindings of the queues that are about
    /// to end, sets the NIC up, binds the memory, listens.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::NoAddress`], [`Error::MemoryCount`], [`Error::InUse`],
    /// [`Error::NothingFrom`], [`Error::Nic`], [`Error::Kernel`]. What was done has been undone;
    /// [`Error::NotRestored`], if that failed.
    pub fn set_up(self) -> Result<Receiver<M>, Error>
    where
        M: Dmabuf,
    {
        let mut found = self.take_addresses()?;
        let (given, queues) = (found.wanted.memory.len(), found.device.queues.len());
        if given != 1 && given != queues {
            return Err(Error::MemoryCount {
                device: found.device.link.name,
                given,
                queues,
            });
        }
        queues::wait_until_free(&found.device)?;
        let applied = found.apply()?;
        let memory = std::mem::take(&mut found.wanted.memory);
        let mut set_up = SetUp::new(applied, memory);
        match found.listen_on(&mut set_up) {
            Ok(listening) => Ok(Receiver::new(listening, set_up, found.device)),
            Err(error) => Err(error.and(set_up.end())),
        }
    }

    /// Sets the NIC up: header split, the RSS table without the queues, flow rules to the queues.
    fn apply(&mut self) -> Result<Option<Applied>, Error> {
        let nic = match &self.device.nic {
            Some(nic) if !self.wanted.leave_nic => nic,
            _ => return Ok(None),
        };
        let applied = match self.wanted.apply.take() {
            Some(apply) => apply(plan_without_flows(nic), nic)?,
            None => with_flows(plan_without_flows(nic), nic, &self.flows()?).apply(&nic.netns)?,
        };
        for change in applied.changes() {
            tracing::info!("{}: {change}", nic.device);
        }
        Ok(Some(applied))
    }

    /// Flow rules for all connections that the listening sockets accept, without their action.
    fn flows(&self) -> Result<Vec<FlowRule>, Error> {
        let rules = |at: &SocketAddr| flows(*at, self.wanted.from);
        let rules: Result<Vec<_>, _> = self.wanted.addresses.iter().map(rules).collect();
        Ok(rules?.into_iter().flatten().collect())
    }

    /// Binds the memory to the queues, then listens.
    fn listen_on(&mut self, set_up: &mut SetUp<M>) -> Result<Listening, Error>
    where
        M: Dmabuf,
    {
        let wanted = &mut self.wanted;
        let sizes = Sizes {
            pool: set_up.pool(),
            niov: wanted.niov(),
            descriptors: ring_descriptors(&self.device, set_up.is_shared()),
            connections: (!wanted.until_stopped).then_some(wanted.connections),
            open: wanted.at_a_time.unwrap_or(wanted.connections),
            listeners: u32::try_from(self.sockets.len()).unwrap_or(u32::MAX),
        };
        set_up.bind(&self.device, wanted.rx_page_size)?;
        let mut options = SocketOptions {
            recv_buffer: sizes.recv_buffer(),
            ..SocketOptions::default()
        };
        if let Some(backlog) = sizes.backlog() {
            options.backlog = backlog;
        }
        let sockets = self.sockets.drain(..);
        let sockets = sockets.map(|socket| socket.listen(&options));
        let sockets = sockets.collect::<Result<_, _>>()?;
        let mut config = sizes.config();
        config.from = wanted.from;
        if let Some(configure) = wanted.configure.take() {
            configure(&mut config);
        }
        Ok(Listening {
            sockets,
            config,
            workers: wanted.threads.workers(&self.device)?,
            stop: wanted.stop.clone(),
        })
    }
}

/// Plan of the NIC's settings, without the flows.
fn plan_without_flows(nic: &NicBehind) -> Plan {
    Plan::new(&nic.device, nic.ifindex)
        .header_split()
        .reserve(&nic.queues)
}

fn with_flows(plan: Plan, nic: &NicBehind, flows: &[FlowRule]) -> Plan {
    let flows = flows.iter().cloned();
    flows.fold(plan, |plan, flow| plan.steer(flow, &nic.queues))
}

/// Flow rules for all connections that a socket at this address accepts; an error if there are
/// none.
fn flows(at: SocketAddr, from: Option<IpAddr>) -> Result<Vec<FlowRule>, Error> {
    // On the wire there is no scope.
    let address = SocketAddr::new(at.ip(), at.port());
    let rules = FlowRule::tcp_to_listener(address, from, Action::Drop);
    match from {
        Some(from) if rules.is_empty() => Err(Error::NothingFrom { from, address }),
        _ => Ok(rules),
    }
}

/// Number of descriptors in the rx rings that share a dmabuf; `None` if the NIC can't be asked.
fn ring_descriptors(device: &RxDevice, is_shared: bool) -> Option<u64> {
    let nic = device.nic.as_ref()?;
    let rings = Ethtool::open_in(&nic.netns).and_then(|mut ethtool| ethtool.rings(nic.ifindex));
    let queues = match is_shared {
        true => nic.queues.len() as u64,
        false => 1,
    };
    Some(u64::from(rings.ok()?.rx?) * queues)
}

/// Address for a socket: a link-local address without a scope gets that of the device.
fn with_scope(address: SocketAddr, device: Ifindex) -> SocketAddr {
    match address {
        SocketAddr::V6(at) if is_link_local(at.ip()) && at.scope_id() == 0 => {
            SocketAddrV6::new(*at.ip(), at.port(), 0, device.get()).into()
        }
        _ => address,
    }
}

/// Whether an address is link-local: in `fe80::/10`.
fn is_link_local(ip: &Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_of_the_device() {
        let scope = |text: &str| match with_scope(text.parse().unwrap(), Ifindex::new(7)) {
            SocketAddr::V6(at) => at.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        assert_eq!(scope("[fe80::1]:5000"), 7);
        assert_eq!(scope("[fe80::1%3]:5000"), 3);
        assert_eq!(scope("[2001:db8::1]:5000"), 0);
        assert_eq!(scope("192.0.2.1:5000"), 0);
    }

    #[test]
    fn flows_are_those_of_the_socket() {
        let flows = |at: &str, from: Option<&str>| {
            let from = from.map(|from| from.parse().unwrap());
            flows(at.parse().unwrap(), from).map(|rules| rules.len())
        };
        assert_eq!(flows("[::]:5000", None).unwrap(), 2);
        assert_eq!(flows("[::]:5000", Some("192.0.2.9")).unwrap(), 1);
        assert_eq!(flows("192.0.2.1:5000", None).unwrap(), 1);
        let error = flows("192.0.2.1:5000", Some("2001:db8::9")).unwrap_err();
        let text = "nothing from 2001:db8::9 can come to 192.0.2.1:5000";
        assert_eq!(error.to_string(), text);
    }
}
