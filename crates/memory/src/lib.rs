//! Device memory of any kind, chosen by a word: udmabuf, dma-heap, DRM, CUDA, an fd.
//!
//! [`Choice`] is the word, [`AnyMemory`] the memory. Whether a NIC can use the memory is decided by
//! the NIC's driver and the kernel at the time of binding.
//!
//! ```no_run
//! use dmabuf::Dmabuf;
//! use memory::{AnyMemory, Choice};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let choice: Choice = "heap:system".parse()?;
//! let memory = AnyMemory::make(&choice, Some(64 << 20), None)?;
//! assert_eq!(memory.len(), 64 << 20);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod any;
mod choice;
pub mod drm;
pub mod heap;
mod len;
pub mod passed;
mod sys;

pub use any::{AnyMemory, DEFAULT_LEN, Error, check_available};
pub use choice::{Choice, ParseChoiceError};
pub use len::{BadLen, check_len};
pub use udmabuf::Available;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
