//! What the receiving tools share: signals, payload sinks, standard streams, errors in words.

#![deny(unsafe_code)]
// They panic where nobody reads: see `common::stdio`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod payload;
pub mod signals;
pub mod sink;
pub mod stdio;
mod sys;

pub use error::{Hint, with_sources};
pub use payload::{Input, Output};
