//! The netdev, ethtool and rtnetlink families: queues, leases, bindings, rings, RSS, links.
//!
//! Four handles, each with a socket in the network namespace in which it was opened:
//! - [`Netdev`]: queues, leases ([`Netdev::lease`]), bindings of dmabufs ([`Netdev::bind_rx`]),
//!   page pools, per-queue statistics, NAPI instances;
//! - [`Ethtool`]: rings and header split, channels, RSS, features, flow rules;
//! - [`Link`]: netkit, namespaces, addresses, routes;
//! - [`Netfilter`]: the firewall's chains for forwarded packets.
//!
//! Errors are the [`Error`]s of netlink: operation, object, and the kernel's own words.

#![deny(unsafe_code)]

mod ethtool;
mod family_socket;
mod ids;
mod link;
mod queues;
mod netfilter;
mod parse;
mod shell;
mod sys;

pub use ethtool::*;
pub use ids::*;
pub use link::*;
pub use queues::*;
pub use netfilter::{ForwardChain, Netfilter, TableFamily};
pub use netlink::{Error, ExtAck, NetNs, ParseError, Result, SeenNetNs, VisibleNetNs};
pub use shell::{shell_command, shell_word};

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
