//! Device that is received on.

use netdev::link::LinkInfo;
use netdev::{NetNs, QueueId};

use crate::behind::NicBehind;

/// Device that is received on: its network namespace, its rx queues, and the physical NIC behind them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RxDevice {
    /// Its network namespace, and that of the listening sockets.
    pub netns: NetNs,
    /// The device: a NIC, or a netkit.
    pub link: LinkInfo,
    /// Its rx queues that are bound.
    pub queues: Vec<QueueId>,
    /// The physical NIC behind them; `None` where it is out of reach, as from within a container.
    pub nic: Option<NicBehind>,
}
