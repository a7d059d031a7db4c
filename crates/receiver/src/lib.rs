//! A receiver into device memory: it sets the NIC up, binds the memory, receives, and restores the
//! NIC, in the right order.
//!
//! Receiving takes nine steps, and each relies on those before: find the device and the physical NIC
//! behind its queues, bind the addresses, set the NIC up, bind the memory to the queues, size
//! receive buffers and the engine's limits, listen, run the engine; then unbind, and restore the NIC.
//! A program says only what it wants. This one receives four connections, or until Ctrl-C; either way the NIC
//! is then what it was:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use receiver::devmem::pattern::Pattern;
//! use receiver::devmem::sink::Validate;
//! use receiver::{QueueId, Receiver, StopHandle, Udmabuf};
//! use signal_hook::consts::{SIGINT, SIGTERM};
//! use signal_hook::iterator::Signals;
//!
//! fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
//!     // The same program, started a second time, restores the NIC if this process is killed.
//!     if let Some(code) = receiver::guardian() {
//!         return Ok(code);
//!     }
//!     let stop = StopHandle::new();
//!     let (mut signals, stopped) = (Signals::new([SIGINT, SIGTERM])?, stop.clone());
//!     std::thread::spawn(move || signals.forever().for_each(|_| stopped.stop()));
//!     let receiver = Receiver::on("eth1")
//!         .queue(QueueId::new(3)) // without this the NIC's last
//!         .memory(Udmabuf::builder(16 << 20).build()?)
//!         .listen("192.0.2.2:5000".parse()?)
//!         .connections(4)
//!         .stopped_by(&stop)
//!         .set_up()?;
//!     let memory = receiver.memory()?;
//!     let open = |_: &_| Ok(Validate::new(Pattern::default(), memory.clone()));
//!     let report = receiver.run(open).into_result()?;
//!     println!("{} bytes", report.stats.stream.bytes);
//!     for connection in report.connections {
//!         println!("{}: {:?}", connection.peer.address, connection.end);
//!     }
//!     Ok(ExitCode::SUCCESS)
//! }
//! ```
//!
//! What becomes of the payload is the matter of a sink: one of [`devmem::sink`], or
//! [one's own](devmem::sink::Sink). A program that serves without end calls [`Builder::until_stopped`] and
//! [`Ready::on_end`]. The crates below are re-exported, so that a program depends on this one only.
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

pub use devmem::engine::{End, Peer, Report, StopHandle};
pub use netdev::{NetNs, QueueId};
pub use udmabuf::Udmabuf;
pub use {devmem, dmabuf, netdev, nic, udmabuf};

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

/// So are those of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ProjectReadme;

/// And those of the document on GPUs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/gpu.md")]
struct GpuDocument;
