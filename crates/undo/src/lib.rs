//! Records of changes to the host that outlive their process, so that they can be undone.
//!
//! A change is noted in a file of the [runtime directory](RunDir) before it is made, together with the
//! [owner](Owner) that needs it and the value from before. A process that ends undoes its own changes; after one
//! that was killed, any other process that finds the record can.

#![forbid(unsafe_code)]

mod dir;
mod owner;

pub use dir::{Locked, RunDir, RunDirError, boot_id, is_boot_id_masked};
pub use owner::{Life, Owner};

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
