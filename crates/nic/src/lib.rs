//! What a NIC must look like to receive into device memory, as a plan that can be applied and
//! taken back.
//!
//! A queue that is bound to a dmabuf wants TCP headers split from payload and no threshold below
//! which they are not (`__netif_mp_open_rxq`), no traffic from RSS, and a rule that steers the
//! receiver's flow to it. A [`Plan`] says which of these; [`Plan::apply`] makes them true and
//! returns an [`Applied`], which puts the NIC back as it was when it is restored or dropped.

#![forbid(unsafe_code)]

mod apply;
mod rss;

pub use apply::{Applied, Error, Plan, Step};
pub use rss::without_queues;
