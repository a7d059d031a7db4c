//! Device to receive on, and the NIC behind it.

use netdev::link::LinkInfo;
use netdev::{NetNs, QueueId};

use crate::behind::NicBehind;

/// Device to receive on: its network namespace, its rx queues, and the physical NIC behind them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RxDevice {
    /// Network namespace of the device and of the listening sockets.
    pub netns: NetNs,
    /// Description of the device: a NIC, or a netkit.
    pub link: LinkInfo,
    /// Rx queues of the device that are bound.
    pub queues: Vec<QueueId>,
    /// Physical NIC behind the queues; `None` where it is out of reach, as from within a container.
    pub nic: Option<NicBehind>,
}
