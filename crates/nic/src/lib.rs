//! Settings of a NIC for receiving into device memory, as a plan that can be applied and undone,
//! however its owner ends.
//!
//! A queue that is bound to a dmabuf wants TCP headers split from payload and no threshold below
//! which they are not (`__netif_mp_open_rxq`), no traffic from RSS, and a rule that steers the
//! receiver's flow to it. A [`Plan`] says which of these; [`Plan::apply`] makes them true, reads
//! back what the driver kept, and returns an [`Applied`], which puts the NIC back as it was when it
//! is restored or dropped.
//!
//! Several receivers can share a NIC. What it was before the first of them, and what each of them
//! needs, stands in a journal under the [runtime directory](RunDir), written before each change.
//! Whoever ends takes its own needs back: the NIC becomes what it was, with the needs of the others.
//! A [guardian](guardian()) process does so for an owner that was killed, and [`restore`] for one
//! whose guardian was killed too.

#![forbid(unsafe_code)]

mod added;
mod applied;
mod channels;
mod checks;
mod claim;
mod end;
mod error;
mod goals;
mod guardian;
mod held;
mod identity;
mod journal;
mod leaving;
mod nic;
mod plan;
mod presence;
mod preview;
mod restore;
mod rss;
#[cfg(test)]
mod scratch;
mod settle;
mod shared_setting;
mod spread;
mod unix_diag;
mod values;

pub use applied::Applied;
pub use error::Error;
pub use guardian::guardian;
pub use held::{Held, held};
pub use plan::{Change, Plan};
pub use restore::{Outcome, Restored, State, Which, restore, state, would_restore};
pub use rss::without_queues;
pub use undo::{Owner, RunDir, RunDirError};

/// Compiles the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
