//! What the receiving tools share: signals, payload sinks, standard streams, errors in words.

#![forbid(unsafe_code)]

mod error;
pub mod signals;
pub mod sink;
pub mod told;

pub use error::{Hint, with_sources};
