//! Memory of NVIDIA GPUs as dmabufs, and the GPUs' work on payload in it.
//!
//! The driver's library is loaded at run time, so building needs nothing; without it
//! [`Driver::load`] fails. The kernels are embedded as PTX, which the driver compiles for its GPU.
//!
//! ```no_run
//! use cuda::Gpu;
//! use payload::{Batch, Device};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = Gpu::open(0)?.allocate(64 << 20)?; // a dmabuf: bind it to a queue, receive
//! let mut gpu = memory.worker(1 << 20)?;
//! let mut batch = Batch::default();
//! batch.push(4096, 1448, 0);
//! batch.push(20480, 1000, 1448);
//! gpu.gather(&batch)?; // 2448 bytes in a row, at gpu.destination()
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod buffer;
mod error;
mod gpu;
mod mapping;
mod parts;
mod sys;
mod worker;

pub use buffer::{Allocation, Buffer, DeviceMemory};
pub use error::{DriverError, Error};
pub use gpu::{DeviceInfo, Driver, Gpu, Version};
pub use mapping::Mapping;
pub use worker::Worker;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
