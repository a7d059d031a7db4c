//! What is done to payload that lies in pieces: gathered into one region, held against a pattern,
//! summed up. On the CPU here ([`Host`]), on other devices by whoever implements [`Device`].
//!
//! Pieces are told in a [`Batch`] of [`Descriptor`]s, in a layout that a device reads as it is.
#![forbid(unsafe_code)]

mod batch;
pub mod crc;
mod device;
mod host;
pub mod pattern;

pub use batch::{Batch, BatchError, Descriptor};
pub use device::{Device, DeviceError};
pub use host::Host;

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
