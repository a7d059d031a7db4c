//! Sending from a dmabuf.
//!
//! `sendmsg` with the control message `SCM_DEVMEM_DMABUF` and `MSG_ZEROCOPY` takes offsets into a
//! dmabuf that was bound with `bind-tx` where it takes addresses otherwise
//! (`zerocopy_fill_skb_from_devmem` in `net/core/datagram.c`). The bytes stay where they are until
//! the peer has acknowledged them; then the error queue says so
//! (`Documentation/networking/msg_zerocopy.rst`). [`DevmemSender`] keeps many sends in flight and
//! knows which ranges are still the kernel's; [`Ring`] hands them out in turn; [`pump`] does both
//! for a reader.
//!
//! ```no_run
//! use devmem::{DmabufId, send::{DevmemSender, Until}};
//! use std::time::Duration;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (id, len) = (DmabufId::new(7), 4096);
//! let socket = std::net::TcpStream::connect("192.0.2.1:5000")?;
//! let mut sender = DevmemSender::new(socket, id, len)?;
//! let accepted = sender.send(&[0..1000, 2000..3000])?;
//! sender.drain(Duration::from_secs(10))?;
//! # assert_eq!(accepted, 2000);
//! # Ok(()) }
//! ```

mod error;
mod flight;
mod liveness;
mod pump;
mod ring;
mod sender;

pub use error::{CompletionError, SendError};
pub use flight::{InFlightRanges, UnknownCompletion};
pub use liveness::{unacknowledged, watch_peer};
pub use pump::{PumpConfig, PumpError, pump};
pub use ring::Ring;
pub use sender::{DevmemSender, MAX_RANGES, SendStats, Until};
