//! The netdev, ethtool and rtnetlink families: queues, leases, bindings, rings, RSS, links.
//!
//! Four handles, each with a socket in the network namespace in which it was opened, and a module
//! each with the types of its questions and answers:
//! - [`Netdev`], [`queues`]: queues, leases ([`Netdev::lease`]), bindings of dmabufs
//!   ([`Netdev::bind_rx`]), page pools, per-queue statistics, NAPI instances;
//! - [`Ethtool`], [`ethtool`]: rings and header split, channels, RSS, features, flow rules;
//! - [`Link`], [`link`]: netkit, namespaces, addresses, routes;
//! - [`Netfilter`], [`netfilter`]: the firewall's chains for forwarded packets.
//!
//! Errors are the [`Error`]s of netlink: operation, object, and the kernel's own words.

#![deny(unsafe_code)]

pub mod ethtool;
mod family_socket;
mod ids;
pub mod link;
pub mod netfilter;
mod parse;
pub mod queues;
mod shell;
mod sys;

pub use ethtool::Ethtool;
pub use ids::*;
pub use link::Link;
pub use netfilter::Netfilter;
pub use netlink::{Error, ExtAck, NetNs, ParseError, Result, SeenNetNs, VisibleNetNs};
pub use queues::Netdev;
pub use shell::{shell_command, shell_word};

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
