//! Shared code of the receiving tools: signals, payload sinks, standard streams, errors.

#![deny(unsafe_code)]
// The macros panic when the stream is closed: see `common::stdio`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod payload;
pub mod remedy;
pub mod signals;
pub mod sink;
pub mod stdio;
mod sys;
pub mod text;

pub use error::Hint;
pub use payload::{Input, Output};
pub use undo::with_sources;
