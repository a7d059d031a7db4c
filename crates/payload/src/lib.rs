//! Work on payload that is scattered in pieces: gathering into one region, comparison with a
//! pattern, checksums. [`Host`] does it on the CPU; other devices implement [`Device`].
//!
//! A [`Batch`] consists of [`Descriptor`]s of the pieces, in a layout that a device reads as it is.
#![forbid(unsafe_code)]

mod batch;
pub mod crc;
mod device;
mod host;
pub mod pattern;

pub use batch::{Batch, BatchError, Descriptor};
pub use device::{Device, DeviceError};
pub use host::Host;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
