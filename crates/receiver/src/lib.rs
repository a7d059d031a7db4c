//! A receiver into device memory: it sets the NIC up, binds the memory, receives, and restores the
//! NIC, in the right order.
//!
//! Receiving takes nine steps, and each relies on those before: find the device and the physical NIC
//! behind its queues, bind the addresses, set the NIC up, bind the memory to the queues, size
//! receive buffers and the engine's limits, listen, run the engine; then unbind, and restore the NIC.
//! A program says only what it wants:
//!
//! ```no_run
//! use devmem::pattern::Pattern;
//! use devmem::sink::Validate;
//! use netdev::QueueId;
//! use receiver::Receiver;
//! use udmabuf::Udmabuf;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let receiver = Receiver::on("eth1")
//!     .queue(QueueId::new(3))
//!     .memory(Udmabuf::builder(16 << 20).build()?)
//!     .listen("192.0.2.2:5000".parse()?)
//!     .set_up()?;
//! let memory = receiver.memory()?;
//! let open = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
//! let report = receiver.run(open).into_result()?;
//! println!("{} bytes", report.stats.stream.bytes);
//! # Ok(()) }
//! ```
//!
//! Each step is a type, for programs that have something to do in between:
//!
//! | | made by | there is |
//! |---|---|---|
//! | [`Builder`] | [`Receiver::on`] | what is wanted |
//! | [`Found`] | [`Builder::find`] | the device and its NIC; nothing is changed |
//! | [`Receiver`] | [`Found::set_up`] | a NIC that is set up, bindings, listening sockets |
//! | [`Ready`] | [`Receiver::with_sinks`] | an engine, which can be stopped and watched from elsewhere |
//! | [`Received`] | [`Ready::receive`] | a report; the memory is still bound |
//! | [`Finished`] | [`Received::finish`] | a report; the NIC is what it was |
//!
//! Whichever of them is dropped closes its sockets, unbinds and restores the NIC, in this order: while a
//! queue is bound, the kernel keeps header split on (`ethnl_set_rings`).
//!
//! A program that is killed can't restore anything. So its `main` begins with [`guardian`]: the same
//! program, started a second time, does it then.

#![forbid(unsafe_code)]

mod behind;
mod builder;
mod device;
mod error;
mod found;
mod queues;
mod receiver;
mod set_up;
mod sizes;
mod stacked;
mod threads;

pub use behind::{NicBehind, nic_behind};
pub use builder::Builder;
pub use device::RxDevice;
pub use error::{Error, UsedBy};
pub use found::Found;
pub use nic::guardian;
pub use receiver::{Finished, Ready, Received, Receiver};
pub use stacked::nics_below;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
