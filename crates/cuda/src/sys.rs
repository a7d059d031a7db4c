//! The driver's C interface: its functions, and the objects that they make, each of which is freed
//! when it is dropped.
#![allow(unsafe_code)]

mod api;
mod context;
mod device;
mod memory;
mod work;

pub(crate) use api::LIBRARY;
pub(crate) use context::Context;
pub(crate) use device::{Attribute, Driver};
pub(crate) use memory::{Memory, Pinned, page_size};
pub(crate) use work::{Argument, Event, Kernel, Module, Stream};
