//! A TCP socket whose payload is in device memory: segments in stream order, tokens that must be
//! given back, and an event loop on top.
//!
//! Once a NIC's rx queue is bound to a dmabuf and a connection is steered to it, the payload of
//! that connection lands in the dmabuf and `recvmsg` says only where (`tcp_recvmsg_dmabuf` in
//! `net/ipv4/tcp.c`). [`DevmemStream`] turns that into [`Segment`]s: bytes that came in host memory,
//! and [`Frag`]s that name a place in a dmabuf. Each frag has a [`Token`], which goes back to the
//! kernel on the socket that issued it (`sock_devmem_dontneed` in `net/core/sock.c`), or the NIC
//! runs out of memory.
//!
//! ```no_run
//! use devmem::{DevmemStream, RecvBuffer, Segment};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let socket = std::net::TcpStream::connect("192.0.2.1:5000")?;
//! let mut stream = DevmemStream::new(socket);
//! let mut buffer = RecvBuffer::new();
//! loop {
//!     let mut received = stream.recv(&mut buffer)?;
//!     if received.is_end() {
//!         break;
//!     }
//!     while let Some(segment) = received.next() {
//!         match segment {
//!             Segment::Inline(bytes) => println!("{} bytes in host memory", bytes.len()),
//!             Segment::Frag(frag) => {
//!                 println!("{} bytes at {} of {}", frag.len, frag.offset, frag.dmabuf);
//!                 received.give_back(frag.token);
//!             }
//!         }
//!     }
//! }
//! stream.close()?;
//! # Ok(()) }
//! ```
//!
//! [`engine`] runs any number of listeners and connections on `mio`, on one thread or several, and hands the segments to a
//! [`sink::Sink`]. [`send`] is the way back: from a dmabuf to the peer. This crate knows no netlink: who binds the queue, and how, is not its business.
#![deny(unsafe_code)]

pub mod cmsg;
pub mod engine;
pub mod listen;
pub mod send;
pub mod sink;

mod buffer;
mod recycler;
mod returns;
mod segment;
mod stats;
mod stream;
mod sys;
mod telemetry;
mod token;

pub use buffer::{ProtocolError, RecvBuffer, RecvLimit};
pub use payload::pattern;
pub use recycler::{Kept, MAX_FRAGS, MAX_RANGES, RecycleError, Thresholds};
pub use returns::ReturnHandle;
pub use segment::{DmabufId, Frag, Received, Segment};
pub use stats::{StreamStats, TokenStats};
pub use stream::{DevmemStream, RecvError};
pub use telemetry::{Bucket, Histogram, Telemetry};
pub use token::Token;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
