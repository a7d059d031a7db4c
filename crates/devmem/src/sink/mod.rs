//! Sinks, which consume a connection's segments: check them, write them, sum them up, gather them,
//! or drop them.
//!
//! Anything that implements [`Sink`] may take them; those here read frags where they lie, through a
//! [`Memory`] of the bound dmabufs' mappings, and give each back as soon as it has been read. Those of
//! [`device`] leave that to whatever device has the memory.
//!
//! ```
//! use devmem::Received;
//! use devmem::sink::{Memory, Part, Sink, SinkError};
//!
//! /// Counts the newlines of a stream.
//! struct Lines {
//!     memory: Memory,
//!     lines: usize,
//! }
//!
//! impl Sink for Lines {
//!     fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
//!         let Self { memory, lines } = self;
//!         let mut count = |bytes: &[u8]| *lines += bytes.iter().filter(|&&byte| byte == b'\n').count();
//!         memory.read_all(received, |part| part.read_with(&mut count))
//!     }
//! }
//! ```

mod checksum;
pub mod device;
mod discard;
mod gather;
mod memory;
#[cfg(test)]
mod tests;
mod validate;
mod write;

use std::io;

use crate::pattern::{CheckError, Mismatch};
use crate::segment::{DmabufId, Received};

pub use checksum::Checksum;
pub use discard::Discard;
pub use gather::Gather;
pub use memory::{Memory, Part, Reading};
pub use validate::Validate;
pub use write::Write;

/// Why a sink failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A byte of the stream differs from the expected pattern.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A frag lies in a dmabuf that the sink doesn't have: its packet came through another
    /// binding's queue.
    #[error("a frag lies in {0}, which is not ours: flow steering")]
    ForeignDmabuf(DmabufId),
    /// The dmabuf could not be read.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The device that was to work on the payload failed.
    #[error(transparent)]
    Device(#[from] payload::DeviceError),
    /// The payload could not be written out.
    #[error("write payload")]
    Write(#[source] io::Error),
    /// The stream is longer than the sink's region.
    #[error("the stream is longer than the {capacity} bytes that there is room for")]
    Full {
        /// Length of the sink's region in bytes.
        capacity: usize,
    },
    /// Another error, for sinks of other crates.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl From<CheckError> for SinkError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Mismatch(mismatch) => mismatch.into(),
            CheckError::Memory(memory) => memory.into(),
        }
    }
}

/// Consumer of the segments of one connection, in stream order.
pub trait Sink {
    /// Consumes the segments that one `recvmsg` returned. Frags go back through
    /// [`Received::give_back`]; frags left in `received` go back by themselves. End all accesses to
    /// the dmabuf before returning: the frags go back to the NIC after that.
    ///
    /// # Errors
    /// Ends the connection.
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError>;

    /// Ends the sink after the last byte: the peer has closed its side.
    ///
    /// # Errors
    /// Counts as the connection's failure.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Ends the sink without the stream's end: the connection failed or the engine was stopped. A
    /// sink that keeps frags of its own accord gives them back now, or the engine waits for them
    /// ([`Config::returns`]).
    ///
    /// [`Config::returns`]: crate::engine::Config::returns
    fn abandon(&mut self) {}
}

impl<T: Sink + ?Sized> Sink for Box<T> {
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError> {
        (**self).consume(received)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        (**self).finish()
    }

    fn abandon(&mut self) {
        (**self).abandon();
    }
}
