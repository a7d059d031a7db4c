//! Records of changes to the host that outlive their process, so that they can be undone.
//!
//! A change is noted in a file of the [runtime directory](RunDir) before it is made, together with the
//! [owner](Owner) that needs it and the value from before. A process that ends undoes its own changes; after one
//! that was killed, any other process that finds the record can.

#![forbid(unsafe_code)]

mod boot;
mod dir;
mod error;
mod lock;
mod owner;
mod probe;
mod setting;

pub use boot::Boot;
pub use dir::RunDir;
pub use error::{RunDirError, with_sources};
pub use lock::Locked;
pub use owner::{Life, Owner};
pub use setting::Setting;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
