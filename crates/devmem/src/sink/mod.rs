//! Where the segments go: checked, written out, summed up, gathered, or dropped.
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

/// Why a sink took no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A byte of the stream is wrong.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A frag lies in a dmabuf that the sink doesn't have: its packet came through another
    /// binding's queue.
    #[error("a frag lies in {0}, which is not ours: flow steering")]
    ForeignDmabuf(DmabufId),
    /// The dmabuf could not be read.
    #[error(transparent)]
    Memory(#[from] dmabuf::Error),
    /// The device that was to work on the payload did not.
    #[error(transparent)]
    Device(#[from] payload::DeviceError),
    /// The payload could not be written out.
    #[error("write payload")]
    Write(#[source] io::Error),
    /// There is no room for all of the stream.
    #[error("the stream is longer than the {capacity} bytes that there is room for")]
    Full {
        /// Bytes that there is room for.
        capacity: usize,
    },
    /// Anything else, for sinks of others.
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

/// Takes the segments of one connection, in stream order.
pub trait Sink {
    /// Takes what one `recvmsg` brought. Frags go back through
    /// [`Received::give_back`]; those left in `received` go back by themselves. End all accesses
    /// to the dmabuf before returning: the frags go back to the NIC after that.
    ///
    /// # Errors
    /// Ends the connection.
    fn consume(&mut self, received: &mut Received<'_>) -> Result<(), SinkError>;

    /// The peer has closed its side; nothing follows.
    ///
    /// # Errors
    /// Counts as the connection's failure.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// The connection ends otherwise: nothing follows. A sink that keeps frags of its own accord
    /// gives them back now, or the engine waits for them ([`Config::returns`]).
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
