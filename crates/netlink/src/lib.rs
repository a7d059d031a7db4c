//! A blocking netlink socket that reports the kernel's refusals in its own words.
//!
//! A [`Socket`] belongs to the network namespace ([`NetNs`]) in which it was opened. It sends a
//! [`Request`] and returns the answers as [`Message`]s, whose attributes [`Attrs`] parses.
//! [`Socket::listen`] turns it into a [`Listener`] for notifications. A refusal is an [`Error`]
//! with the operation, the object and the text of the extended acknowledgement: `bind-rx nk0 queue
//! 1: tcp-data-split is disabled (EINVAL)`.
//!
//! Commands and attributes are defined by the crates above, one module for each family.

#![forbid(unsafe_code)]

mod attr;
mod describe;
mod error;
mod extack;
mod generic;
mod message;
mod netns;
mod socket;
#[cfg(test)]
mod tests;
mod visible;
mod write;

pub use attr::{Attr, Attrs, ParseError};
pub use describe::{AttrSpec, FindMessageSpec, MessageSpec};
pub use error::{Error, Result};
pub use extack::{ExtAck, Policy};
pub use generic::Family;
pub use message::{Message, Request};
pub use netns::NetNs;
pub use socket::{Listener, Socket};
pub use visible::{SeenNetNs, VisibleNetNs};
pub use write::Writer;

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
