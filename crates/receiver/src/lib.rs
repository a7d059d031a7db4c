//! The rx queues that a receiver into device memory receives on, and the physical NIC behind them.

#![forbid(unsafe_code)]

mod behind;
mod error;
mod stacked;

pub use behind::{NicBehind, nic_behind};
pub use error::{Error, UsedBy};
pub use nic::guardian;
pub use stacked::nics_below;
